"""Parameter groups of a regularized optimizer: their settings, and the split of decay with the base."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from plasticity.checks import require_integer, require_number
from plasticity.optim.agreement import agreed_seed, require_agreeing_weights
from plasticity.optim.base_decay import NO_BASE_DECAY, BaseDecay, base_decay_of
from plasticity.optim.fan_in import NO_FAN_IN, flat_fan_in
from plasticity.optim.fan_in_replacement import replaced_fan_in
from plasticity.optim.initial_weights import InitialWeights, of_shape
from plasticity.optim.kernels.step import KernelSteps
from plasticity.optim.parameter_groups import checked_fan_in, describe_groups, require_real
from plasticity.optim.plan import BY_BASE, DecayForm, decay_form, is_active, require_known_form
from plasticity.optim.settings import (
    REGULARIZERS,
    SETTING_NAMES,
    RegularizerSettings,
    require_not_misspelt,
)
from plasticity.optim.sharded import require_known_elements
from plasticity.optim.targets import has_zero_anchor
from plasticity.optim.transferred_groups import held_weights, sources_of

logger = logging.getLogger("plasticity")

FOREIGN_GROUP_KEYS = ("params", "param_names", "name", "initial_lr")
"""Keys that torch's learning-rate schedulers and users put into groups, besides the base's own."""

OPTIMIZER_KEYS = ("kernel", "initial_weights")
"""Keys of `defaults` that belong to the optimizer and not to a group."""


class RegularizedGroups(Optimizer):
    """Groups and settings of `RegularizedOptimizer`. Not instantiated directly."""

    base: ClassVar[type[Optimizer]]
    """Optimizer class that this one extends."""

    _own_defaults: dict[str, Any]
    """Settings and options that `defaults` has in addition to the base's."""

    _initial_weights: InitialWeights
    """Anchors of l2-init, by parameter."""

    _given_weights: Mapping[Tensor, Tensor]
    """Initial weights that were given to the constructor, by parameter."""

    _awaited: set[Tensor]
    """Frozen parameters of l2-init, whose weights are stored when they first get a gradient."""

    _given_fan_in: set[int]
    """Indices of the groups whose fan-ins were given, by the user or by `parameter_groups`."""

    _left_alone: bool
    """Whether a group is not regularized because it was given weight_decay=0."""

    _seen: dict[int, list[Tensor]]
    """Parameters of each group when last checked, to notice replaced ones."""

    _seed_is_own: bool
    """Whether the seed was read in this process and not given, so that other processes may differ."""

    _constructed: bool
    _kernels: KernelSteps | None

    def _forget(self) -> None:
        """Clear the caches, which are filled again on demand."""
        self._checked: dict[int, tuple[object, ...]] = {}
        self._measured: dict[int, BaseDecay] = {}
        self._written: dict[int, float] = {}

    def _require_own_groups(self) -> None:
        """Raise an error if the base replaced the groups that it was given by others."""
        if any("anchor_position" not in group for group in self.param_groups):
            raise ValueError(
                f"{self.base.__name__} has groups that it did not add by add_param_group: it wraps another"
                " optimizer, or builds its groups itself. Regularize the wrapped optimizer, if it takes"
                f" one: {self.base.__name__}(regularized(torch.optim.Adam)(…), …)."
            )

    def _require_some_active(self) -> None:
        """Raise an error if settings were given that no group uses."""
        regularizer, strength = self.defaults["regularizer"], self.defaults["strength"]
        if any(map(is_active, self.param_groups)):
            return
        if strength and regularizer is None:
            raise ValueError(
                f"strength={strength!r} does nothing without a regularizer: give"
                ' regularizer="syre", "weight-decay" or "l2-init", here or in a group.'
            )
        if strength != 0 and regularizer not in (None, "none") and self._left_alone:
            raise ValueError(
                f"regularizer={regularizer!r} does nothing: every group has weight_decay=0, and so is not"
                " regularized. Leave weight_decay out of the groups to be regularized, or give them a"
                " strength."
            )

    def _agree(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Agree with the other processes on the anchors of new groups.

        Rank 0's seed is used where neither the groups nor the constructor were given one.
        """
        own = self.defaults["anchor_seed"]
        if self._seed_is_own and any(group["regularizer"] == "syre" for group in groups):
            self._seed_is_own = False
            every = [p for group in self.param_groups for p in group["params"]]
            self.defaults["anchor_seed"] = agreed_seed(own, every)
            for group in self.param_groups:
                if group["anchor_seed"] == own:
                    group["anchor_seed"] = self.defaults["anchor_seed"]
        anchored = [group for group in groups if group["regularizer"] == "l2-init"]
        if anchored:
            require_agreeing_weights([p for group in anchored for p in group["params"]])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as in torch; a misspelt key is an error that names the intended one.

        Keys that neither the base nor this class knows are kept, as in torch. In a distributed run every
        process has to make the call, as with the constructor.

        Raises:
            TypeError: if a setting has the wrong type.
            ValueError: if a setting is out of range or a key is misspelt.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"A parameter group must be a dict, not {type(param_group).__name__}.")
        for name, value in self._own_defaults.items():
            self.defaults.setdefault(name, value)
        # The caller's dict is not modified; torch would write the defaults into it.
        group = dict(param_group)
        own_keys = (*SETTING_NAMES, *OPTIMIZER_KEYS)
        base_keys = [key for key in self.defaults if key not in own_keys]
        sources = sources_of(group) if "anchor_position" in group else []
        # Keys from another base, or from a user, were checked there.
        known = {key for source, index in sources for key in source.param_groups[index]}
        for key in group.keys() - known:
            require_not_misspelt(str(key), FOREIGN_GROUP_KEYS, base_keys)
        if group.get("differentiable", self.defaults.get("differentiable")):
            raise ValueError(
                "differentiable=True cannot be regularized: the decay is added in place. Add"
                " strength / 2 * |theta - anchor|^2 to the loss instead."
            )
        if self._constructed:
            self._read_weight_decay(group)
        elif "weight_decay" in group:  # read before; this one comes from the base's constructor
            group["weight_decay"] = 0.0
        settings = self._settings_of(group)
        group.update({name: getattr(settings, name) for name in SETTING_NAMES})
        fan_in, position = group.pop("fan_in", None), group.pop("anchor_position", None)
        for source, index in sources:
            earlier, own = fan_in, source.param_groups[index]
            is_own = own["fan_in"] == earlier
            source._follow_parameters(index, own)
            fan_in = own["fan_in"] if is_own else fan_in
        super().add_param_group(group)
        added = self.param_groups[-1]
        for key in OPTIMIZER_KEYS:
            added.pop(key, None)
        self._finish_group(added, fan_in, position)
        if added["regularizer"] == "l2-init":
            holders = None if position is None else [source for source, _ in sources]
            self._hold_initial_weights(added["params"], holders)
        if self._constructed:
            self._agree([added])
            self._settle(len(self.param_groups) - 1, added)

    def _own(self, name: str) -> Any:
        """Return the default of a setting for groups, also while the base is being constructed."""
        return self._own_defaults[name] if name in self._own_defaults else self.defaults[name]

    def _with_read_decays(self, params: Any) -> Any:
        """Return the constructor's parameters or groups, with each group's `weight_decay` interpreted."""
        if isinstance(params, Tensor):
            return params
        given = list(params)
        copies = [dict(entry) if isinstance(entry, dict) else entry for entry in given]
        for entry in copies:
            if isinstance(entry, dict):
                self._read_weight_decay(entry)
        return copies

    def _read_weight_decay(self, group: dict[str, Any]) -> None:
        """Remove a group's own `weight_decay`, and set the regularizer or strength that it stands for."""
        given = group.pop("weight_decay", None)
        if given is None:
            return
        if (
            "anchor_position" in group
        ):  # a group of a regularized optimizer whose base does the decay
            if given not in (0, group.get("strength")):
                raise ValueError(NO_BASE_DECAY.format(given))
        elif given == 0:
            if "regularizer" not in group and "strength" not in group:
                group.update(regularizer="none", strength=0.0)
                self._left_alone = True
        elif (
            "strength" in group
            or group.get("regularizer", self._own("regularizer")) in (None, "none")
            or self._own("strength") not in (None, given)
        ):
            raise ValueError(NO_BASE_DECAY.format(given))
        else:
            group["strength"] = require_number("A group's weight_decay", given, minimum=0.0)

    def _settings_of(self, group: Mapping[str, Any]) -> RegularizerSettings:
        given = {name: group.get(name, self.defaults[name]) for name in SETTING_NAMES}
        if given["regularizer"] is None:
            if group.get("strength"):
                raise ValueError(
                    f"A group's strength={group['strength']!r} does nothing without a regularizer:"
                    ' give "regularizer": "syre", "weight-decay" or "l2-init".'
                )
            given["regularizer"] = "none"
        if given["strength"] is None:
            if given["regularizer"] in REGULARIZERS and given["regularizer"] != "none":
                raise ValueError(
                    f"regularizer={given['regularizer']!r} needs a strength (as torch's weight_decay),"
                    " for example strength=1e-3; 0 switches it off."
                )
            given["strength"] = 0.0
        given["anchor_seed"] = group.get("anchor_seed")
        if given["anchor_seed"] is None and given["regularizer"] == "syre":
            given["anchor_seed"] = self.defaults["anchor_seed"]
        return RegularizerSettings(**given)

    def _finish_group(self, group: dict[str, Any], fan_in: object, position: object) -> None:
        """Fill in the fan-ins and the anchors' position of a group that torch has added."""
        parameters, index = group["params"], len(self.param_groups) - 1
        if group["regularizer"] != "none":
            for parameter in parameters:
                require_real(parameter)
                if not has_zero_anchor(group):
                    require_known_elements(parameter)
        if fan_in is None:
            group["fan_in"] = flat_fan_in(parameters)
        else:
            group["fan_in"] = checked_fan_in(fan_in, len(parameters))
            self._given_fan_in.add(index)
        if position is None:
            earlier = self.param_groups[:index]
            ends = [each["anchor_position"] + len(each["params"]) for each in earlier]
            group["anchor_position"] = max(ends, default=0)
        else:
            group["anchor_position"] = require_integer("anchor_position", position, minimum=0)

    def _hold_initial_weights(
        self, parameters: Sequence[Tensor], holders: Sequence[Any] | None = None
    ) -> None:
        """Store the anchors of l2-init: given weights if there are any, else the current ones.

        Args:
            parameters: Parameters of one group.
            holders: Optimizers that the group may come from; None for a new group.
        """
        for parameter in parameters:
            given = self._given_weights.get(parameter)
            if given is None and holders:
                given = held_weights(parameter, holders)
            if given is not None:
                self._initial_weights[parameter] = of_shape(given, parameter)
            elif holders == [] and parameter.requires_grad:
                raise ValueError(
                    "This group is anchored to initial weights (l2-init) that were deleted with the"
                    " optimizer that it comes from: keep that optimizer until the new one is created, or"
                    " give initial_weights={parameter: weights}."
                )
            elif parameter.requires_grad:
                self._initial_weights[parameter] = parameter.detach().clone()
            else:
                self._awaited.add(parameter)  # it does not move until it has a gradient

    def _settle(self, index: int, group: dict[str, Any]) -> None:
        """Decide whether the decay of a complete group is coupled, and log the group's description."""
        if group["decoupled"] is None:
            kind = self._base_decay(index, group)
            group["decoupled"] = None if kind == "other" else kind == "decoupled"
        self._sync_base_decay(index, group)
        self._describe(group)

    def _describe(self, group: dict[str, Any]) -> None:
        needs_fan_in = group["regularizer"] == "syre" and group["sigma"] > 0
        skips_some = needs_fan_in and NO_FAN_IN in group["fan_in"]
        level = logging.WARNING if skips_some else logging.INFO
        logger.log(level, "%s", describe_groups([group]))

    def _base_decay(self, index: int, group: Mapping[str, Any]) -> BaseDecay:
        """Return the form of the base's decay for this group, measured at most once."""
        if index not in self._measured:
            kind = base_decay_of(self, self.base, group)
            if self.base.__module__.startswith("torch.optim"):
                return kind  # cheap, and a user may edit the group
            self._measured[index] = kind
        return self._measured[index]

    def _sync_base_decay(self, index: int, group: dict[str, Any]) -> DecayForm:
        """Check a group that a user may have edited, and set the base's part of its decay.

        Returns:
            The form of the group's decay in this step.
        """
        self._follow_parameters(index, group)
        settings = tuple([group[name] for name in SETTING_NAMES])
        decays = is_active(group)
        base_decay = self._base_decay(index, group) if decays else "none"
        if self._checked.get(index) != settings:
            RegularizerSettings(*settings)
            if self._kernels is not None:
                self._kernels.check_group(group)
            if decays:
                require_known_form(group, self.base, base_decay)
            self._checked[index] = settings
        form = decay_form(
            group,
            self.base,
            base_decay,
            in_kernels=self._kernels is not None,
            is_scaled=getattr(self, "grad_scale", None) is not None,
        )
        wanted = group["strength"] if form in BY_BASE else 0.0
        found = group.get("weight_decay", wanted)
        if found != wanted:
            if found != self._written.get(index, found):
                raise ValueError(NO_BASE_DECAY.format(found))
            group["weight_decay"] = wanted
        self._written[index] = wanted
        return form

    def _follow_every_parameter(self) -> None:
        for index, group in enumerate(self.param_groups):
            self._follow_parameters(index, group)

    def _follow_parameters(self, index: int, group: dict[str, Any]) -> None:
        """Update fan-ins and anchors after parameters were replaced (for example by a larger head)."""
        if group["anchor_seed"] is None and group["regularizer"] == "syre":  # since a user's edit
            group["anchor_seed"] = self.defaults["anchor_seed"]
        parameters = group["params"]
        seen = self._seen.setdefault(index, list(parameters))
        if len(group["fan_in"]) != len(parameters):
            raise ValueError(
                f"Group {index} has {len(parameters)} parameters, but had"
                f" {len(group['fan_in'])} when it was added: add others with add_param_group."
            )
        if all(map(operator.is_, seen, parameters)):
            return
        if index in self._given_fan_in:
            group["fan_in"] = replaced_fan_in(group["fan_in"], seen, parameters)
        else:
            group["fan_in"] = flat_fan_in(parameters)
        new = [p for old, p in zip(seen, parameters, strict=True) if p is not old]
        if group["regularizer"] == "l2-init":
            self._hold_initial_weights(new)
        for old in set(seen).difference(parameters):
            self._initial_weights.pop(old, None)
            self._awaited.discard(old)
        self._seen[index] = list(parameters)
        self._describe(group)
