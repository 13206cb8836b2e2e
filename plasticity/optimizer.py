"""The class behind `regularized`: an optimizer whose parameter groups decay toward anchors."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.decay import decay_toward_, decayed_gradients
from plasticity.groups import (
    NO_FAN_IN,
    checked_fan_in,
    describe_groups,
    flat_fan_in,
    require_real,
)
from plasticity.joining import JoinedGradients
from plasticity.kernels import KernelSteps, make_kernels
from plasticity.settings import REGULARIZERS, SETTING_NAMES, RegularizerSettings, nearest
from plasticity.targets import (
    DrawnTargets,
    Targets,
    has_target,
    has_zero_anchor,
    make_anchor,
    make_targets,
    target_recipe,
)
from plasticity.tensor_table import DrawnAnchor

logger = logging.getLogger("plasticity")

# Keys that torch's learning-rate schedulers and users put into groups, beside the base's own.
_FOREIGN_GROUP_KEYS = ("params", "param_names", "name", "initial_lr")


class RegularizedOptimizer(Optimizer):
    """What every class made by `regularized` has beside its base. Not used by itself.

    Args:
        params: Parameters or parameter groups, as for the base. A group may give its own
            `regularizer`, `strength`, `sigma`, `anisotropy`, `decoupled`, `anchor_seed`, `fan_in`.
        *args: Positional arguments of the base.
        regularizer: "none", "weight-decay", "syre" or "l2-init". Required where a strength is given.
        strength: Of torch's `weight_decay`: the penalty is strength / 2 * |theta - anchor|^2.
            Required where a regularizer other than "none" is given; 0 switches it off.
        sigma: Syre's anchor has standard deviation sigma / sqrt(fan-in). The default 0.01 is the
            paper's, and hardly differs from weight decay; effects showed from 0.3 on.
        anisotropy: Standard deviation of the per-coordinate factors of syre's Eq. 7.
        decoupled: False joins the decay to the gradient (it passes through Adam's preconditioner,
            as in `torch.optim.Adam(weight_decay=…)`); True applies it apart, scaled by the learning
            rate (as AdamW). None does as the base's own weight decay.
        anchor_seed: Seed of the anchors. None reads `torch.initial_seed()`, which consumes no
            randomness, and stores the integer in the group.
        kernel: "eager", torch's own operations. "triton": the decay, and under Adam and AdamW the
            whole step, are Triton kernels, which need a CUDA device. "triton-drawn": these, and
            syre's anchors are drawn anew at every step and never stored. For float32 and bfloat16
            (which they compute in float32), without anisotropy, amsgrad, foreach or fused. Checkpoints
            do not hold it: a run may be continued with another.
        **kwargs: Keyword arguments of the base.

    In a flat list of parameters, a vector takes the fan-in of the weight before it. A vector before
    any weight has none: under syre with sigma > 0 it is not decayed, which is logged as a warning.
    `parameter_groups(model, …)` knows the modules and does better.

    Clip gradients before `step`, as with torch's own decay: the decay joins inside it. It may write
    to `parameter.grad`, which is afterwards what it was before, to rounding.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range, a group key is unknown, or the base's own
            `weight_decay` is given (use `strength`).
        RuntimeError: if a kernel is asked for, and Triton or a CUDA device is missing.
    """

    base: ClassVar[type[Optimizer]]
    """The optimizer class that this one extends."""

    base_decay_is_decoupled: ClassVar[bool]
    """Whether the base's own weight decay is apart from the gradient, unless a group says so."""

    def __init__(
        self,
        params: Any,
        *args: Any,
        regularizer: str | None = None,
        strength: float | None = None,
        sigma: float = RegularizerSettings.sigma,
        anisotropy: float = RegularizerSettings.anisotropy,
        decoupled: bool | None = None,
        anchor_seed: int | None = None,
        kernel: str = "eager",
        **kwargs: Any,
    ) -> None:
        self._kernel = kernel
        self._kernels: KernelSteps | None = make_kernels(kernel, self.base)
        _require_no_base_decay(self.base, args, kwargs)
        if default_weight_decay(self.base) != 0:
            kwargs["weight_decay"] = 0.0
        self._setting_defaults: dict[str, Any] = {
            "regularizer": regularizer,
            "strength": strength,
            "sigma": sigma,
            "anisotropy": anisotropy,
            "decoupled": decoupled,
            "anchor_seed": anchor_seed,
        }
        self._initial_weights: dict[Tensor, Tensor] = {}
        self._forget()
        super().__init__(params, *args, **kwargs)
        if strength and regularizer is None and not any(map(_is_active, self.param_groups)):
            raise ValueError(
                f"strength={strength!r} does nothing without a regularizer: give"
                ' regularizer="syre", "weight-decay" or "l2-init", here or in a group.'
            )

    # ---- parameter groups -----------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; as torch's, but an unknown key is an error that names the nearest known one.

        Raises:
            TypeError: if a setting has the wrong type.
            ValueError: if a setting is out of range or a key is unknown.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"A parameter group must be a dict, not {type(param_group).__name__}.")
        # The caller's dict stays as it is; torch would write the defaults into it.
        group = dict(param_group)
        known = [*_FOREIGN_GROUP_KEYS, *self.defaults, *SETTING_NAMES, "fan_in"]
        for key in group:
            if key not in known:
                raise ValueError(f"Unknown parameter group key {key!r}.{nearest(str(key), known)}")
        if group.get("differentiable", self.defaults.get("differentiable")):
            raise ValueError(
                "differentiable=True cannot be regularized: the decay is joined in place. Add"
                " strength / 2 * |theta - anchor|^2 to the loss instead."
            )
        if group.get("weight_decay"):
            raise ValueError(_NO_BASE_DECAY.format(group["weight_decay"]))
        settings = self._settings_of(group)
        group.update({name: getattr(settings, name) for name in SETTING_NAMES})
        given_fan_in = group.pop("fan_in", None)
        super().add_param_group(group)
        self._finish_group(self.param_groups[-1], given_fan_in)

    def _settings_of(self, group: Mapping[str, Any]) -> RegularizerSettings:
        given = {**self._setting_defaults, **{k: v for k, v in group.items() if k in SETTING_NAMES}}
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
                    f"regularizer={given['regularizer']!r} needs a strength (of torch's weight_decay),"
                    " for example strength=1e-3; 0 switches it off."
                )
            given["strength"] = 0.0
        if given["anchor_seed"] is None:
            given["anchor_seed"] = torch.initial_seed()
        return RegularizerSettings(**given)

    def _finish_group(self, group: dict[str, Any], given_fan_in: object) -> None:
        """Complete a group that torch has taken in: fan-ins, initial weights, the base's decay."""
        parameters = group["params"]
        if group["regularizer"] != "none":
            for parameter in parameters:
                require_real(parameter)
        group["fan_in"] = (
            flat_fan_in(parameters)
            if given_fan_in is None
            else checked_fan_in(given_fan_in, len(parameters))
        )
        if group["decoupled"] is None:
            group["decoupled"] = self._base_is_decoupled(group)
        if group["regularizer"] == "l2-init":
            for parameter in parameters:
                self._initial_weights[parameter] = parameter.detach().clone()
        index = len(self.param_groups) - 1
        group["anchor_position"] = sum(len(g["params"]) for g in self.param_groups[:index])
        self._sync_base_decay(index, group)
        needs_fan_in = group["regularizer"] == "syre" and group["sigma"] > 0
        skips_some = needs_fan_in and NO_FAN_IN in group["fan_in"]
        level = logging.WARNING if skips_some else logging.INFO
        logger.log(level, "%s", describe_groups([group]))

    def _base_is_decoupled(self, group: Mapping[str, Any]) -> bool:
        return self.base_decay_is_decoupled or bool(group.get("decoupled_weight_decay", False))

    def _sync_base_decay(self, index: int, group: dict[str, Any]) -> bool:
        """Let the base decay what it can, as fast as torch can; return whether it does."""
        settings = tuple([group[name] for name in SETTING_NAMES])
        if self._checked.get(index) != settings:  # a user may edit a group
            RegularizerSettings(*settings)
            if self._kernels is not None:
                self._kernels.check_group(group)
            self._checked[index] = settings
        if len(group["fan_in"]) != len(group["params"]):
            raise ValueError(
                f"Group {index} has {len(group['params'])} parameters, and had"
                f" {len(group['fan_in'])} when it was added: add others with add_param_group."
            )
        by_base = self._base_decays(group)
        wanted = group["strength"] if by_base else 0.0
        found = group.get("weight_decay", wanted)
        if found != wanted:
            if found != self._written.get(index, found):
                raise ValueError(_NO_BASE_DECAY.format(found))
            group["weight_decay"] = wanted
        self._written[index] = wanted
        return by_base

    def _base_decays(self, group: Mapping[str, Any]) -> bool:
        """Whether the base's own weight decay does the part that draws toward zero.

        With a zero anchor that is all, and equal to the base bit for bit. With another, strength *
        theta is the base's and -strength * anchor joins the gradient, if the decay is coupled.
        """
        if (
            group["regularizer"] == "none"
            or "weight_decay" not in group
            or group["decoupled"] != self._base_is_decoupled(group)
        ):
            return False
        if has_zero_anchor(group):
            return True
        return (
            not group["decoupled"]
            and self._kernels is None  # which read all in one go
            and self.base.__module__.startswith("torch.optim")  # whose decay we know
            and group["anisotropy"] == 0
            and not self._decay_commutes(group)
            and getattr(self, "grad_scale", None) is None
            and (group["regularizer"] != "syre" or NO_FAN_IN not in group["fan_in"])
        )

    # ---- the step -------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step of the base, with the decay joined to it.

        Args:
            closure: Evaluates the model anew and returns the loss, as for the base.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: if a coupled decay meets a sparse gradient.
        """
        if self._kernels is not None and self._kernels.whole_step:
            return self._step_in_kernels(self._kernels, closure)
        base_step = _without_hooks(self.base.step)
        by_base = [self._sync_base_decay(*each) for each in enumerate(self.param_groups)]
        joined = JoinedGradients()

        def closure_then_decay() -> Any:
            assert closure is not None
            joined.undo()  # it may run again, and adds to the gradients if it does not clear them
            with torch.enable_grad():
                loss = closure()
            self._join(by_base, joined)
            return loss

        try:
            if closure is None:
                self._join(by_base, joined)
                return base_step(self)
            return base_step(self, closure_then_decay)
        finally:
            joined.undo()

    @torch.no_grad()
    def _step_in_kernels(self, kernels: KernelSteps, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            self._sync_base_decay(index, group)
            targets = self._step_targets_of(index, group) if _is_active(group) else None
            kernels.adam_step(index, group, self.state, targets)
        return loss

    @torch.no_grad()
    def _join(self, by_base: Sequence[bool], joined: JoinedGradients) -> None:
        """Let the base see gradients with the decay in them."""
        for index, group in enumerate(self.param_groups):
            if _is_active(group) and not (by_base[index] and has_zero_anchor(group)):
                self._join_group(index, group, by_base[index], joined)
        joined.apply()
        joined.moved = True  # and are not moved again by a closure that runs twice

    def _join_group(
        self, index: int, group: dict[str, Any], by_base: bool, joined: JoinedGradients
    ) -> None:
        targets = self._step_targets_of(index, group)
        chosen = [p for p in targets.places if group["params"][p].grad is not None]
        if not chosen:
            return
        parameters = [group["params"][place] for place in chosen]
        anchors = _pick(targets.anchors, chosen)
        factors = None if targets.factors is None else [targets.factors[place] for place in chosen]
        if group["decoupled"] or self._decay_commutes(group):
            if joined.moved:
                return
            amount = self._amount(group, parameters[0])
            if self._kernels is None:
                decay_toward_(parameters, anchors, amount, factors)
            else:
                self._kernels.decay_toward_(index, parameters, anchors, amount)
            return
        gradients = [parameter.grad for parameter in parameters]
        if any(gradient.is_sparse for gradient in gradients):
            raise RuntimeError(
                "A coupled decay cannot join a sparse gradient: give decoupled=True, or make the"
                " gradient dense (nn.Embedding(sparse=False))."
            )
        # torch negates the gradient before it decays
        strength = -group["strength"] if group.get("maximize", False) else group["strength"]
        if by_base and anchors is not None:
            joined.shift(parameters, gradients, anchors, strength)
            return
        grad_scale = getattr(self, "grad_scale", None)
        if grad_scale is not None:  # GradScaler: a fused base will divide by it inside its kernel
            strength = strength * grad_scale.to(parameters[0].device)
        if self._kernels is None:
            decayed = decayed_gradients(gradients, parameters, anchors, strength, factors)
        else:
            decayed = self._kernels.decayed_gradients(
                index, gradients, parameters, anchors, strength
            )
        joined.replace(parameters, decayed)

    def _amount(self, group: Mapping[str, Any], parameter: Tensor) -> Any:
        """How far a decoupled decay goes: a number, or a tensor where the device decides."""
        lr = group["lr"]
        amount = (lr.squeeze() if isinstance(lr, Tensor) else lr) * group["strength"]
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None:  # GradScaler: the base will skip this step, on the device
            amount = amount * (1 - found_inf.to(parameter.device))
        return amount

    def _decay_commutes(self, group: Mapping[str, Any]) -> bool:
        # Plain SGD is linear in the gradient, so that the coupled and the decoupled step are one
        # and the same, and the decoupled one needs no second look at the gradients. But a small
        # move of the weights alone is lost to rounding, where gradient and decay together are not.
        if self.base is not torch.optim.SGD or group["momentum"] != 0:
            return False
        amount = group["lr"] * group["strength"]
        coarsest = max(torch.finfo(dtype).eps for dtype in {p.dtype for p in group["params"]})
        return not isinstance(amount, Tensor) and bool(amount > 32 * coarsest)

    # ---- anchors --------------------------------------------------------------------------------

    def anchor(self, parameter: Tensor) -> Tensor | None:
        """Give the point that a parameter is decayed toward.

        Args:
            parameter: One of this optimizer's. Shape: (...).

        Returns:
            The anchor, of the parameter's shape; zeros for weight decay; None if not decayed.

        Raises:
            ValueError: if the parameter is not in this optimizer.
        """
        for index, group in enumerate(self.param_groups):
            for place, candidate in enumerate(group["params"]):
                if candidate is parameter:
                    if group["regularizer"] == "none" or not has_target(group, place):
                        return None
                    if isinstance(self._step_targets_of(index, group), DrawnTargets):
                        return make_anchor(group, place, self._initial_weights)
                    found = self._targets_of(index, group).anchors[place]
                    return torch.zeros_like(parameter) if found is None else found.clone()
        raise ValueError(
            f"This parameter of shape {tuple(parameter.shape)} is in no group of the optimizer."
        )

    def _step_targets_of(self, index: int, group: dict[str, Any]) -> Targets | DrawnTargets:
        """What a step uses: kernels may draw syre's anchors, which then are not made."""
        drawn = None if self._kernels is None else self._kernels.drawn_targets(index, group)
        return self._targets_of(index, group) if drawn is None else drawn

    def _targets_of(self, index: int, group: dict[str, Any]) -> Targets:
        recipe = target_recipe(group)
        cached = self._targets.get(index)
        if cached is None or cached.recipe != recipe:
            cached = make_targets(group, self._initial_weights)
            self._targets[index] = cached
        return cached

    # ---- saving and loading ---------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As torch's. Syre adds only numbers; L2-init adds its anchors under "anchors"."""
        state = super().state_dict()
        if self._kernels is not None:
            state = self._kernels.ordinary_state(state)
        for group in state["param_groups"]:
            # The base's part of a decay toward an anchor: half a decay, to the plain base.
            if "weight_decay" in group and not has_zero_anchor(group):
                group["weight_decay"] = 0.0
        every = [p for group in self.param_groups for p in group["params"]]
        anchors = {
            position: self._initial_weights[parameter]
            for position, parameter in enumerate(every)
            if parameter in self._initial_weights
        }
        if anchors:
            state["anchors"] = anchors
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. A state of the plain base loads too; the regularizer settings then stay.

        Raises:
            TypeError: if a saved setting has the wrong type.
            ValueError: if the groups do not fit or a saved setting is out of range.
        """
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) == len(self.param_groups):
            kept = (*SETTING_NAMES, "fan_in", "anchor_position")
            saved_groups = [
                {**{name: group[name] for name in kept}, **saved}
                for group, saved in zip(self.param_groups, saved_groups, strict=True)
            ]
            for saved in saved_groups:
                RegularizerSettings(**{name: saved[name] for name in SETTING_NAMES})
                if self._kernels is not None:
                    # Which form of torch's step a run had is no part of what it computed.
                    saved.update({name: None for name in ("foreach", "fused") if name in saved})
                    self._kernels.check_group(saved)
        super().load_state_dict({**state_dict, "param_groups": saved_groups})
        every = [p for group in self.param_groups for p in group["params"]]
        for position, anchor in state_dict.get("anchors", {}).items():
            parameter = every[int(position)]
            self._initial_weights[parameter] = torch.empty_like(parameter).copy_(anchor)
        self._forget()
        for index, group in enumerate(self.param_groups):
            self._sync_base_decay(index, group)

    def __getstate__(self) -> dict[str, Any]:
        # The drawn anchors stay behind: they are made again from the seed.
        return {
            **super().__getstate__(),
            "_kernel": self._kernel,
            "_setting_defaults": self._setting_defaults,
            "_initial_weights": self._initial_weights,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._kernel = state.get("_kernel", "eager")  # a pickle may be older than the kernels
        self._kernels = make_kernels(self._kernel, self.base)
        self._forget()

    def _forget(self) -> None:
        """Forget what is made again when it is asked for."""
        self._targets: dict[int, Targets] = {}
        self._checked: dict[int, tuple[object, ...]] = {}
        self._written: dict[int, float] = {}


_NO_BASE_DECAY = (
    "weight_decay={!r} was given to a regularized optimizer, which has decays of its own:"
    ' give regularizer="weight-decay" and strength instead.'
)


def default_weight_decay(base: type[Optimizer]) -> float:
    """The weight decay that an optimizer class has when none is given; 0 if it knows of none."""
    parameter = inspect.signature(base.__init__).parameters.get("weight_decay")
    return parameter.default if parameter and isinstance(parameter.default, (int, float)) else 0.0


def _require_no_base_decay(
    base: type[Optimizer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    signature = inspect.signature(base.__init__)
    try:
        bound = signature.bind_partial(None, None, *args, **kwargs).arguments
    except TypeError as error:
        known = [name for name in signature.parameters if name not in ("self", "params")]
        unknown = next((name for name in kwargs if name not in known), "")
        raise TypeError(
            f"{base.__name__}: {error}.{nearest(unknown, [*known, *SETTING_NAMES])}"
        ) from error
    given = kwargs.get("weight_decay", bound.get("weight_decay"))
    if given:
        raise ValueError(_NO_BASE_DECAY.format(given))


def _is_active(group: Mapping[str, Any]) -> bool:
    return bool(group["regularizer"] != "none" and group["strength"] != 0)


def _pick(anchors: Sequence[Tensor | DrawnAnchor | None], chosen: Sequence[int]) -> Any:
    """Anchors of the chosen parameters; None where they are zero (of a group, all are or none is)."""
    picked = [anchor for place in chosen if (anchor := anchors[place]) is not None]
    return picked or None


def _without_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    # torch wraps the step of every class that has an instance, to run the step hooks. Ours is
    # wrapped too: through the base's wrapper the hooks would run twice, the second time on
    # gradients that the decay has joined.
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]
