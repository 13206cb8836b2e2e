"""The optimizer class that `policy_kwargs` puts into a policy: it tells actor and critic apart.

A Stable-Baselines3 policy builds its own optimizer, `optimizer_class(parameters, lr=…, **kwargs)`,
with bare parameters: no names, and no word on whose they are. Groups made later, on a finished model,
would be lost on `PPO.load`, which builds the policy anew and knows nothing but its keyword arguments.
So the class finds the policy where it is being built (`_building_module`), reads the names there,
and hands `RegularizedOptimizer` groups named "actor", "critic" and "left alone".

Nothing here needs Stable-Baselines3: the names are those of its policies and of sb3-contrib's.
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
from plasticity.optim.parameter_groups import warn_of_unknown_layouts
from plasticity.optim.settings import SETTING_NAMES, RegularizerSettings
from plasticity.optim.transferred_groups import sources_of
from plasticity.seeds import child_seed

ACTOR, CRITIC, LEFT_ALONE = "actor", "critic", "left alone"
"""The names of the groups, in their order."""

ROLES = {
    "actor": ACTOR,
    "policy_net": ACTOR,
    "action_net": ACTOR,
    "pi_features_extractor": ACTOR,
    "features_extractor": ACTOR,  # if shared; one of its own stands inside "critic", "q_net", …
    "lstm_actor": ACTOR,
    "critic": CRITIC,
    "value_net": CRITIC,
    "vf_features_extractor": CRITIC,
    "lstm_critic": CRITIC,
    "q_net": CRITIC,
    "quantile_net": CRITIC,
}
"""Whose a parameter is: the first of these names in its path through the policy decides."""


class PolicyOptimizer(RegularizedOptimizer):
    """What every class made by `policy_optimizer` has beside its base. Not used by itself.

    Args:
        params: Parameters of a policy, from inside one of its methods; or the groups of another such
            optimizer (`optimizer.param_groups`), which keep their settings and anchors.
        *args: Positional arguments of the base.
        actor: `RegularizerSettings` of the actor, as a mapping: a saved model can hold nothing else.
        critic: Likewise.
        **kwargs: Keyword arguments of the base.

    Left alone are a `log_std` that is itself a parameter, normalisation layers, and what another
    optimizer of the same policy has already (TD3's shared features extractor). Each group's
    `param_names` says what is in it. An anchor is drawn from (child seed "actor" or "critic" of
    `anchor_seed`, position in the optimizer, element): no two networks of a policy share one.

    Raises:
        TypeError: if a setting has the wrong type, or those of actor or critic are missing.
        ValueError: if a setting is out of range, if no policy is found around the call, or if actor
            and critic differ and a parameter's name does not say whose it is.
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
            places = [getattr(source, "_policy_places", []) for source in sources]
            self._policy_places: list[int] = places[0] if places else []
            super().__init__(parameters, *args, **kwargs)
            return
        if actor is None or critic is None:
            raise TypeError(
                "This optimizer needs actor={…} and critic={…}, the settings of each. To make it again,"
                " hand on its groups: type(optimizer)(optimizer.param_groups, lr=…)."
            )
        settings = {ACTOR: RegularizerSettings(**actor), CRITIC: RegularizerSettings(**critic)}
        groups = _policy_groups(_building_module(parameters), parameters, settings)
        place = {parameter: index for index, parameter in enumerate(parameters)}
        # Where each parameter, in the order of the groups, stood in the policy's own list.
        self._policy_places = [place[p] for group in groups for _, p in group["params"]]
        super().__init__(groups, *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any], *, keep_settings: bool = False) -> None:
        """Load a state; one of an optimizer with one group for the whole policy loads too.

        Such are Stable-Baselines3's own saves: the settings given to this optimizer then stay.

        Args:
            state_dict: As `state_dict` gives it, or as the base does.
            keep_settings: As in `RegularizedOptimizer.load_state_dict`.

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
        """Divide the one group of a saved state as the groups here are divided."""
        (saved,) = state_dict["param_groups"]
        if saved.get("name") in (ACTOR, CRITIC, LEFT_ALONE):
            return state_dict  # one of ours, and whole: a Q-network's, say
        ours = ("params", "param_names", "fan_in", "anchor_position", *SETTING_NAMES)
        of_base = {key: value for key, value in saved.items() if key not in ours}
        groups: list[dict[str, Any]] = []
        start = 0
        for group in self.param_groups:
            stop = start + len(group["params"])
            ids = [saved["params"][place] for place in self._policy_places[start:stop]]
            groups.append({**of_base, "params": ids})
            start = stop
        return {**state_dict, "param_groups": groups}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_policy_places": self._policy_places}


# ---- whose a parameter is ---------------------------------------------------------------------------


def role_of(name: str) -> str | None:
    """Say whether a parameter of a policy is the actor's or the critic's, from its name.

    Args:
        name: As `named_parameters` of the policy gives it: "mlp_extractor.value_net.0.weight".

    Returns:
        "actor", "critic", or None if the name does not say.
    """
    return next((ROLES[part] for part in name.split(".") if part in ROLES), None)


def _policy_groups(
    policy: nn.Module, parameters: Sequence[nn.Parameter], settings: dict[str, RegularizerSettings]
) -> list[dict[str, Any]]:
    """Divide the parameters into the three groups; an empty one is left out."""
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
            warn_of_unknown_layouts({n: (p, layouts[p]) for n, p in named}, settings[role])
        if named:
            groups.append(group)
    return groups


def _parameters_of_parts(policy: nn.Module) -> set[Tensor]:
    """What the optimizers of a policy's parts have already: each parameter is decayed by one."""
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
        f"Is parameter {name!r} the actor's or the critic's? Its name does not say: give both the"
        f" same settings, or have one of these in its path: {', '.join(map(repr, ROLES))}."
    )


def _building_module(parameters: Sequence[Tensor]) -> nn.Module:
    """Find the module in one of whose methods these parameters are handed to an optimizer.

    There is no other road to it: a parameter does not know its module, the policy hands over nothing
    else, and hooks on every module of the process would cost everyone. So the callers' `self` are
    looked at, innermost first, and one is taken only if all of the parameters are its own.

    Raises:
        ValueError: if there is none.
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, nn.Module) and set(candidate.parameters()).issuperset(parameters):
            return candidate
        frame = frame.f_back
    raise ValueError(
        "This optimizer is for policies, which build it in a method of theirs, and here no module"
        " with these parameters is building it: use regularized(…) and parameter_groups(model, …)."
    )


# ---- one class for each base, found again by its name (as in plasticity.optim.regularizers) ---------------

_PREFIX, _REGULARIZED_PREFIX = "Policy", "Regularized"

_CLASSES: dict[type[Optimizer], type[PolicyOptimizer]] = {}


def policy_optimizer(base: type[Optimizer]) -> type[PolicyOptimizer]:
    """Make a subclass of a torch optimizer that tells the actor and the critic of a policy apart.

    Args:
        base: As for `regularized`, or a class that it made.

    Returns:
        A subclass of `regularized(base)` and of `PolicyOptimizer`, made once for each base.

    Raises:
        TypeError: if `base` is not an optimizer class.
        ValueError: if decay cannot join this base.
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
    """Find the class of a saved policy: `PolicyAdam`, `Policy:package/module:Name`."""
    if name.startswith(_PREFIX):
        parent = getattr(regularizers, _REGULARIZED_PREFIX + name[len(_PREFIX) :], None)
        if parent is not None:
            return policy_optimizer(parent)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
