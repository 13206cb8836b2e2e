"""The regularizer settings of one parameter group, checked where they are made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from plasticity.checks import MAX_SEED, nearest, require_integer, require_number

REGULARIZERS = ("none", "weight-decay", "syre", "l2-init")
"""What a parameter group can be regularized with."""


@dataclass(frozen=True)
class RegularizerSettings:
    """How one parameter group is regularized.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; an unknown regularizer names the nearest known one.
    """

    regularizer: str = "none"
    """One of `REGULARIZERS`."""

    strength: float = 0.0
    """Of torch's `weight_decay`: the penalty is strength / 2 * |theta - anchor|^2. At least 0."""

    sigma: float = 0.01
    """Spread of syre's anchor: its standard deviation is sigma / sqrt(fan-in). At least 0.
    0.01 is the paper's default and hardly differs from weight decay; effects showed at 0.3 and up."""

    anisotropy: float = 0.0
    """Standard deviation of syre's factors D (Eq. 7), 0 to below 1/sqrt(3) = 0.577."""

    decoupled: bool | None = None
    """Decay apart from the gradient, as AdamW, or joined to it, as Adam. None: as the base does."""

    anchor_seed: int | None = None
    """Seed of syre's anchor, 0 to 2**64 - 1. None: `torch.initial_seed()`, read once and stored."""

    def __post_init__(self) -> None:
        if not isinstance(self.regularizer, str):
            raise TypeError(
                f"regularizer must be a string, not {self.regularizer!r}."
                f" Known: {', '.join(map(repr, REGULARIZERS))}."
            )
        if self.regularizer not in REGULARIZERS:
            raise ValueError(
                f"Unknown regularizer {self.regularizer!r}.{nearest(self.regularizer, REGULARIZERS)}"
            )
        # Kept as plain numbers, whatever number came: a checkpoint holds nothing else.
        for name, below in (
            ("strength", math.inf),
            ("sigma", math.inf),
            # At 1/sqrt(3) a factor could be 0, and its coordinate would no longer be decayed.
            ("anisotropy", 1 / math.sqrt(3)),
        ):
            number = require_number(name, getattr(self, name), minimum=0.0, below=below)
            object.__setattr__(self, name, number)
        if self.decoupled is not None and not isinstance(self.decoupled, bool):
            raise TypeError(f"decoupled must be True, False or None, not {self.decoupled!r}.")
        if self.anchor_seed is not None:
            seed = require_integer("anchor_seed", self.anchor_seed, minimum=0, maximum=MAX_SEED)
            object.__setattr__(self, "anchor_seed", seed)


SETTING_NAMES = tuple(field.name for field in fields(RegularizerSettings))
"""The keys that a regularized optimizer adds to every parameter group."""

DERIVED_KEYS = ("fan_in", "anchor_position", "unknown_layouts")
"""More keys of its groups: what the anchors are scaled by and drawn from, and the names of parameters
whose fan-in is a guess."""


_MISSPELT_FROM = 0.7
"""Similarity (of difflib) from which a key is taken for a misspelt name."""


def require_not_misspelt(key: str, foreign: Iterable[str], base_keys: Iterable[str]) -> None:
    """Refuse a key of a parameter group that is nearly the name of a setting, and is none.

    torch keeps any key of a group, and so users put keys of their own there (`lr_scale`, `use_muon`).

    Args:
        key: The group's.
        foreign: Names that are known and to which nothing is compared.
        base_keys: Names that the base optimizer reads. A longer name with one of them in it, such as
            `max_momentum`, is another one.

    Raises:
        ValueError: names the setting that is meant.
    """
    own, base = (*SETTING_NAMES, *DERIVED_KEYS), tuple(base_keys)
    if key in own or key in base or key in foreign:
        return
    written = key.lower().replace("-", "_")
    longer = [n for n in base if written.startswith(f"{n}_") or written.endswith(f"_{n}")]
    compared = [name for name in (*own, *base) if len(name) > 3 and name not in longer]
    meant = difflib.get_close_matches(written, compared, n=1, cutoff=_MISSPELT_FROM)
    if written in (*own, *base):
        meant = [written]
    if meant:
        raise ValueError(
            f"Unknown parameter group key {key!r}. Did you mean {meant[0]!r}? Known: "
            f"{', '.join(map(repr, (*own, *base)))}. (A key of your own needs another name.)"
        )
