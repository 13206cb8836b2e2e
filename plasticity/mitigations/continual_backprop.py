"""Continual backprop: steady replacement of the units that are of the least use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_number
from plasticity.initialization import Uniform
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.replacement_schedule import (
    Replacements,
    initial_schedule,
    next_due,
    take_due,
)
from plasticity.mitigations.unit_averages import (
    incoming_sums,
    joined,
    joined_features,
    mean_features,
    mean_magnitudes,
    outgoing_sums,
    weight_magnitudes,
)
from plasticity.precision import wide_dtype
from plasticity.seeds import child_seed

Utility = Literal[
    "contribution",
    "zero-contribution",
    "adaptable-contribution",
    "adaptation",
    "weight",
    "random",
]
"""Measures of how much a unit is of use, by their name in a configuration."""


@mitigation("cbp")
@dataclass(frozen=True, kw_only=True)
class ContinualBackprop(Mitigation):
    """Replacement of a small share of the old units of each layer, after every step (Dohare et al., 2024).

    See "Loss of plasticity in deep continual learning", Nature 632. After each step, a layer whose n units
    are older than `maturity_threshold` steps replaces `replacement_rate` * n of them: those with the lowest
    utility, an exponential average of

    | utility | of a unit with features h, weights w_out that read it and w_in that make it |
    |---|---|
    | `contribution` | mean abs(h) * sum abs(w_out) |
    | `zero-contribution` | mean abs(h - f) * sum abs(w_out), with f the average of h |
    | `adaptable-contribution` | mean abs(h - f) * sum abs(w_out) / mean abs(w_in) |
    | `adaptation` | 1 / mean abs(w_in) |
    | `weight` | sum abs(w_out) |
    | `random` | uniform from 0 to 1 |

    A mean in place of the sum, as others have it, gives the same order within a layer.
    The averages are corrected for their beginning at 0, as Adam's. A replaced unit gets new incoming weights
    from the distribution of the layer's initial ones and a bias of 0; outgoing weights and the moments of all
    these become 0. What the unit fed to its readers on average, w_out * f, is added to their biases before
    that, so that a unit that is constant leaves the outputs as they are.

    What is decided here:

    - The defaults are those of the published layer classes; the experiments with reinforcement learning have
      a `maturity_threshold` of 10,000, with permuted MNIST `adaptable-contribution`, and in incremental
      CIFAR-100 a rate of 1e-5 and a threshold of 1000.
    - All layers of a step get their new weights before any outgoing weight becomes 0, and all of that after
      the optimizer's step.
    - Of equal utilities, the unit with the lowest index is replaced first.
    - A convolution's unit is its channel; mean features are over its map, and its share of the bias is exact
      but for the padding at borders. Behind a flatten or a CReLU each position has a mean of its own.
      A reader without a bias gets no share. The moments of the readers' biases stay.
    - A layer normalization that reads the units sees others when one is replaced: outputs then change.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the utility is unknown.
    """

    kind: ClassVar[Kind] = "unit reset"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str] = "which units are reset"
    reads_units: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "replacement_rate": (1e-6, 1e-5, 1e-4, 3e-4)
    }

    replacement_rate: float = 1e-4
    """Share of the old units of a layer that is replaced in a step, 0 to 1."""

    maturity_threshold: int = 100
    """Steps since the beginning, or since its replacement, that a unit must exceed to be replaced."""

    utility: Utility = "contribution"
    """Measure by which units are compared within a layer."""

    decay: float = 0.99
    """Decay of the averages of utilities and features in each step."""

    accumulate: bool = True
    """Add up parts of a unit until they are one. False: replace one with that probability in each step."""

    def __post_init__(self) -> None:
        require_number("replacement_rate", self.replacement_rate, minimum=0.0)
        if self.replacement_rate > 1:
            raise ValueError(
                f"replacement_rate is a share of units, and must be at most 1, not"
                f" {self.replacement_rate}."
            )
        require_integer("maturity_threshold", self.maturity_threshold, minimum=0)
        require_known("utility", self.utility, get_args(Utility))
        require_number("decay", self.decay, minimum=0.0, below=1.0)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return averages of units, and when they were new.

        Shapes: (..., units), (..., units * positions) of mean features; and the schedule, on the host.
        """
        state = {}
        for layer, units in context.units.items():
            weight = context.parameters[units.weight]
            shape = *context.lead, units.count
            empty = torch.zeros(shape, dtype=wide_dtype(weight), device=weight.device)
            state[f"utility/{layer}"] = empty
            state[f"mean/{layer}"] = empty.repeat_interleave(units.readers[0].columns.shape[1], -1)
            state[f"born/{layer}"] = torch.zeros_like(empty, dtype=torch.int64)
            # so that every row tells the number, those of the first steps too
            context.count(f"reset_units/{layer}", empty.sum(-1))
        for setting in (self.replacement_rate, self.decay):
            context.plain_numbers(setting)  # read once, before the steps
        sizes = [units.count for units in context.units.values()]
        return state | initial_schedule(sizes, context.lead)

    def after_step(self, context: Context) -> None:
        """Update the averages, and replace the units that are due."""
        self._observe(context)
        if "due" not in context.memory:
            context.memory["due"] = next_due(context.state)
        if context.memory["due"] > context.step:
            return
        del context.memory["due"]
        # each network by itself, so that it draws what it would draw alone
        for run, generator in enumerate(context.generators):
            one = context.of_run(run) if context.lead else context
            numbers = self._take_due(
                one, context.plain_numbers(self.replacement_rate)[run], generator
            )
            if numbers:
                self._replace(one, numbers, context.plain_numbers(self.decay)[run])
            if context.lead:
                context.take_back(one, run)

    def _observe(self, context: Context) -> None:
        """Take the features and weights of this step into the averages."""
        features = joined_features(context)
        self._average(context, "mean", mean_features(context, features))
        if self.utility != "random":
            self._average(context, "utility", self._now(context, features))

    def _average(self, context: Context, kind: str, now: Tensor) -> None:
        """Update the averages of one kind. Shape of `now`: (..., numbers of all layers)."""
        if kind not in context.memory:
            _join(context, kind)
        whole = context.memory[kind]
        share = 1 - context.per_run(self.decay, whole)
        if now.shape == whole.shape:
            whole.lerp_(now, share)
            return
        # some layers do not run in this step, or are not trained now
        own = [context.state[f"{kind}/{layer}"] for layer in context.units]
        for each, part in zip(
            own, torch.split(now, [each.shape[-1] for each in own], -1), strict=True
        ):
            each.lerp_(part, share)

    def _now(self, context: Context, features: list[Tensor]) -> Tensor:
        """Return utilities in this step, without an average. Shape: (..., units of all layers)."""
        magnitudes = weight_magnitudes(
            context,
            incoming=self.utility in ("adaptable-contribution", "adaptation"),
            outgoing=self.utility != "adaptation",
        )
        if self.utility == "adaptation":
            return 1 / _incoming(context, magnitudes)
        outgoing = outgoing_sums(context, magnitudes)
        if self.utility == "weight":
            return outgoing
        if self.utility == "contribution":
            return mean_magnitudes(context, features) * outgoing
        contribution = outgoing.mul_(mean_magnitudes(context, features, self._usual(context)))
        if self.utility == "zero-contribution":
            return contribution
        return contribution.div_(_incoming(context, magnitudes))

    def _usual(self, context: Context) -> Tensor:
        """Return the averages of features as if they had not begun at 0.

        Shape: (..., columns of all layers).
        """
        own = [context.state[f"mean/{layer}"] for layer in context.units]
        mean, born = context.memory["mean"], context.memory.get("born")
        if born is None:
            born = _join(context, "born")
        if mean.shape == born.shape and sum(each.shape[-1] for each in own) == mean.shape[-1]:
            return self._corrected(context, born, mean)  # all layers in one operation each
        return joined(
            [
                self._corrected(context, context.state[f"born/{layer}"], each)
                for layer, each in zip(context.units, own, strict=True)
            ]
        )

    def _corrected(
        self, context: Context, born: Tensor, average: Tensor, decay: float | None = None
    ) -> Tensor:
        """Return an average of units or columns as if it had not begun at 0.

        Args:
            context: Context of the networks.
            born: Steps at which the units were new. Shape: (..., units).
            average: Shape: (..., units), or (..., units * positions).
            decay: Decay of this network. None: that of each.
        """
        share = self._share_seen(context, context.step - born, average.dtype, decay)
        positions = average.shape[-1] // share.shape[-1]
        return average / (share if positions == 1 else share.repeat_interleave(positions, -1))

    def _share_seen(
        self, context: Context, age: Tensor, dtype: torch.dtype, decay: float | None
    ) -> Tensor:
        """Return 1 - decay^age, the share of an average that is not still its beginning. Shape: as `age`."""
        if context.lead or not isinstance(self.decay, float):
            ages = age.to(dtype)
            return 1 - (context.per_run(self.decay, ages) if decay is None else decay) ** ages
        if "shares" not in context.memory:
            # until they are 1: looking them up takes half the time of computing them
            last = math.log(torch.finfo(dtype).eps / 8, self.decay) if self.decay else 1
            ages = torch.arange(int(last) + 2, dtype=dtype, device=age.device)
            context.memory["shares"] = 1 - self.decay**ages
        shares: Tensor = context.memory["shares"]
        flat = age.flatten().clamp_(max=len(shares) - 1)
        return shares.index_select(0, flat).view(age.shape)

    def _take_due(
        self, context: Context, rate: float, generator: torch.Generator
    ) -> dict[str, int]:
        """Return how many units of one network are replaced after this step, by layer, if there are any."""

        def drawn(layer: str, step: int) -> float:
            # a hash, since a draw on the device would have to be waited for
            return child_seed(generator.initial_seed(), f"{layer}/{step}") / 2**63

        layers = [name.removeprefix("born/") for name in context.state if name.startswith("born/")]
        rules = [
            Replacements(
                rate, self.maturity_threshold, None if self.accumulate else partial(drawn, layer)
            )
            for layer in layers
        ]
        numbers = take_due(context.state, context.step, rules)
        # a layer that takes no part in this step is passed over
        return {
            layer: number
            for layer, number in zip(layers, numbers, strict=True)
            if number and layer in context.units
        }

    def _replace(self, context: Context, numbers: Mapping[str, int], decay: float) -> None:
        """Replace units of one network.

        Args:
            context: Context of the network. Its leading dimensions are ().
            numbers: Number of units to replace, by layer.
            decay: Decay of the averages.
        """
        chosen = {}
        for layer, number in numbers.items():
            utility, born = (context.state[f"{name}/{layer}"] for name in ("utility", "born"))
            if self.utility == "random":
                scores = context.draw(Uniform(1.0), torch.empty_like(utility))
            else:
                scores = self._corrected(context, born, utility, decay)
            is_young = context.step - born <= self.maturity_threshold
            # stable: what topk() makes of equals, such as dead units, differs between devices
            lowest = scores.masked_fill(is_young, torch.inf).sort(stable=True).indices[:number]
            chosen[layer] = torch.zeros_like(is_young).scatter_(0, lowest, True)
            usual = self._corrected(context, born, context.state[f"mean/{layer}"], decay)
            _hand_over(context, layer, chosen[layer], usual)
        context.reset_units(chosen, at_most=max(numbers.values()))
        for layer, mask in chosen.items():
            context.state[f"utility/{layer}"].masked_fill_(mask, 0)
            context.state[f"born/{layer}"].masked_fill_(mask, context.step)
            mean = context.state[f"mean/{layer}"]
            mean.view(len(mask), -1).masked_fill_(mask.unsqueeze(-1), 0)


def _incoming(context: Context, magnitudes: Mapping[str, Tensor]) -> Tensor:
    """Return the mean absolute weight that makes each unit. Shape: (..., units of all layers)."""
    sums, numbers = incoming_sums(context, magnitudes)
    if context.memory.get("inputs of", ()) != numbers:
        sizes = [units.count for units in context.units.values()]
        counts = torch.tensor(numbers, dtype=sums.dtype).repeat_interleave(torch.tensor(sizes))
        context.memory["inputs of"], context.memory["inputs"] = numbers, counts.to(sums.device)
    means: Tensor = sums / context.memory["inputs"]
    return means.clamp(min=torch.finfo(means.dtype).tiny)  # 0 / 0 would stay in the average


def _join(context: Context, kind: str) -> Tensor:
    """Put what belongs to all layers side by side in memory, so that one operation serves them all."""
    parts = {name: each for name, each in context.state.items() if name.startswith(f"{kind}/")}
    whole = torch.cat([*parts.values()], -1)
    context.memory[kind] = whole
    views = torch.split(whole, [each.shape[-1] for each in parts.values()], -1)
    context.state.update(zip(parts, views, strict=True))
    return whole


def _hand_over(context: Context, layer: str, chosen: Tensor, usual: Tensor) -> None:
    """Add what units feed on average to the biases of their readers.

    Args:
        context: Context of one network.
        layer: Name of the units' layer.
        chosen: Units. Bool. Shape: (units,).
        usual: Their mean features. Shape: (units * positions,).
    """
    amounts = usual.view(len(chosen), -1) * chosen.unsqueeze(-1)
    for reader in context.units[layer].readers:
        bias = context.parameters.get(reader.weight.removesuffix("weight") + "bias")
        if bias is None or not bias.requires_grad:
            continue
        weight = context.parameters[reader.weight].detach()
        # a reader of a map, and one behind a flatten, see the same units at different positions
        fed = amounts if amounts.shape == reader.columns.shape else amounts.mean(-1, keepdim=True)
        by_column = weight.new_zeros(weight.shape[reader.axis])
        by_column[reader.columns] = fed.to(weight.dtype)
        by_output = weight.movedim(reader.axis, 0)
        if by_output.dim() > 2:
            by_output = by_output.flatten(2).sum(-1)
        bias.detach().add_(by_column @ by_output)
