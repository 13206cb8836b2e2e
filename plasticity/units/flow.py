"""Connections between layers: the units of each layer and the weights that read them, from one probe pass.

A module's weights do not show which layers read its output. So the model runs once on a probe, and unit
numbers follow its tensors through every operation (`plasticity.units.tracer`): activations, normalisation,
pooling, reshaping and transposing, flattening, padding, concatenation. A weight that meets the numbers is a
reader, and the numbers show which of its columns each unit feeds. Where the outputs of two layers meet in a
sum or product, a reader sees each pair of units that meet as one unit, and the layers are joined.

The result of one pass holds for the branches that it took. Nothing is guessed about a layer whose output
goes through an unknown operation: its readers are marked as unknown, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.checks import nearest
from plasticity.preserve_state import preserve_state
from plasticity.units.record import Read, Source, UnitRecord
from plasticity.units.tracer import UnitTracer
from plasticity.wrappers import bypassed, raw_module

__all__ = ["Reader", "UnitFlow", "UnitLayer", "trace_units"]


@dataclass(frozen=True)
class Reader:
    """Weight that reads the units of a layer.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> (reader,) = trace_units(model, torch.randn(8, 4)).layers[0].readers
        >>> reader.layer, reader.weight
        ('2', '2.weight')
    """

    layer: str
    """Name of the layer that the weight belongs to."""

    weight: str
    """Name of the weight in the model, ``fc2.weight``."""

    axis: int
    """Axis of the weight along which it reads: 1 of a linear layer or a convolution."""

    columns: Tensor
    """Positions along this axis that each unit feeds; several after a flattened convolution map. Units with
    fewer positions are padded with -1. In a grouped convolution, positions count over the channels of all
    groups. int64, on the CPU. Shape: (units, positions)."""

    groups: int = 1
    """Number of groups of a convolution; 1 otherwise."""


@dataclass(frozen=True, eq=False)
class UnitLayer:
    """Layer that ran in the probe pass: a weight whose outputs are units.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> first, second = trace_units(model, torch.randn(8, 4)).layers
        >>> first.weight, first.is_output, second.is_output
        ('0.weight', False, True)
    """

    name: str
    """Name of its module, or of its parameter where a module owns several (``W1``, ``block.W1``)."""

    units: int
    """Number of units: output features or channels."""

    weight: str | None
    """Name of the weight in the model. None: the units have no weight of their own (an LSTM)."""

    axis: int | None
    """Axis of the weight that holds the units: 0 of a linear layer or a convolution, 1 of ``x @ W``.
    None: no single axis holds them."""

    bias: str | None
    """Name of the bias in the model, if there is one."""

    readers: tuple[Reader, ...]
    """Weights that read its units, in the order of the pass."""

    scales: tuple[str, ...]
    """Names of the factors of normalisations of its units, learned ones and running variances, which are 1 at
    the beginning. Shape of each in the model: (units, …)."""

    offsets: tuple[str, ...]
    """Names of the offsets of normalisations, and running means, which are 0 at the beginning; likewise."""

    joined: Mapping[str, Tensor]
    """Layers whose units meet this layer's in a sum or product, with the index of the unit that each of this
    layer's units meets: units that a reader cannot tell apart. Shape of each: (units,)."""

    not_followed: str | None
    """Reason why `readers` may be incomplete; None if they are complete."""

    unequal: str | None
    """Reason why its units cannot be exchanged although their readers are known; None if they can."""

    is_output: bool
    """Whether its units are part of the model's output."""


@dataclass(frozen=True, eq=False)
class UnitFlow:
    """Layers and connections that one probe pass found.

    Examples:
        >>> flow = trace_units(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(8, 4))
        >>> len(flow.layers)
        1
    """

    layers: tuple[UnitLayer, ...]
    """Layers in the order in which they first ran."""

    def __getitem__(self, name: str) -> UnitLayer:
        """Return a layer by its name.

        Raises:
            KeyError: if no layer of that name ran, naming the nearest.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = [layer.name for layer in self.layers]
        raise KeyError(f"no layer {name!r} ran in the probe pass.{nearest(name, known)}")


def trace_units(model: nn.Module, *inputs: Any, **keywords: Any) -> UnitFlow:
    """Run the model once, without disturbing it, and find its layers' units and the weights that read them.

    ::

        flow = trace_units(model, images)
        for reader in flow["conv2"].readers:
            print(reader.weight, reader.columns)  # fc.weight, (channels, positions)

    Args:
        model: Any module that runs eagerly. It runs in evaluation mode, without gradients; training flags,
            buffers and random state are restored afterwards.
        *inputs: Positional arguments for the model.
        **keywords: Keyword arguments for the model.

    Returns:
        The layers that ran, with their readers.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> flow = trace_units(model, torch.randn(8, 4))
        >>> [(layer.name, layer.units) for layer in flow.layers]
        [('0', 3), ('2', 2)]
    """
    return trace_call(model, lambda inner: inner(*inputs, **keywords))


def trace_call(model: nn.Module, call: Callable[[nn.Module], Any]) -> UnitFlow:
    """Find the units as `trace_units`, from a call that a function makes.

    Args:
        model: As there.
        call: Function that runs the module that it is given once: the one inside the model's wrappers.

    Returns:
        The layers that ran, with their readers.
    """
    return flow_of(traced(model, lambda inner, _: call(inner)))


def traced(model: nn.Module, call: Callable[[nn.Module, UnitTracer], Any]) -> UnitTracer:
    """Trace a call that a function makes, as `trace_call`, and return the tracer.

    Args:
        model: As there.
        call: Function that runs the module that it is given once. It is also given the tracer, which knows
            the units of a tensor while the module runs.
    """
    given, model = model, raw_module(model)
    tracer = UnitTracer(model, check_equality=True)
    with ExitStack() as block:
        block.enter_context(preserve_state(model))
        block.enter_context(bypassed(given))
        tracer.attach(block)
        call(model, tracer)
    return tracer


def flow_of(tracer: UnitTracer) -> UnitFlow:
    """Return the layers and connections that a tracer saw in the model's last call."""
    return _Resolver(tracer.record).flow()


class _Resolver:
    """Resolver of the numbers of a pass into layers: unit ``i`` of ``fc1`` has one number per call of it."""

    def __init__(self, record: UnitRecord) -> None:
        self.record = record
        self.not_followed = dict(record.not_followed)
        self.unequal = dict(record.unequal)
        self.order = list(dict.fromkeys(record.executed))
        own: dict[str, list[Source]] = defaultdict(list)
        for source in record.sources:
            if source.members is None and source.layers:
                own[next(iter(source.layers))].append(source)
        self.own = own
        self.layer = torch.full((record.next_number,), -1)
        self.unit = torch.arange(record.next_number)
        self.size = {}
        for index, name in enumerate(self.order):
            largest = 0
            for source in own[name]:
                end = source.start + source.count
                span = slice(source.first, source.first + source.count)
                self.layer[span] = index
                self.unit[span] = torch.arange(source.start, end)
                largest = max(largest, end)
                if source.weight is not None and source.axis is not None:
                    largest = max(largest, source.weight.shape[source.axis])
            self.size[name] = largest

    def flow(self) -> UnitFlow:
        readers, normalizers = self._readers(), self._normalizers()
        joined = self._joined()
        self._find_shared(joined)
        layers = []
        for name in self.order:
            first = self.own[name][0]
            layers.append(
                UnitLayer(
                    name=name,
                    units=self.size[name],
                    weight=first.path,
                    axis=first.axis,
                    bias=next((each.bias for each in self.own[name] if each.bias), None),
                    readers=tuple(readers.get(name, ())),
                    scales=tuple(normalizers[name, True]),
                    offsets=tuple(normalizers[name, False]),
                    joined=joined.get(name, {}),
                    not_followed=self.not_followed.get(name),
                    unequal=self.unequal.get(name),
                    is_output=name in self.record.outputs,
                )
            )
        return UnitFlow(tuple(layers))

    def _readers(self) -> dict[str, list[Reader]]:
        pairs: dict[tuple[str, str, str, int, int], list[Tensor]] = {}
        for read in self.record.reads:
            for name, found in self._pairs(read):
                key = (name, read.layer, read.path, read.axis, read.groups)
                pairs.setdefault(key, []).append(found)
        readers: dict[str, list[Reader]] = defaultdict(list)
        for (name, layer, path, axis, groups), pairs_found in pairs.items():
            columns = self._columns(name, torch.unique(torch.cat(pairs_found), dim=0))
            if name == layer:
                self.not_followed.setdefault(name, "it reads itself")
            readers[name].append(Reader(layer, path, axis, columns, groups))
        return readers

    def _normalizers(self) -> Mapping[tuple[str, bool], list[str]]:
        """Return the names of factors (True) and offsets (False) of normalisations, by layer."""
        found: dict[tuple[str, bool], list[str]] = defaultdict(list)
        for numbers, path, is_factor in self.record.normalizers:
            if bool((numbers < 0).any()):
                continue
            layers = self.layer[numbers]
            name = self.order[int(layers[0])]
            is_whole = len(numbers) == self.size[name] and bool((layers == layers[0]).all())
            # in the order of the units; a part of a layer is nobody's
            in_order = torch.equal(self.unit[numbers], torch.arange(len(numbers)))
            if is_whole and in_order and path not in found[name, is_factor]:
                found[name, is_factor].append(path)
        return found

    def _pairs(self, read: Read) -> Iterable[tuple[str, Tensor]]:
        """Yield the units of each layer with the positions that they feed. Shape of each: (pairs, 2)."""
        base = self.record.members_of(read.units)
        positions = torch.arange(read.start, read.start + len(base))[:, None].expand(base.shape)
        units, positions = base[base >= 0], positions[base >= 0]
        layers = self.layer[units]
        for index in torch.unique(layers[layers >= 0]).tolist():
            of_layer = layers == index
            pair = torch.stack([self.unit[units[of_layer]], positions[of_layer]], 1)
            yield self.order[index], pair

    def _columns(self, name: str, pairs: Tensor) -> Tensor:
        units, counts = pairs[:, 0], pairs[:, 0].bincount(minlength=self.size[name])
        columns = torch.full((self.size[name], int(counts.max())), -1)
        # The pairs are sorted by unit: the rank of each within its unit.
        rank = torch.arange(len(units)) - (counts.cumsum(0) - counts)[units]
        columns[units, rank] = pairs[:, 1]
        if bool((counts != counts[0]).any()):
            self.unequal.setdefault(
                name, "its units are not read alike: some feed more positions than others"
            )
        return columns

    def _find_shared(self, joined: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Mark layers whose weights other layers use too: exchanging units would change those as well."""
        # For each weight and axis, the groups of layers that use each position along it.
        uses: dict[tuple[Any, int | None], dict[int, set[frozenset[str]]]] = defaultdict(
            lambda: defaultdict(set)
        )
        axes: dict[tuple[frozenset[str], Any], set[int | None]] = defaultdict(set)
        for name in self.order:
            for source in self.own[name]:
                if source.weight is not None:
                    group = frozenset({name, *joined.get(name, ())})
                    for position in range(source.start, source.start + source.count):
                        uses[source.weight.identity, source.axis][position].add(group)
                    axes[group, source.weight.identity].add(source.axis)
        for read in self.record.reads:
            for name, pairs in self._pairs(read):
                group = frozenset({name, *joined.get(name, ())})
                for position in pairs[:, 1].tolist():
                    uses[read.weight.identity, read.axis][position].add(group)
                axes[group, read.weight.identity].add(read.axis)
        for use in self.record.input_reads & set(uses):
            for groups in uses[use].values():
                groups.add(frozenset())
        used_alike = chain.from_iterable(each.values() for each in uses.values())
        several = (groups for groups in used_alike if len(groups) > 1)
        for name in chain.from_iterable(chain.from_iterable(several)):
            self.unequal.setdefault(name, "other layers also use its weight, or one that reads it")
        for (group, _), used in axes.items():
            for name in group if len(used) > 1 else ():
                self.unequal.setdefault(name, "one matrix is both its weight and its reader's")

    def _joined(self) -> dict[str, dict[str, Tensor]]:
        """Return, for each layer, the layers that it is joined with, unit by unit."""
        parent = list(range(self.record.next_number))

        def root(number: int) -> int:
            while parent[number] != number:
                parent[number] = parent[parent[number]]
                number = parent[number]
            return number

        is_joined = False
        for source in self.record.sources:
            if source.members is None:
                continue
            is_joined = True
            for shift, members in enumerate(source.members.tolist()):
                for member in members:
                    if member >= 0:
                        parent[root(source.first + shift)] = root(member)
        if not is_joined:
            return {}
        return self._grouped(torch.tensor([root(number) for number in range(len(parent))]))

    def _grouped(self, roots: Tensor) -> dict[str, dict[str, Tensor]]:
        unit_of: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for source in self.record.sources:
            if source.members is None:
                for number in range(source.first, source.first + source.count):
                    unit_of[int(roots[number])][int(self.layer[number])].add(int(self.unit[number]))
        partners: dict[int, set[int]] = defaultdict(set)
        for members in unit_of.values():
            for layer in members:
                partners[layer] |= set(members)
        joined: dict[str, dict[str, Tensor]] = {}
        for index, name in enumerate(self.order):
            group = partners[index]
            if group <= {index} and all(len(each.get(index, ())) <= 1 for each in unit_of.values()):
                continue
            if -1 in group:
                self.unequal.setdefault(name, "each of its units meets one of the model's inputs")
                continue
            classes = [each for each in unit_of.values() if index in each]
            exact = all(
                set(each) == group and all(len(u) == 1 for u in each.values()) for each in classes
            )
            if not exact or len(classes) != self.size[name]:
                self.unequal.setdefault(
                    name, "its units meet each other, or do not meet another layer's one by one"
                )
                continue
            found = {
                other: torch.zeros(self.size[name], dtype=torch.int64) for other in group - {index}
            }
            for each in classes:
                (unit,) = each[index]
                for other, met in found.items():
                    (met[unit],) = torch.tensor(list(each[other]))
            joined[name] = {self.order[other]: units for other, units in sorted(found.items())}
        return joined
