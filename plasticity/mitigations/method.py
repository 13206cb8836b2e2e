"""Methods: no, one or several mitigations that a run trains with, written `first+second`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from plasticity.checks import require_known
from plasticity.mitigations.base import MITIGATIONS, PLAIN, Mitigation
from plasticity.mitigations.stacked_settings import overrides
from plasticity.network_spec import NetworkSpec
from plasticity.optim.settings import RegularizerSettings

METHOD_SEPARATOR = "+"


def method_name(mitigations: Sequence[Mitigation]) -> str:
    """Return the name of a method: those of its mitigations, joined by `+`; "none" if there are none.

    Args:
        mitigations: Mitigations in the order in which they are applied.

    Examples:
        >>> from plasticity.mitigations import ReDo, Syre
        >>> method_name([ReDo(), Syre()])
        'redo+syre'
    """
    return METHOD_SEPARATOR.join(each.name for each in mitigations) or PLAIN


def mitigation_names(method: str) -> tuple[str, ...]:
    """Return the names of a method's mitigations, in the order written; none for "none".

    Raises:
        TypeError: if the method is not text.
        ValueError: if a mitigation is unknown (the message suggests the nearest), or if two claim the
            same part of the training.

    Examples:
        >>> mitigation_names("redo+syre"), mitigation_names("none")
        (('redo', 'syre'), ())
    """
    if not isinstance(method, str):
        raise TypeError(f"A method must be a name, not {method!r}.")
    if method == PLAIN:
        return ()
    names = tuple(method.split(METHOD_SEPARATOR))
    if "" in names:
        raise ValueError(
            f"{method!r} has no mitigation on one side of {METHOD_SEPARATOR!r}: write first+second."
        )
    for name in names:
        require_known("method", name, (PLAIN, *MITIGATIONS))
        if name == PLAIN:
            raise ValueError(f"{PLAIN!r} stands alone: write {method!r} without it.")
    _require_disjoint([MITIGATIONS[name] for name in names])
    return names


def require_compatible(mitigations: Sequence[Mitigation]) -> None:
    """Raise an error unless these can be one method.

    Raises:
        TypeError: if one is not a mitigation.
        ValueError: if two claim the same part of the training, or one needs gradients that another changes.

    Examples:
        >>> from plasticity.mitigations import Syre, WeightDecay
        >>> require_compatible([Syre(), WeightDecay()])
        Traceback (most recent call last):
        ValueError: syre and weight-decay both set ...
    """
    for each in mitigations:
        if not isinstance(each, Mitigation):
            raise TypeError(f"method must be a tuple of mitigations, not of {each!r}.")
    _require_disjoint([type(each) for each in mitigations])


def _require_disjoint(kinds: Sequence[type[Mitigation]]) -> None:
    _require_task_gradients(kinds)
    claimed: dict[str, str] = {}
    for kind in kinds:
        for claim in (kind.claims,) if isinstance(kind.claims, str) else kind.claims:
            if claim and claim in claimed:
                raise ValueError(
                    f"{claimed[claim]} and {kind.name} both set {claim}: leave one out."
                )
            claimed[claim] = kind.name


def _require_task_gradients(kinds: Sequence[type[Mitigation]]) -> None:
    reading = next((each for each in kinds if each.reads_task_gradients), None)
    penalty = next((each for each in kinds if each.penalty is not Mitigation.penalty), None)
    if reading is not None and penalty is not None:
        raise ValueError(
            f"{reading.name} compares units by the gradients of the task's loss, which the penalty of"
            f" {penalty.name} would be part of: leave one out, or take a mitigation that looks at features,"
            " such as redo."
        )


def network_spec(mitigations: Sequence[Mitigation], spec: NetworkSpec) -> NetworkSpec:
    """Return the specification that a method's network is built from.

    Args:
        mitigations: Mitigations of the method, applied in this order.
        spec: Specification without a mitigation.

    Examples:
        >>> from plasticity.mitigations import LayerNorm
        >>> from plasticity.network_spec import NetworkSpec
        >>> spec = NetworkSpec(input_shape=(1, 8, 8), output_size=10)
        >>> network_spec([LayerNorm()], spec).layer.normalization is None
        False
    """
    for each in mitigations:
        spec = each.network(spec)
    return spec


def regularizer_settings(
    mitigations: Sequence[Mitigation], anchor_seed: int | None = None
) -> RegularizerSettings:
    """Return the settings with which a method's optimizer regularizes a network.

    Args:
        mitigations: Mitigations of the method, applied in this order.
        anchor_seed: Seed of a random anchor, if one is drawn. None: `torch.initial_seed()`.

    Examples:
        >>> from plasticity.mitigations import Syre
        >>> regularizer_settings([Syre(sigma=0.3)]).sigma
        0.3
    """
    settings = RegularizerSettings(anchor_seed=anchor_seed)
    for each in mitigations:
        settings = each.optimizer(settings)
    return settings


@dataclass(frozen=True)
class SeededMethod:
    """Mitigations of one network, and the seeds of all that they draw.

    Examples:
        >>> from plasticity.mitigations import SeededMethod, Syre
        >>> method = SeededMethod((Syre(strength=1e-3),), anchor_seed=0)
        >>> method.regularizer.strength
        0.001
    """

    mitigations: tuple[Mitigation, ...] = ()
    """Mitigations, in the order in which they are applied."""

    anchor_seed: int | None = None
    """Seed of random anchors. None: `torch.initial_seed()`."""

    noise_seed: int = 0
    """Seed of what is drawn while the network is trained."""

    def __post_init__(self) -> None:
        require_compatible(self.mitigations)

    @property
    def regularizer(self) -> RegularizerSettings:
        """Settings with which the optimizer regularizes the network."""
        return regularizer_settings(self.mitigations, self.anchor_seed)

    def prepare(self, network: nn.Module) -> None:
        """Change the initial weights of a network as the mitigations ask for, before its optimizer is made.

        Args:
            network: One network, changed in place, before it is stacked with others.
        """
        seed = torch.initial_seed() if self.anchor_seed is None else self.anchor_seed
        for each in self.mitigations:
            each.initial_weights(network, seed)


def added_entries(network: nn.Module, method: SeededMethod) -> list[str]:
    """Return the names of what a method would add to a network's state, without changing the network."""
    if not any(overrides(each, "initial_weights") for each in method.mitigations):
        return []
    copied = copy.deepcopy(network)
    method.prepare(copied)
    return [name for name in copied.state_dict() if name not in network.state_dict()]


PLAIN_METHOD = SeededMethod()
"""Method without mitigations."""
