"""Base class of all mitigations, and the registry that `@mitigation` adds them to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar, get_args

from torch import Tensor, nn

from plasticity.network_spec import NetworkSpec
from plasticity.optim.settings import RegularizerSettings

if TYPE_CHECKING:
    from plasticity.mitigations.context import Context

PLAIN = "none"
"""Name of the method without a mitigation: the plain optimizer."""

Kind = Literal[
    "decay", "penalty", "unit reset", "weight reset", "projection", "network", "optimizer", "other"
]
"""Means by which mitigations act."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of mitigations, in the order of lists."""

_Class = TypeVar("_Class", bound="type[Mitigation]")


@dataclass(frozen=True, kw_only=True)
class Mitigation:
    """Settings of one way to keep a network plastic, validated where they are made.

    The hooks below say what a mitigation does; each does nothing unless a subclass overrides it. They are
    called in the order in which they stand here, and those of several mitigations in the order of the method,
    but for those that say `comes_last`. All are written over leading dimensions `...`: none for one network,
    (R,) for R stacked ones, where a field of floats may be a tensor of shape (R,): use it through
    `context.per_run`.

    Examples:
        >>> class Halve(Mitigation):
        ...     name = "halve"
        ...     def boundary(self, context):
        ...         for weight in context.parameters.values():
        ...             weight.mul_(0.5)
        >>> model = nn.Linear(1, 1)
        >>> before = model.weight.item()
        >>> attach(model, torch.optim.SGD(model.parameters(), lr=0.1), Halve()).boundary(task=1)
        >>> model.weight.item() == before / 2
        True
    """

    name: ClassVar[str]
    """Name in `--methods` and in option names, given by `@mitigation`."""

    claims: ClassVar[str | tuple[str, ...]] = ""
    """Part of the training that the mitigation decides, or several. Two that claim the same cannot be
    combined. Empty: it goes with any other."""

    search: ClassVar[Mapping[str, tuple[float, ...]]] = {}
    """Values that a sweep without a grid tries, by field."""

    kind: ClassVar[Kind] = "other"
    """Means by which it acts; lists are grouped by it."""

    stackable: ClassVar[bool] = True
    """Whether stacked networks can have it. Runs of one that is not have a process each."""

    reads_roles: ClassVar[bool] = False
    """Whether the hooks use `context.roles`."""

    reads_units: ClassVar[bool] = False
    """Whether the hooks use `context.units` or `context.features`."""

    records_features: ClassVar[bool] = True
    """Whether `context.features` is recorded in the steps of its hooks, if it reads units at all."""

    reads_example: ClassVar[bool] = False
    """Whether `initial_state` uses `context.example`."""

    reads_batches: ClassVar[bool] = False
    """Whether `boundary` uses `context.batches`, which only a learner of examples has."""

    comes_last: ClassVar[bool] = False
    """Whether the hooks of steps and tasks are called after those of the other mitigations, whatever the
    order of the method: of one that puts weights back that no other may change."""

    comes_first: ClassVar[bool] = False
    """Whether its hooks of steps are called before those of the other mitigations, whatever the order of the
    method: of one that is part of the optimizer's step, which projections and resets follow."""

    memories: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names in its state, `memory/PARAMETER`, of tensors shaped as the parameter that belong to
    its weights as an optimizer's moments do: where weights are reset, both are set to 0."""

    penalizes_features: ClassVar[bool] = False
    """Whether `penalty` depends on `context.features`, and not only on weights and inputs."""

    reads_gradients: ClassVar[bool] = True
    """Whether `before_step` or `after_step` uses `context.gradients` or `context.moved`. Where none does, a
    learner may update the weights without storing gradients."""

    reads_task_gradients: ClassVar[bool] = False
    """Whether the hooks need gradients of the task's loss alone: not with a mitigation that has a penalty."""

    @property
    def cadence(self) -> int:
        """Optimizer steps from one call of `after_step` to the next."""
        return int(getattr(self, "every", 1))

    @property
    def needs_logits(self) -> bool:
        """Whether it takes the network's outputs for logits of one distribution."""
        return False

    # ---- before the training --------------------------------------------------------------------

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification that the network is to be built from.

        Args:
            spec: Specification as the mitigations before this one left it.
        """
        return spec

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Change the initial weights of a network in place, before its optimizer is made.

        Args:
            network: One network, before it is stacked with others.
            seed: Seed of the anchors of this network.
        """

    def optimizer(self, settings: RegularizerSettings) -> RegularizerSettings:
        """Return the settings with which the optimizer is to regularize the network.

        Args:
            settings: Settings as the mitigations before this one left them, with the run's `anchor_seed`.
        """
        return settings

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the state at the beginning, which the hooks below find and change in `context.state`.

        It is saved and loaded with the network. Shape of each tensor: (..., *shape).
        """
        return {}

    # ---- at every step --------------------------------------------------------------------------

    def penalty(self, context: Context) -> Tensor | None:
        """Return a term of each network's loss, with a graph of gradients. Shape: (...).

        Like `before_step`, it is part of a compiled step, which is a CUDA graph on a GPU: it must be a
        function of the context's tensors alone, and neither draw nor use `context.step`.
        """
        return None

    def before_step(self, context: Context) -> None:
        """Act before an optimizer step, when the gradients are there, unscaled and clipped."""

    def after_step(self, context: Context) -> None:
        """Act after every optimizer step, or, if there is a setting `every`, after each so many steps.

        A step that a `GradScaler` skipped is none.
        """

    # ---- between and after tasks ----------------------------------------------------------------

    def boundary(self, context: Context) -> None:
        """Act when a task has ended, before the first step on the next one.

        It is called for each network by itself: without leading dimensions, and with plain numbers as fields.
        """

    def evaluation_parameters(self, context: Context) -> Mapping[str, Tensor] | None:
        """Return the parameters to measure and evaluate the network with, by name; None: those it trains."""
        return None


MITIGATIONS: dict[str, type[Mitigation]] = {}
"""Classes of mitigations, by name."""


def mitigation(name: str) -> Callable[[_Class], _Class]:
    """Register a mitigation under a name.

    Raises:
        ValueError: if the name is taken, or contains a character that options or folders cannot hold.

    Examples:
        >>> from plasticity.mitigations import MITIGATIONS, Mitigation, mitigation
        >>> @mitigation("halve")
        ... class Halve(Mitigation):
        ...     def boundary(self, context):
        ...         for weight in context.parameters.values():
        ...             weight.mul_(0.5)
        >>> MITIGATIONS.pop("halve").name  # taken off again, for this example only
        'halve'
    """

    def register(kind: _Class) -> _Class:
        if name in MITIGATIONS or name == PLAIN:
            raise ValueError(
                f"There is a method {name!r} already: give the mitigation another name."
            )
        if not name.replace("-", "").isalnum() or name != name.lower():
            raise ValueError(
                f"A mitigation's name has lower-case letters, digits and hyphens only: {name!r}."
            )
        kind.name = name
        MITIGATIONS[name] = kind
        return kind

    return register


@dataclass(frozen=True, kw_only=True)
class Decay(Mitigation):
    """Decay of all weights toward an anchor.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "decay"
    claims: ClassVar[str] = "the decay"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}

    strength: float = 1e-3
    """Strength of the decay, as torch's weight_decay."""

    decoupled: bool | None = None
    """Decay apart from the gradient, as AdamW. None: as the optimizer's own weight decay."""

    def __post_init__(self) -> None:
        self.optimizer(RegularizerSettings())  # which checks the values

    def optimizer(self, settings: RegularizerSettings) -> RegularizerSettings:
        """Return the settings of the decay."""
        return replace(
            settings, regularizer=self.name, strength=self.strength, decoupled=self.decoupled
        )
