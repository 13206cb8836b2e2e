"""Context: everything that a mitigation's hooks see of the network that is trained, and can do to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.mitigations.hidden_units import HiddenUnits
from plasticity.mitigations.optimizer_views import Moments
from plasticity.mitigations.parameter_roles import ParameterRole
from plasticity.mitigations.processes import mean_over_processes, num_processes
from plasticity.mitigations.progress import Progress
from plasticity.mitigations.resets import replace_entries, reset_some_units, reset_units
from plasticity.mitigations.trained import Initial, Trained
from plasticity.recording import recorded_sums


class Context:
    """One mitigation's view of a network in training, or of R stacked ones.

    Everything has leading dimensions `...`: none for one network, (R,) for R stacked ones.

    Args:
        networks: The networks.
        progress: Latest events.
        generators: One generator for each network, on its device: all noise of the mitigation comes from it.
    """

    def __init__(
        self, networks: Trained, progress: Progress, generators: Sequence[torch.Generator]
    ) -> None:
        self._networks, self._progress = networks, progress
        self.generators = generators
        """Generator of each network."""
        self._memory: dict[str, Tensor] = {}
        self._scratch: dict[str, Tensor] = {}
        self._numbers: dict[int, tuple[Tensor, list[float]]] = {}
        self.memory: dict[str, Any] = {}
        """Values that the mitigation derives from its state, not anew at every step; emptied by a load."""
        self.state: dict[str, Tensor] = {}
        """State of the mitigation, saved with the network. Shape of each tensor: (..., *shape)."""
        self.counts: dict[str, Tensor] = {}
        """Numbers for the next row of metrics, as `count` adds them. Shape of each: (...)."""

    # ---- what there is --------------------------------------------------------------------------

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading dimensions: () for one network, (R,) for R stacked ones."""
        return self._networks.lead

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by name. Shape of each: (..., *shape)."""
        return self._networks.parameters

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """Parameters that the optimizer trains, and that are not frozen, by name.

        Shape of each: (..., *shape).
        """
        return {name: self.parameters[name] for name in self._networks.optimizer.trained()}

    @property
    def moved(self) -> Mapping[str, Tensor]:
        """Parameters that the step moves, by name: those trained that have a gradient; as `gradients`."""
        return {name: each for name, each in self.trained.items() if each.grad is not None}

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """Buffers by name. Shape of each: (..., *shape)."""
        return self._networks.buffers

    def zeros(self) -> Tensor:
        """Return a 0 for each network, as the start of a sum of its own. Shape: (...)."""
        return next(iter(self.parameters.values())).new_zeros(self.lead)

    @property
    def initialization(self) -> Mapping[str, Initial]:
        """Distributions of the parameters' initial values, by name; a tuple where stacked networks differ."""
        return self._networks.initialization

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Gradients of the parameters that have one, by name, in `before_step` and `after_step`.

        Shape of each: (..., *shape).
        """
        return {name: each.grad for name, each in self.parameters.items() if each.grad is not None}

    def moments(self, name: str) -> Moments:
        """Return the optimizer's state of a parameter by name, such as "exp_avg".

        It may be empty: plain SGD has none, and Adam none before its first step. Shape: (..., *shape).
        """
        return self._networks.optimizer.moments(name)

    def learning_rate(self, name: str) -> float | Tensor:
        """Return the optimizer's learning rate of a parameter, so that it broadcasts to the parameter.

        Raises:
            ValueError: if the optimizer does not train it.
        """
        rate = self._networks.optimizer.learning_rate(name)
        return self.per_run(rate, self.parameters[name])

    @property
    def roles(self) -> Mapping[str, ParameterRole]:
        """Roles of the trained parameters, by name: weight or bias, layer, fan-in; needs `reads_roles`."""
        return self._networks.roles

    @property
    def units(self) -> Mapping[str, HiddenUnits]:
        """Hidden layers by name, from input to output, with weights and readers; needs `reads_units`."""
        return self._networks.units

    def features(self, layer: str) -> Tensor:
        """Return what the units of a layer feed to the layer that reads them, in the latest training step.

        That is after the activation, and after a pooling or normalization behind it. Each entry that a unit
        feeds is a sample: each position of a convolution's map, both outputs of a CReLU. Needs `reads_units`.

        Shape: (..., samples, units).

        Raises:
            RuntimeError: if there was no training step since, whose features were recorded.
        """
        reader = self.units[layer].readers[0]
        parts = [reader.by_unit(each, len(self.lead)) for each in self.reader_inputs(layer)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

    def reader_inputs(self, layer: str) -> list[Tensor]:
        """Return the inputs of the layer that reads these units first, of each forward pass of the step.

        Shape: (..., batch, ..., columns), or (..., batch, channels, *map) of a convolution.

        Raises:
            RuntimeError: as `features`.
        """
        found = self._progress.layer_inputs.get(self.units[layer].readers[0].layer)
        if not found:
            raise RuntimeError(
                f"The features of {layer!r} are not recorded: set reads_units=True in the class of the"
                " mitigation, and read features in penalty, before_step or after_step."
            )
        return found

    @property
    def inputs(self) -> Tensor:
        """Inputs of the current training step; of the latest micro-batch where gradients are accumulated.

        Shape: (..., batch, *input_shape).

        Raises:
            RuntimeError: if there was no forward pass since the latest step.
            ValueError: if the network was called with several tensors, or with one in a container.
        """
        if self._progress.has_other_inputs:
            raise ValueError(
                "A mitigation runs the model again on its inputs, of which only one tensor is recorded, but"
                " the model was called with several tensors, or with a container of them: attach to a part"
                " of it that gets one tensor, or leave the mitigation out."
            )
        if self._progress.inputs is None:
            raise RuntimeError(
                "There are no inputs between two steps: read them in penalty, before_step or after_step, and"
                " those of the task that begins in batches()."
            )
        return self._progress.inputs

    @property
    def example(self) -> Tensor:
        """Return one input of one network, for a state with room for some; needs `reads_example`.

        Shape: (*input_shape).

        Raises:
            RuntimeError: if it is not known.
        """
        if self._progress.example is None:
            raise RuntimeError(
                "No input is known: set reads_example=True in the class of the mitigation."
            )
        return self._progress.example

    @property
    def batch_size(self) -> int:
        """Examples of the latest training step, of each network.

        Those of all micro-batches, and of all processes of a distributed run, which have equal shares.
        """
        return self._progress.batch_size * num_processes()

    def forward(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the networks in evaluation mode, with other parameters or buffers where these are given.

        Nothing of the run changes: no dropout draws, and running statistics are used, not updated.

        Shape: (..., batch, *input_shape) to (..., batch, *output_shape).
        """
        return self._networks.forward(inputs, parameters)

    def forward_with_features(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the networks as `forward`, and return their outputs and the features of each layer.

        They have a graph, in a hook of a step inside `torch.enable_grad()` only. Needs `reads_units`.

        Shape: (..., batch, *input_shape) to (..., batch, *output_shape), and of each layer's features
        (..., samples, units), as in `features`.
        """
        readers = {layer: each.readers[0] for layer, each in self.units.items()}
        layers = tuple(dict.fromkeys(each.layer for each in readers.values()))
        outputs, found = self._networks.forward_with_inputs_of(layers, inputs)
        lead = len(self.lead)
        return outputs, {
            layer: reader.by_unit(found[reader.layer], lead) for layer, reader in readers.items()
        }

    def forward_with_inputs_of(
        self,
        layers: Sequence[str],
        inputs: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the networks as `forward`, and return the inputs of these layers, too.

        Shape: (..., batch, *input_shape) to (..., batch, *output_shape), and of each input (..., batch, …).
        """
        return self._networks.forward_with_inputs_of(layers, inputs, parameters)

    def forward_with_sums_of(
        self,
        layers: Sequence[str],
        inputs: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the networks as `forward`, and return what the units of these layers sum up, too.

        That is before a normalization or an activation. Shape: (..., batch, *input_shape) to
        (..., batch, *output_shape), and of each layer's sums (..., batch, units, …).

        Raises:
            ValueError: if a layer is neither linear nor a convolution.
        """
        return self._networks.forward_with_inputs_of(layers, inputs, parameters, recorded_sums)

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Iterate over inputs and labels of the task that begins; in `boundary` only.

        Raises:
            RuntimeError: if the learner has no such data, as an agent in an environment.
        """
        if self._progress.batches is None:
            raise RuntimeError(
                "There are no batches of the task that begins: only a learner of examples has them, and only"
                " in boundary()."
            )
        return self._progress.batches()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch of the task that begins; in `boundary` only. Shape: ()."""
        return self._progress.loss(outputs, labels)

    @property
    def step(self) -> int:
        """Optimizer steps done so far, on this network."""
        return self._progress.step

    @property
    def task(self) -> int:
        """Index of the current task; in `boundary`, of the one that begins.

        Stacked agents meet tasks at different times: outside of `boundary`, it is that of any one's latest.
        """
        return self._progress.task

    # ---- settings, statistics, noise ------------------------------------------------------------

    def per_run(self, value: float | Tensor, like: Tensor) -> float | Tensor:
        """Return a setting so that it broadcasts to a tensor, each network with its own value.

        A plain (R,) against (R, units) would broadcast along the units, silently where R equals their number.

        Args:
            value: A field of the mitigation: a number, or one for each stacked network, (R,).
            like: Tensor of floats that it is used with, whose dtype it gets, as a number does. Shape:
                (R, ...).
        """
        if not isinstance(value, Tensor):
            return value
        value = value.to(like.dtype)
        return value.view(*value.shape, *[1] * (like.dim() - value.dim()))

    def plain_numbers(self, value: float | Tensor) -> list[float]:
        """Return a setting as plain numbers, one for each network; only the first call waits for the device.

        Args:
            value: A field of the mitigation: a number, or one for each stacked network, (R,).
        """
        if not isinstance(value, Tensor):
            return [value] * len(self.generators)
        if id(value) not in self._numbers:
            # The shortest decimals that give these floats: in half the digits, 1e-4 is another number.
            read = [float(str(each)) for each in value.cpu().numpy()]
            self._numbers[id(value)] = value, read
        return self._numbers[id(value)][1]

    def mean_over_samples(self, values: Tensor) -> Tensor:
        """Average over samples, and over the processes of a distributed run.

        Shape: (..., samples, units) to (..., units).
        """
        return self.averaged(values, (-2,))

    def averaged(self, values: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Average over dimensions, and over the processes of a distributed run; in float32 at least."""
        # in half precision, a mean of many small numbers would lose digits, or be 0
        dtype = torch.float32 if values.element_size() < 4 else values.dtype
        return mean_over_processes(values.mean(dims, dtype=dtype))

    def any_over_samples(self, values: Tensor) -> Tensor:
        """Return whether any sample of a unit is True, in any process of a distributed run.

        Shape: (..., samples, units) to (..., units), bool.
        """
        samples, units = values.shape[-2:]
        # In two steps over bytes, of which the first goes along the memory: a quarter of the time of any().
        parts = math.gcd(samples, 64)
        folded = values.contiguous().view(torch.uint8)
        folded = folded.view(*values.shape[:-2], samples // parts, parts, units)
        found = folded.amax(-3).amax(-2).bool()
        if num_processes() == 1:
            return found
        return mean_over_processes(found.to(torch.float32)) > 0

    def draw(self, distribution: Initial, out: Tensor) -> Tensor:
        """Fill a tensor from a distribution, each network by its own generator.

        Args:
            distribution: For example `Normal(1e-3)`; or one for each network.
            out: Tensor to fill. Shape: (..., *shape).
        """
        each = (
            distribution
            if isinstance(distribution, tuple)
            else (distribution,) * len(self.generators)
        )
        tensors = out if self.lead else (out,)
        for one, own, generator in zip(each, tensors, self.generators, strict=True):
            one.draw_(own, generator)
        return out

    def fresh(self, name: str) -> Tensor:
        """Draw a parameter from the distribution of its initial weights.

        The next call for the parameter overwrites it. Shape: (..., *shape).
        """
        if name not in self._memory:
            self._memory[name] = torch.empty_like(
                self.parameters[name], memory_format=torch.contiguous_format, requires_grad=False
            )
        return self.draw(self._networks.initialization[name], self._memory[name])

    def scratch(self, name: str) -> Tensor:
        """Return memory of a parameter's shape, for what lasts from `before_step` to `after_step`.

        It is the same at every call, and is not saved. Shape: (..., *shape).
        """
        if name not in self._scratch:
            self._scratch[name] = torch.empty_like(self.parameters[name], requires_grad=False)
        return self._scratch[name]

    # ---- what it can do -------------------------------------------------------------------------

    def reset_units(
        self,
        chosen: Mapping[str, Tensor],
        *,
        at_most: int | None = None,
        keep_outgoing: bool = False,
    ) -> dict[str, Tensor]:
        """Reset units: draw their incoming weights anew, and set the outgoing ones and all moments to 0.

        Biases and the offsets of a normalization become 0, its factors 1. All units are drawn before outgoing
        weights are set to 0. The next row counts the units, as `reset_units/LAYER`.

        Args:
            chosen: Units to reset, by layer. Bool. Shape of each: (..., units).
            at_most: Largest number of units of a layer that are reset, those with the lowest indices; the
                others are left for later. For resets at every step, which then touch only their weights.
                None: all.
            keep_outgoing: Leave the outgoing weights and their moments as they are. Not with `at_most`.

        Returns:
            The units that were reset, by layer. Bool. Shape of each: (..., units).
        """
        if at_most is None:
            done = dict(chosen)
            reset_units(self._networks, chosen, self._draw, keep_outgoing=keep_outgoing)
        else:
            done = reset_some_units(self._networks, chosen, at_most, self._draw)
        for layer, mask in done.items():
            self.count(f"reset_units/{layer}", mask.sum(-1))
        return done

    def replace(self, name: str, chosen: Tensor, values: Tensor) -> None:
        """Replace entries of a parameter, and set their moments to 0.

        Args:
            name: Name of the parameter.
            chosen: Which entries. Bool, broadcast to the parameter. Shape: (..., *shape).
            values: New values, of which only those of chosen entries count. Shape: likewise.
        """
        replace_entries(self._networks, name, chosen, values)

    def clear_moments(self, name: str) -> None:
        """Set the moments of a parameter to 0, and leave the optimizer's count of steps."""
        for moment in self._networks.moments(name):
            moment.zero_()

    def restart_optimizer(self, names: Iterable[str] | None = None) -> None:
        """Return the optimizer's state to what it is before the first step: moments and counts of steps.

        Args:
            names: Names of parameters. None: all that it trains.
        """
        chosen = list(self.parameters if names is None else names)
        for name in chosen:
            for memory in self._networks.memories.get(name, ()):
                memory.zero_()
        self._networks.optimizer.restart(chosen)

    def _draw(self, distribution: Initial, out: Tensor) -> None:
        self.draw(distribution, out)

    def count(self, name: str, number: Tensor) -> None:
        """Add to a number that the next row of metrics tells, without waiting for the device.

        Args:
            name: Name in the row.
            number: Shape: (...).
        """
        self._number(name, number.to(torch.float32)).add_(number)

    # ---- one of several networks, for a boundary ------------------------------------------------

    def of_run(self, index: int) -> Context:
        """Return the context of one of R stacked networks, with views of their memory."""
        own = Context(self._networks.of_run(index), self._progress, [self.generators[index]])
        own.state = {name: each[index] for name, each in self.state.items()}
        return own

    def take_back(self, own: Context, index: int) -> None:
        """Take over the state and the counts of one of R stacked networks, which its hook has changed."""
        for name, each in own.state.items():
            self.state[name][index] = each
        for name, number in own.counts.items():
            self._number(name, number)[index] += number

    def _number(self, name: str, like: Tensor) -> Tensor:
        """Return the memory of a counted number. Shape: (...)."""
        if name not in self.counts:
            self.counts[name] = like.new_zeros(self.lead)
        return self.counts[name]

    def load(self, state: Mapping[str, Tensor], counts: Mapping[str, Tensor], index: int) -> None:
        """Load one network's state and counts, saved on any device."""
        self.memory.clear()
        for name, each in self.state.items():
            (each[index] if self.lead else each).copy_(state[name])
        for each in self.counts.values():
            (each[index] if self.lead else each).zero_()
        for name, number in counts.items():
            own = self._number(name, number.to(self._networks.device))
            (own[index] if self.lead else own).copy_(number)
