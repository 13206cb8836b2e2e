"""Mitigations with a hook each, made up for tests: their effects are known, and all hooks occur."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from plasticity.initialization import Normal
from plasticity.mitigations import Mitigation


def per_network(context, tensor):
    """Sum a tensor over all but its leading dimensions."""
    return tensor.flatten(len(context.lead)).sum(-1) if tensor.dim() > len(context.lead) else tensor


@dataclass(frozen=True, kw_only=True)
class L2Penalty(Mitigation):
    """Penalty strength / 2 * |theta|^2, whose gradient is that of weight decay."""

    name: ClassVar[str] = "l2-penalty"
    claims: ClassVar[str] = "the penalty on weights"

    strength: float = 0.1

    def penalty(self, context):
        norms = sum(per_network(context, each.square()) for each in context.parameters.values())
        return context.per_run(self.strength, norms) / 2 * norms


@dataclass(frozen=True, kw_only=True)
class FeaturePenalty(Mitigation):
    """Penalty strength * mean(features^2) of every hidden layer."""

    name: ClassVar[str] = "feature-penalty"
    claims: ClassVar[str] = "the penalty on features"
    reads_units: ClassVar[bool] = True
    penalizes_features: ClassVar[bool] = True

    strength: float = 0.1

    def penalty(self, context):
        means = sum(
            context.mean_over_samples(context.features(layer).square()).mean(-1)
            for layer in context.units
        )
        return context.per_run(self.strength, means) * means


@dataclass(frozen=True, kw_only=True)
class GradientScale(Mitigation):
    """Gradients times a factor."""

    name: ClassVar[str] = "gradient-scale"
    claims: ClassVar[str] = "the size of gradients"

    factor: float = 0.5

    def before_step(self, context):
        for each in context.gradients.values():
            each.mul_(context.per_run(self.factor, each))


@dataclass(frozen=True, kw_only=True)
class BiasGradients(Mitigation):
    """Gradients of hidden biases times the mean activity of their units on the batch of the step."""

    name: ClassVar[str] = "bias-gradients"
    claims: ClassVar[str] = "the gradients of biases"
    reads_units: ClassVar[bool] = True

    def before_step(self, context):
        for layer, units in context.units.items():
            activity = context.mean_over_samples(context.features(layer).abs())
            context.gradients[units.bias].mul_(activity)


@dataclass(frozen=True, kw_only=True)
class Clip(Mitigation):
    """Weights clipped to a range at a cadence."""

    name: ClassVar[str] = "clip"
    claims: ClassVar[str] = "the range of weights"

    every: int = 3
    bound: float = 0.2

    def after_step(self, context):
        for each in context.parameters.values():
            bound = context.per_run(self.bound, each)
            each.copy_(torch.minimum(torch.maximum(each, -bound + 0 * each), bound + 0 * each))


@dataclass(frozen=True, kw_only=True)
class Noise(Mitigation):
    """Normal noise on all weights after every step."""

    name: ClassVar[str] = "noise"
    claims: ClassVar[str] = "the noise"

    sigma: float = 0.01

    def after_step(self, context):
        for each in context.parameters.values():
            noise = context.draw(Normal(1.0), torch.empty_like(each, requires_grad=False))
            each.add_(context.per_run(self.sigma, each) * noise)
        context.count("noise", torch.ones(context.lead, device=each.device))


@dataclass(frozen=True, kw_only=True)
class Replace(Mitigation):
    """Reset of one unit of each layer after every step: one of those whose mean square is below a share."""

    name: ClassVar[str] = "replace"
    claims: ClassVar[str] = "which units are reset"
    reads_units: ClassVar[bool] = True

    share: float = 0.9

    def after_step(self, context):
        chosen = {}
        for layer in context.units:
            sizes = context.mean_over_samples(context.features(layer).square())
            limit = context.per_run(self.share, sizes) * sizes.mean(-1, keepdim=True)
            chosen[layer] = (sizes < limit) & (sizes == sizes.amin(-1, keepdim=True))
        context.reset_units(chosen, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Average(Mitigation):
    """Exponential average of the weights, which the network is evaluated with."""

    name: ClassVar[str] = "average"
    claims: ClassVar[str] = "the weights of an evaluation"

    rate: float = 0.1

    def initial_state(self, context):
        return {name: each.detach().clone() for name, each in context.parameters.items()}

    def after_step(self, context):
        for name, each in context.parameters.items():
            average = context.state[name]
            average.add_((each - average) * context.per_run(self.rate, average))

    def evaluation_parameters(self, context):
        return context.state


@dataclass(frozen=True, kw_only=True)
class Shrink(Mitigation):
    """Weights that are shrunk toward a fresh draw between two tasks."""

    name: ClassVar[str] = "shrink"
    claims: ClassVar[str] = "the start of a task"

    share: float = 0.5

    def boundary(self, context):
        assert context.lead == ()
        for name, each in context.parameters.items():
            each.lerp_(context.fresh(name), self.share)
            for moment in context.moments(name).values():
                moment.zero_()
        context.count("boundaries", torch.ones((), device=each.device))


ALL = (
    L2Penalty(),
    FeaturePenalty(),
    GradientScale(),
    BiasGradients(),
    Clip(),
    Noise(),
    Average(),
    Shrink(),
)
