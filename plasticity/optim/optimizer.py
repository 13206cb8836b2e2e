"""The class behind `regularized`: an optimizer whose parameter groups decay toward anchors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.agreement import require_whole_optimizer
from plasticity.optim.base_decay import (
    default_weight_decay,
    require_no_base_decay,
    step_without_hooks,
)
from plasticity.optim.decay import decay_toward_, decayed_gradients
from plasticity.optim.initial_weights import InitialWeights
from plasticity.optim.joining import JoinedGradients
from plasticity.optim.kernels.step import KernelSteps, make_kernels
from plasticity.optim.regularized_groups import is_active
from plasticity.optim.regularized_state import RegularizedState
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.sharded import of_one_kind
from plasticity.optim.targets import (
    DrawnTargets,
    Targets,
    has_target,
    has_zero_anchor,
    make_anchor,
    target_recipe,
)
from plasticity.optim.transferred_groups import LIVING
from plasticity.seeds import child_seed


class RegularizedOptimizer(RegularizedState):
    """Arguments and methods that every class made by `regularized` has beside those of its base.

    Not used by itself.

    Args:
        params: Parameters or parameter groups, as for the base. A group may give its own
            `regularizer`, `strength`, `sigma`, `anisotropy`, `decoupled`, `anchor_seed`, `fan_in`. A
            group whose own `weight_decay` is 0 is left alone, as most recipes mean it; if no
            `strength` is given here, a group's other `weight_decay` is its strength. Groups of another
            regularized optimizer (`optimizer.param_groups`) keep their settings and their anchors.
        *args: Positional arguments of the base.
        regularizer: "none", "weight-decay", "syre" or "l2-init". Required where a strength is given.
        strength: Meaning of torch's `weight_decay`: the penalty is strength / 2 * |theta - anchor|^2.
            Required where a regularizer other than "none" is given; 0 switches it off.
        sigma: Syre's anchor has standard deviation sigma / sqrt(fan-in). The default 0.01 is the
            paper's, and hardly differs from weight decay; effects showed from 0.3 on.
        anisotropy: Standard deviation of the per-coordinate factors of syre's Eq. 7.
        decoupled: False joins the decay to the gradient (it passes through Adam's preconditioner,
            as in `torch.optim.Adam(weight_decay=…)`); True applies it apart, scaled by the learning
            rate (as AdamW). None does as the base's own weight decay, which is measured for a class
            that is not torch's.
        anchor_seed: Seed of the anchors. None reads `torch.initial_seed()`, which consumes no
            randomness, and in a distributed run takes rank 0's: then every process has to make the
            optimizer. The integer is stored in the groups and in `defaults`.
        anchor_name: Tells apart optimizers whose anchors are to differ under one seed, such as those
            of an ensemble: "member 3". It is mixed into the seed, once.
        initial_weights: L2-init's anchors by parameter. None, or a parameter that is missing: the
            weights of this moment.
        kernel: "eager", torch's own operations. "triton": the decay, and under Adam and AdamW the
            whole step, are Triton kernels, which need a CUDA device. "triton-drawn": these, and
            syre's anchors are drawn anew at every step and never stored. For float32 and bfloat16
            (which they compute in float32), without anisotropy, amsgrad, foreach or fused. Checkpoints
            do not hold it: a run may be continued with another.
        **kwargs: Keyword arguments of the base.

    **What an anchor is drawn from**: (anchor seed, position of the parameter in the optimizer, index of
    the element). So an optimizer that is made again, `type(optimizer)(parameters,
    **optimizer.defaults)`, has the same anchors, and two optimizers with one seed draw the first
    parameter of each toward the same point: give those of an ensemble an `anchor_name` each. A
    parameter that is spread over processes (`DTensor`, FSDP2) has the anchor that it would have in one.
    Optimizers that deal parameters out by themselves (`ZeroRedundancyOptimizer`) are refused.

    In a flat list of parameters, a vector takes the fan-in of the weight before it. A vector before
    any weight has none: under syre with sigma > 0 it is not decayed, which is logged as a warning.
    `parameter_groups(model, …)` knows the modules and does better.

    Clip gradients before `step`, as with torch's own decay: the decay joins inside it. It may write
    to `parameter.grad`, which is afterwards what it was before, to rounding.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range, a group key is a misspelt one, the base's own
            `weight_decay` is given (use `strength`), the base's decay is neither coupled nor decoupled
            and `decoupled` does not say how syre or l2-init should act, or the processes of a
            distributed run cannot agree on the anchors.
        RuntimeError: if a kernel is asked for, and Triton or a CUDA device is missing.
    """

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
        anchor_name: str | None = None,
        initial_weights: Mapping[Tensor, Tensor] | None = None,
        kernel: str = "eager",
        **kwargs: Any,
    ) -> None:
        require_whole_optimizer()
        self._kernels = make_kernels(kernel, self.base)
        require_no_base_decay(self.base, args, kwargs)
        if default_weight_decay(self.base) != 0:
            kwargs["weight_decay"] = 0.0
        seed = torch.initial_seed() if anchor_seed is None else anchor_seed
        self._initial_weights = InitialWeights()
        self._given_weights = initial_weights or {}
        self._awaited, self._given_fan_in, self._left_alone = set(), set(), False
        # `defaults` of the base, with these, makes the same optimizer again.
        self._own_defaults = {
            "regularizer": regularizer,
            "strength": strength,
            "sigma": sigma,
            "anisotropy": anisotropy,
            "decoupled": decoupled,
            "anchor_seed": seed if anchor_name is None else child_seed(seed, anchor_name),
            "kernel": kernel,
            "initial_weights": self._initial_weights,
        }
        self._constructed, self._seen, self._seed_is_own = False, {}, anchor_seed is None
        self._forget()
        super().__init__(self._with_read_decays(params), *args, **kwargs)
        self._own_defaults = {}
        self._require_own_groups()
        self._require_some_active()
        self._agree(self.param_groups)
        for index, group in enumerate(self.param_groups):
            self._settle(index, group)
        self._constructed = True
        LIVING.add(self)

    # ---- the step -------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step of the base, with the decay joined to it.

        Args:
            closure: Evaluates the model anew and returns the loss, as for the base.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: if a coupled decay meets a sparse gradient, or one that the base may differentiate.
        """
        if self._kernels is not None and self._kernels.whole_step:
            return self._step_in_kernels(self._kernels, closure)
        base_step = step_without_hooks(self.base)
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
        self._hold_awaited()
        for index, group in enumerate(self.param_groups):
            self._sync_base_decay(index, group)
            targets = self._step_targets_of(index, group) if is_active(group) else None
            kernels.adam_step(index, group, self.state, targets)
        return loss

    @torch.no_grad()
    def _join(self, by_base: Sequence[bool], joined: JoinedGradients) -> None:
        """Let the base see gradients with the decay in them."""
        self._hold_awaited()
        for index, group in enumerate(self.param_groups):
            if is_active(group) and not (by_base[index] and has_zero_anchor(group)):
                self._join_group(index, group, by_base[index], joined)
        joined.apply()
        joined.moved = True  # and are not moved again by a closure that runs twice

    def _join_group(
        self, index: int, group: dict[str, Any], by_base: bool, joined: JoinedGradients
    ) -> None:
        targets = self._step_targets_of(index, group)
        chosen = [p for p in targets.places if group["params"][p].grad is not None]
        for part in of_one_kind(chosen, group["params"]):
            self._join_part(index, group, by_base, joined, targets, part)

    def _join_part(
        self,
        index: int,
        group: dict[str, Any],
        by_base: bool,
        joined: JoinedGradients,
        targets: Targets | DrawnTargets,
        chosen: Sequence[int],
    ) -> None:
        parameters = [group["params"][place] for place in chosen]
        anchors: Any = targets.anchors(chosen)
        factors = targets.factors(chosen)
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
        foreign = not self.base.__module__.startswith("torch.optim")
        if foreign and any(gradient.requires_grad for gradient in gradients):
            raise RuntimeError(
                f"The gradients have a graph (backward(create_graph=True)), which {self.base.__name__} may"
                " differentiate, and a decay that joins them has none: give decoupled=True, or"
                ' regularizer="weight-decay", which is the base\'s own.'
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
        self._follow_every_parameter()
        for group in self.param_groups:
            for place, candidate in enumerate(group["params"]):
                if candidate is parameter:
                    if group["regularizer"] == "none" or not has_target(group, place):
                        return None
                    if parameter in self._awaited:  # frozen: it is where it began
                        found: Tensor | None = parameter.detach()
                    else:
                        found = make_anchor(group, place, self._initial_weights)
                    return torch.zeros_like(parameter) if found is None else found.clone()
        raise ValueError(
            f"This parameter of shape {tuple(parameter.shape)} is in no group of the optimizer."
        )

    def _hold_awaited(self) -> None:
        """Keep the weights of parameters that were frozen until now, before they first move."""
        for parameter in [p for p in self._awaited if p.grad is not None]:
            self._initial_weights[parameter] = parameter.detach().clone()
            self._awaited.remove(parameter)

    def _step_targets_of(self, index: int, group: dict[str, Any]) -> Targets | DrawnTargets:
        """Give what a step uses: kernels may draw syre's anchors, which then are not made."""
        drawn = None if self._kernels is None else self._kernels.drawn_targets(index, group)
        return self._targets_of(index, group) if drawn is None else drawn

    def _forget(self) -> None:
        super()._forget()
        self._targets: dict[int, Targets] = {}

    def _targets_of(self, index: int, group: dict[str, Any]) -> Targets:
        cached = self._targets.get(index)
        if cached is None or cached.recipe != target_recipe(group):
            cached = self._targets[index] = Targets(group, self._initial_weights)
        return cached


def anchor(optimizer: Any, parameter: Tensor) -> Tensor | None:
    """Give the point that a regularized optimizer draws a parameter toward, through any wrapper.

    Args:
        optimizer: A regularized optimizer, or what a library made of it: Accelerate's
            `AcceleratedOptimizer`, Lightning's `LightningOptimizer`, one that steps another (SAM).
        parameter: One of its parameters. Shape: (...).

    Returns:
        As `RegularizedOptimizer.anchor`.

    Raises:
        TypeError: if no regularized optimizer is inside.
        ValueError: if the parameter is not in it.
    """
    inside = optimizer
    while inside is not None and not isinstance(inside, RegularizedOptimizer):
        names = ("optimizer", "_optimizer", "base_optimizer", "optim")
        inside = next((each for n in names if (each := getattr(inside, n, None)) is not None), None)
    if inside is None:
        raise TypeError(
            f"anchor() takes an optimizer made by regularized(…), or a wrapper of one, not"
            f" {type(optimizer).__name__}."
        )
    point: Tensor | None = inside.anchor(parameter)
    return point
