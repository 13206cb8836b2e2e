"""Regularizer settings of one parameter group, validated on construction."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from plasticity.checks import MAX_SEED, nearest, require_integer, require_number

REGULARIZERS = ("none", "weight-decay", "syre", "l2-init")
"""Names of the regularizers."""


@dataclass(frozen=True)
class RegularizerSettings:
    """Regularizer settings of one parameter group.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; for an unknown regularizer the message names the nearest.

    Examples:
        >>> RegularizerSettings(regularizer="syre", strength=1e-3, sigma=0.3).sigma
        0.3
    """

    regularizer: str = "none"
    """Name of the regularizer, one of `REGULARIZERS`."""

    strength: float = 0.0
    """Strength in the sense of torch's `weight_decay`: the penalty is strength / 2 * |theta - anchor|^2.
    At least 0."""

    sigma: float = 0.01
    """Spread of syre's anchor: its standard deviation is sigma / sqrt(fan-in). At least 0.
    0.01 is the paper's default and hardly differs from weight decay; effects were seen from 0.3 upward."""

    anisotropy: float = 0.0
    """Standard deviation of syre's factors D (Eq. 7), at least 0 and below 1/sqrt(3) = 0.577."""

    decoupled: bool | None = None
    """Whether the decay is separate from the gradient (AdamW) or added to it (Adam). None: as in the base."""

    anchor_seed: int | None = None
    """Seed of syre's anchor, from 0 to 2**64 - 1. None: `torch.initial_seed()`, read once and stored in the
    groups that draw anchors."""

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
        # Converted to plain numbers: a checkpoint holds nothing else.
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
"""Keys that a regularized optimizer adds to every parameter group."""

DERIVED_KEYS = ("fan_in", "anchor_position", "unknown_layouts")
"""Further keys of its groups: the fan-ins that scale the anchors, the position that they are drawn from,
and the names of parameters whose fan-in is a guess."""


_MISSPELT_FROM = 0.7
"""Similarity (by difflib) from which a key is taken for a misspelt name."""


def require_not_misspelt(key: str, foreign: Iterable[str], base_keys: Iterable[str]) -> None:
    """Raise an error if a key of a parameter group looks like a misspelt setting.

    torch keeps any key of a group, and so users add their own (`lr_scale`, `use_muon`).

    Args:
        key: Key of the group.
        foreign: Names that are known and that no key is compared with.
        base_keys: Names that the base optimizer reads. A longer name that starts or ends with one of
            them, such as `max_momentum`, does not count as a misspelling of it.

    Raises:
        ValueError: if the key is misspelt; the message names the intended setting.
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
            f"{', '.join(map(repr, (*own, *base)))}. (Give a key of your own a less similar name.)"
        )
