"""Optimizer classes that `policy_kwargs` gives to a policy, which distinguish actor and critic.

A Stable-Baselines3 policy builds its own optimizer, `optimizer_class(parameters, lr=…, **kwargs)`, from
bare parameters, without names or owners. Groups made later, on a finished model, would be lost on
`PPO.load`, which builds the policy again from its keyword arguments alone. The class therefore finds the
policy that is being built (`_building_module`), reads the parameters' names there, and passes groups
named "actor", "critic" and "left alone" to `RegularizedOptimizer`.

This module does not import Stable-Baselines3; it only uses the names in its policies and sb3-contrib's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.optim import regularizers
from plasticity.optim.agreement import agreed_seed
from plasticity.optim.fan_in import NO_FAN_IN, model_layouts
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import Member, warn_of_unknown_layouts
from plasticity.optim.settings import SETTING_NAMES, RegularizerSettings
from plasticity.optim.transferred_groups import sources_of
from plasticity.seeds import child_seed

ACTOR, CRITIC, LEFT_ALONE = "actor", "critic", "left alone"
"""Names of the groups, in order."""

ROLES = {
    "actor": ACTOR,
    "policy_net": ACTOR,
    "action_net": ACTOR,
    "pi_features_extractor": ACTOR,
    "features_extractor": ACTOR,  # if shared; a separate one is inside "critic", "q_net", …
    "lstm_actor": ACTOR,
    "critic": CRITIC,
    "value_net": CRITIC,
    "vf_features_extractor": CRITIC,
    "lstm_critic": CRITIC,
    "q_net": CRITIC,
    "quantile_net": CRITIC,
}
"""Owners of parameters: the first of these names in a parameter's path through the policy decides."""


class PolicyOptimizer(RegularizedOptimizer):
    """Mixin for the classes made by `policy_optimizer`. Not used on its own.

    Args:
        params: Parameters of a policy, from inside one of its methods; or the groups of another such
            optimizer (`optimizer.param_groups`), which keep their settings and anchors.
        *args: Positional arguments of the base.
        actor: `RegularizerSettings` of the actor, as a mapping, since a saved model can only hold that.
        critic: `RegularizerSettings` of the critic, likewise as a mapping.
        **kwargs: Keyword arguments of the base.

    Not regularized are a `log_std` that is itself a parameter, normalisation layers, and parameters that
    belong to another optimizer of the same policy (TD3's shared features extractor). Each group's
    `param_names` lists its parameters. An anchor is drawn from (child seed "actor" or "critic" of
    `anchor_seed`, position in the optimizer, element), so that no two networks of a policy share one.

    Raises:
        TypeError: if a setting has the wrong type, or the settings of actor or critic are missing.
        ValueError: if a setting is out of range, if the call does not come from a policy's method, or if
            actor and critic have different settings and a parameter's name does not say whose it is.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *args: Any,
        actor: Mapping[str, Any] | None = None,
        critic: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        parameters: list[Any] = list(params)
        if parameters and all(isinstance(each, dict) for each in parameters):
            sources = [source for group in parameters for source, _ in sources_of(group)]
            positions = [getattr(source, "_policy_places", []) for source in sources]
            self._policy_places: list[int] = positions[0] if positions else []
            super().__init__(parameters, *args, **kwargs)
            return
        if actor is None or critic is None:
            raise TypeError(
                "This optimizer needs actor={…} and critic={…}, the settings of each. To make a new one"
                " from it, pass its groups: type(optimizer)(optimizer.param_groups, lr=…)."
            )
        settings = {ACTOR: RegularizerSettings(**actor), CRITIC: RegularizerSettings(**critic)}
        groups = _policy_groups(_building_module(parameters), parameters, settings)
        position = {parameter: index for index, parameter in enumerate(parameters)}
        # Position of each parameter, in the order of the groups, in the policy's own list. Pickled
        # optimizers have this attribute, so its name must not change.
        self._policy_places = [position[p] for group in groups for _, p in group["params"]]
        super().__init__(groups, *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any], *, keep_settings: bool = False) -> None:
        """Load a state, which may be that of an optimizer with one group for the whole policy.

        Stable-Baselines3's own optimizers save such states; the settings of this optimizer are then kept.

        Args:
            state_dict: State returned by `state_dict` of this class or of the base.
            keep_settings: Whether to keep the present settings, as in `RegularizedOptimizer.load_state_dict`.

        Raises:
            TypeError: if a saved setting has the wrong type.
            ValueError: if the groups do not fit or a saved setting is out of range.
        """
        saved = state_dict["param_groups"]
        names = [group["name"] for group in self.param_groups]
        if len(saved) == 1 and len(saved[0]["params"]) == len(self._policy_places):
            state_dict = self._split(state_dict)
        super().load_state_dict(state_dict, keep_settings=keep_settings)
        for group, name in zip(self.param_groups, names, strict=True):
            group.setdefault("name", name)

    def _split(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Divide the single group of a saved state into the groups of this optimizer."""
        (saved,) = state_dict["param_groups"]
        if saved.get("name") in (ACTOR, CRITIC, LEFT_ALONE):
            return state_dict  # saved by this class and complete, for example of a Q-network
        ours = ("params", "param_names", "fan_in", "anchor_position", *SETTING_NAMES)
        of_base = {key: value for key, value in saved.items() if key not in ours}
        groups: list[dict[str, Any]] = []
        start = 0
        for group in self.param_groups:
            stop = start + len(group["params"])
            ids = [saved["params"][position] for position in self._policy_places[start:stop]]
            groups.append({**of_base, "params": ids})
            start = stop
        return {**state_dict, "param_groups": groups}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_policy_places": self._policy_places}


# ---- parameters of actor and critic -----------------------------------------------------------------


def role_of(name: str) -> str | None:
    """Return whether a parameter of a policy belongs to the actor or to the critic, from its name.

    Args:
        name: Name in `named_parameters` of the policy, such as "mlp_extractor.value_net.0.weight".

    Returns:
        "actor", "critic", or None if the name does not say.
    """
    return next((ROLES[part] for part in name.split(".") if part in ROLES), None)


def _policy_groups(
    policy: nn.Module, parameters: Sequence[nn.Parameter], settings: dict[str, RegularizerSettings]
) -> list[dict[str, Any]]:
    """Divide the parameters into the three groups; empty groups are omitted."""
    wanted, own_seed = set(parameters), torch.initial_seed()
    if any(each.regularizer == "syre" and each.anchor_seed is None for each in settings.values()):
        own_seed = agreed_seed(own_seed, parameters)
    layouts = model_layouts(policy)
    taken = _parameters_of_parts(policy)
    members: dict[str, list[tuple[str, nn.Parameter]]] = {ACTOR: [], CRITIC: [], LEFT_ALONE: []}
    for name, parameter in policy.named_parameters():
        if parameter not in wanted:
            continue
        is_log_std = name.split(".")[-1] == "log_std"  # SAC's layer of that name has a ".weight"
        layout = layouts[parameter]
        is_alone = layout.kind == "normalization" or layout.fan_in == NO_FAN_IN
        if is_log_std or is_alone or parameter in taken:
            members[LEFT_ALONE].append((name, parameter))
        else:
            members[role_of(name) or _undecided(name, settings)].append((name, parameter))
    groups: list[dict[str, Any]] = []
    for role, named in members.items():
        group: dict[str, Any] = {"name": role, "params": named}
        if role in settings:
            seed = settings[role].anchor_seed
            seed = own_seed if seed is None else seed
            group |= asdict(settings[role]) | {"anchor_seed": child_seed(seed, role)}
            group["fan_in"] = [layouts[parameter].fan_in for _, parameter in named]
            decayed = [Member(n, p, layouts[p], is_regularized=True) for n, p in named]
            warn_of_unknown_layouts(decayed, settings[role])
        if named:
            groups.append(group)
    return groups


def _parameters_of_parts(policy: nn.Module) -> set[Tensor]:
    """Return the parameters in the optimizers of a policy's parts, so that each is decayed only once."""
    optimizers = [getattr(part, "optimizer", None) for part in policy.children()]
    return {
        parameter
        for optimizer in optimizers
        if isinstance(optimizer, Optimizer)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _undecided(name: str, settings: dict[str, RegularizerSettings]) -> str:
    if settings[ACTOR] == settings[CRITIC]:
        return ACTOR  # either would do
    raise ValueError(
        f"The name of parameter {name!r} does not say whether it is the actor's or the critic's: give both"
        f" the same settings, or include one of these in its path: {', '.join(map(repr, ROLES))}."
    )


def _building_module(parameters: Sequence[Tensor]) -> nn.Module:
    """Find the module that is creating an optimizer of these parameters in one of its methods.

    There is no other way to find it: a parameter does not know its module, the policy passes nothing
    else, and hooks on every module in the process would slow all of them down. The `self` of each caller
    is inspected, innermost first, and accepted only if all of the parameters belong to it.

    Raises:
        ValueError: if there is no such module.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, nn.Module) and set(candidate.parameters()).issuperset(parameters):
            return candidate
        frame = frame.f_back
    raise ValueError(
        "This optimizer must be created by a policy, in one of its methods, but no calling module"
        " has these parameters: use regularized(…) and parameter_groups(model, …) instead."
    )


# ---- one class per base, which pickle finds by name (as in plasticity.optim.regularizers) ----------------

_PREFIX, _REGULARIZED_PREFIX = "Policy", "Regularized"

_CLASSES: dict[type[Optimizer], type[PolicyOptimizer]] = {}


def policy_optimizer(base: type[Optimizer]) -> type[PolicyOptimizer]:
    """Make a subclass of a torch optimizer that distinguishes the actor and the critic of a policy.

    Args:
        base: Optimizer class, as for `regularized`, or a class made by it.

    Returns:
        A subclass of `regularized(base)` and of `PolicyOptimizer`, made once for each base.

    Raises:
        TypeError: if `base` is not an optimizer class.
        ValueError: if decay cannot be added to this base.
    """
    parent = regularizers.regularized(base)
    if issubclass(parent, PolicyOptimizer):
        return parent
    if parent not in _CLASSES:
        name = _PREFIX + parent.__name__.removeprefix(_REGULARIZED_PREFIX)
        body = {"__module__": __name__, "__doc__": PolicyOptimizer.__doc__, "__qualname__": name}
        _CLASSES[parent] = type(name, (PolicyOptimizer, parent), body)
    return _CLASSES[parent]


def __getattr__(name: str) -> Any:
    """Return the class of a saved policy by its name: `PolicyAdam`, `Policy:package/module:Name`."""
    if name.startswith(_PREFIX):
        parent = getattr(regularizers, _REGULARIZED_PREFIX + name[len(_PREFIX) :], None)
        if parent is not None:
            return policy_optimizer(parent)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
