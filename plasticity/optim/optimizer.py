"""Optimizer whose parameter groups decay toward anchors: the class behind `regularized`."""

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
from plasticity.optim.plan import DecayForm, is_active
from plasticity.optim.regularized_state import RegularizedState
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.sharded import of_one_kind
from plasticity.optim.targets import Targets, has_target, make_anchor, target_recipe
from plasticity.optim.transferred_groups import LIVING
from plasticity.seeds import child_seed


class RegularizedOptimizer(RegularizedState):
    """Arguments and methods that every class made by `regularized` adds to those of its base.

    Not instantiated directly.

    Args:
        params: Parameters or parameter groups, as for the base. A group may give its own
            `regularizer`, `strength`, `sigma`, `anisotropy`, `decoupled`, `anchor_seed`, `fan_in`. A
            group with `weight_decay=0` is not regularized, which is what most recipes mean by it; if
            no `strength` is given here, any other `weight_decay` of a group is its strength. Groups of
            another regularized optimizer (`optimizer.param_groups`) keep their settings and anchors.
        *args: Positional arguments of the base.
        regularizer: "none", "weight-decay", "syre" or "l2-init". Required where a strength is given.
        strength: Strength in the sense of torch's `weight_decay`: the penalty is strength / 2 *
            |theta - anchor|^2. Required with any regularizer other than "none"; 0 switches it off.
        sigma: Spread of syre's anchor: its standard deviation is sigma / sqrt(fan-in). The default 0.01
            is the paper's and hardly differs from weight decay; effects were seen from 0.3 upward.
        anisotropy: Standard deviation of the per-coordinate factors of syre's Eq. 7.
        decoupled: False adds the decay to the gradient (it passes through Adam's preconditioner,
            as in `torch.optim.Adam(weight_decay=…)`); True applies it separately, scaled by the learning
            rate (as in AdamW). None follows the base's own weight decay, which is measured for a class
            that is not torch's.
        anchor_seed: Seed of the anchors. None reads `torch.initial_seed()`, which consumes no
            randomness, and in a distributed run takes rank 0's: then every process has to create the
            optimizer. The integer is stored in the groups that draw anchors and in `defaults`.
        anchor_name: Name that distinguishes optimizers whose anchors should differ under one seed, such
            as those of an ensemble: "member 3". It is mixed into the seed, once.
        initial_weights: Anchors of l2-init by parameter. None, or a parameter that is missing: its
            current weights.
        kernel: Implementation of the step. "eager": torch's own operations. "triton": Triton kernels for
            the decay, and for the whole step of Adam and AdamW, which need a CUDA device.
            "triton-drawn": the same, with syre's anchors drawn again at every step and never stored.
            The kernels take float32 and bfloat16 (computed in float32), without anisotropy, amsgrad,
            foreach or fused. Checkpoints do not store it: a run can be continued with another kernel.
        **kwargs: Keyword arguments of the base.

    **What an anchor is drawn from**: (anchor seed, position of the parameter in the optimizer, index of
    the element). So an optimizer that is created again, `type(optimizer)(parameters,
    **optimizer.defaults)`, has the same anchors, and two optimizers with one seed draw the first
    parameter of each toward the same point: give each member of an ensemble its own `anchor_name`. A
    parameter that is sharded over processes (`DTensor`, FSDP2) has the same anchor as in one process.
    Optimizers that split the parameters themselves (`ZeroRedundancyOptimizer`) are refused.

    In a flat list of parameters, a vector takes the fan-in of the weight before it. A vector before
    any weight has none: under syre with sigma > 0 it is not decayed, which is logged as a warning.
    `parameter_groups(model, …)` knows the modules and does better.

    Clip gradients before `step`, as with torch's own decay: the decay is added inside it. The step may
    write to `parameter.grad`, which it restores afterwards, to rounding.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range, a group key is misspelt, the base's own `weight_decay`
            is given (use `strength`), the base's decay is neither coupled nor decoupled and `decoupled`
            does not say how syre or l2-init should act, or the processes of a distributed run cannot
            agree on the anchors.
        RuntimeError: if a kernel is requested, and Triton or a CUDA device is missing.

    Examples:
        >>> optimizer = regularized(torch.optim.SGD)(nn.Linear(4, 2).parameters(), lr=0.1)
        >>> isinstance(optimizer, RegularizedOptimizer)
        True
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
        # The base's `defaults` together with these create the same optimizer again.
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
        """Take one step of the base together with the decay.

        Args:
            closure: Function that reevaluates the model and returns the loss, as for the base.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: if a coupled decay would be added to a sparse gradient, or to one that the base
                may differentiate.
        """
        if self._kernels is not None and self._kernels.whole_step:
            return self._step_in_kernels(self._kernels, closure)
        base_step = step_without_hooks(self.base)
        forms = [self._sync_base_decay(*each) for each in enumerate(self.param_groups)]
        joined = JoinedGradients()

        def closure_then_decay() -> Any:
            assert closure is not None
            joined.undo()  # the closure may run again, and accumulates gradients unless it clears them
            with torch.enable_grad():
                loss = closure()
            self._join(forms, joined)
            return loss

        try:
            if closure is None:
                self._join(forms, joined)
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
            targets = self._targets_of(index, group) if is_active(group) else None
            kernels.adam_step(index, group, self.state, targets)
        return loss

    @torch.no_grad()
    def _join(self, forms: Sequence[DecayForm], joined: JoinedGradients) -> None:
        """Add the decay to the gradients, or to the weights where it is decoupled, before the base's step."""
        self._hold_awaited()
        for index, (group, form) in enumerate(zip(self.param_groups, forms, strict=True)):
            if form in ("none", "base"):
                continue
            targets = self._targets_of(index, group)
            chosen = [i for i in targets.indices if group["params"][i].grad is not None]
            for part in of_one_kind(chosen, group["params"]):
                parameters = [group["params"][i] for i in part]
                target = targets.anchors(part), targets.factors(part)
                if form != "decoupled":
                    self._join_gradients(index, form, joined, parameters, *target)
                elif not joined.moved:
                    self._move(index, parameters, *target)
        joined.apply()
        joined.moved = True  # a closure that runs twice must not decay the weights twice

    def _move(self, index: int, parameters: list[Tensor], anchors: Any, factors: Any) -> None:
        """Apply the decoupled decay to parameters of one group."""
        amount = self._amount(self.param_groups[index], parameters[0])
        if self._kernels is None:
            decay_toward_(parameters, anchors, amount, factors)
        else:
            self._kernels.decay_toward_(index, parameters, anchors, amount)

    def _join_gradients(
        self,
        index: int,
        form: DecayForm,
        joined: JoinedGradients,
        parameters: list[Tensor],
        anchors: Any,
        factors: Any,
    ) -> None:
        """Join the coupled decay, or the anchors' part of it, to the gradients of parameters of one group."""
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        self._require_addable(gradients)
        group = self.param_groups[index]
        # torch negates the gradient before it decays
        strength = -group["strength"] if group.get("maximize", False) else group["strength"]
        if form == "shifted":
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

    def _require_addable(self, gradients: Sequence[Tensor]) -> None:
        """Raise an error unless a coupled decay can be added to these gradients."""
        if any(gradient.is_sparse for gradient in gradients):
            raise RuntimeError(
                "A coupled decay cannot be added to a sparse gradient: give decoupled=True, or make the"
                " gradient dense (nn.Embedding(sparse=False))."
            )
        foreign = not self.base.__module__.startswith("torch.optim")
        if foreign and any(gradient.requires_grad for gradient in gradients):
            raise RuntimeError(
                f"The gradients have a graph (backward(create_graph=True)), which {self.base.__name__} may"
                " differentiate, and a decay added to them has none: give decoupled=True, or"
                ' regularizer="weight-decay", which the base applies itself.'
            )

    def _amount(self, group: Mapping[str, Any], parameter: Tensor) -> Any:
        """Return learning rate * strength: a number, or a tensor where the device decides."""
        lr = group["lr"]
        amount = (lr.squeeze() if isinstance(lr, Tensor) else lr) * group["strength"]
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None:  # GradScaler: the base will skip this step, on the device
            amount = amount * (1 - found_inf.to(parameter.device))
        return amount

    # ---- anchors --------------------------------------------------------------------------------

    def anchor(self, parameter: Tensor) -> Tensor | None:
        """Return the point that a parameter is decayed toward.

        Args:
            parameter: Parameter of this optimizer. Shape: (...).

        Returns:
            The anchor, with the parameter's shape; zeros for weight decay; None if it is not decayed.

        Raises:
            ValueError: if the parameter is not in this optimizer.
        """
        self._follow_every_parameter()
        for group in self.param_groups:
            for i, candidate in enumerate(group["params"]):
                if candidate is parameter:
                    if group["regularizer"] == "none" or not has_target(group, i):
                        return None
                    if parameter in self._awaited:  # frozen: it still has its initial weights
                        found: Tensor | None = parameter.detach()
                    else:
                        found = make_anchor(group, i, self._initial_weights)
                    return torch.zeros_like(parameter) if found is None else found.clone()
        raise ValueError(
            f"This parameter of shape {tuple(parameter.shape)} is in no group of the optimizer: give one"
            " of its parameters."
        )

    def _hold_awaited(self) -> None:
        """Store the weights of parameters that were frozen until now, before their first update."""
        for parameter in [p for p in self._awaited if p.grad is not None]:
            self._initial_weights[parameter] = parameter.detach().clone()
            self._awaited.remove(parameter)

    def _forget(self) -> None:
        super()._forget()
        self._targets: dict[int, Targets] = {}

    def _targets_of(self, index: int, group: dict[str, Any]) -> Targets:
        """Return the targets of a step; where kernels draw syre's anchors, no tensor is created."""
        found = self._targets.get(index)
        if found is None or found.recipe != target_recipe(group):
            draws = self._kernels is not None and self._kernels.draws
            found = self._targets[index] = Targets(group, self._initial_weights, draws=draws)
        return found


def anchor(optimizer: Any, parameter: Tensor) -> Tensor | None:
    """Return the point that a regularized optimizer draws a parameter toward, through any wrapper.

    Args:
        optimizer: A regularized optimizer, or a library's wrapper of one: Accelerate's
            `AcceleratedOptimizer`, Lightning's `LightningOptimizer`, an optimizer that steps another
            (SAM).
        parameter: One of its parameters. Shape: (...).

    Returns:
        The anchor, as `RegularizedOptimizer.anchor` returns it.

    Raises:
        TypeError: if the wrapper contains no regularized optimizer.
        ValueError: if the parameter is not in the optimizer.

    Examples:
        >>> model = nn.Linear(4, 2)
        >>> Syre = regularized(torch.optim.SGD)
        >>> optimizer = Syre(model.parameters(), regularizer="syre", strength=1e-3, sigma=0.3)
        >>> anchor(optimizer, model.weight).shape
        torch.Size([2, 4])
    """
    inside = optimizer
    while inside is not None and not isinstance(inside, RegularizedOptimizer):
        names = ("optimizer", "_optimizer", "base_optimizer", "optim")
        inside = next((each for n in names if (each := getattr(inside, n, None)) is not None), None)
    if inside is None:
        raise TypeError(
            "anchor() takes an optimizer made by regularized(…), or a wrapper of one, not"
            f" {type(optimizer).__name__}."
        )
    point: Tensor | None = inside.anchor(parameter)
    return point
