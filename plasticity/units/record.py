"""Record of one forward pass: the numbers of its tensors, the sources of its units, and their readers."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from plasticity.units.numbers import NO_UNIT, compact
from plasticity.units.weights import Weight, WeightViews, geometry, storage_key


@dataclass
class Source:
    """Units that one operation made."""

    first: int
    """First of their numbers, which are consecutive."""

    count: int
    """Number of units."""

    layers: frozenset[str]
    """Layers whose units these are; several for joined units, none for raw inputs."""

    weight: Weight | None = None
    axis: int | None = None
    """Axis of the weight that holds the units; None if no single axis does."""

    start: int = 0
    """Position of the first unit along this axis."""

    path: str | None = None
    """Name of the weight in the model."""

    bias: str | None = None
    """Name of the bias in the model."""

    members: Tensor | None = None
    """Numbers of the units joined in each unit, sorted, padded with -1; for a unit's further outputs, beside
    its first, that unit alone. Shape: (units, members)."""


@dataclass(frozen=True)
class Read:
    """Read of units by one layer's weight."""

    units: Tensor
    """Number of the unit at each position along the weight's axis. Shape: (positions,)."""

    layer: str
    path: str
    """Name of the weight in the model."""

    weight: Weight
    axis: int
    start: int
    groups: int = 1


class UnitRecord:
    """Numbers of the tensors of one forward pass, with the source and the readers of each."""

    def __init__(self, model: nn.Module, *, check_equality: bool) -> None:
        self.check_equality = check_equality
        self.weights = WeightViews(model)
        self.products: set[Any] = set()
        self.numbers: dict[Any, Tensor] = {}
        self.summaries: dict[Any, frozenset[str]] = {}
        self.alive: dict[int, StorageWeakRef] = {}
        self.running: list[str] = []
        self.next_number = 0
        self.firsts: list[int] = []
        self.sources: list[Source] = []
        self.made: dict[Any, Source] = {}
        self.usual_axis: dict[str, int | None] = {}
        self.joints: dict[tuple[int, ...], int] = {}
        self.copies: dict[tuple[int, int], int] = {}
        self.reads: list[Read] = []
        self.input_reads: set[tuple[Any, int | None]] = set()
        self.executed: list[str] = []
        self.not_followed: dict[str, str] = {}
        self.unequal: dict[str, str] = {}
        self.outputs: set[str] = set()
        # unit numbers along the first axis of a normalisation's tensor, its path, whether it is a factor
        self.normalizers: list[tuple[Tensor, str, bool]] = []

    def source(self, number: int) -> Source:
        """Return the source of a unit."""
        return self.sources[bisect_right(self.firsts, number) - 1]

    def find(self, tensor: Tensor) -> Tensor | None:
        """Return the numbers of a tensor's entries, or None if it has none."""
        return self.numbers.get(geometry(tensor))

    def summary(self, tensor: Tensor) -> frozenset[str]:
        """Return the layers whose units are summed up in a tensor."""
        return self.summaries.get(geometry(tensor), frozenset())

    def assign(self, result: Any, numbers: Tensor | None) -> None:
        """Assign numbers to a tensor; None removes them."""
        if not isinstance(result, Tensor):
            return
        key = geometry(result)
        if key is None:
            return
        if numbers is None or not result.numel():
            self.numbers.pop(key, None)
        elif numbers.shape == result.shape:
            self.keep_address(result)
            self.numbers[key] = numbers

    def keep_address(self, tensor: Tensor) -> None:
        """Keep the address of a tensor's memory from being reused, without keeping the memory itself."""
        key = storage_key(tensor)
        if key is not None and key not in self.alive:
            self.alive[key] = StorageWeakRef(  # type: ignore[no-untyped-call]
                tensor.untyped_storage()
            )

    def add_product(self, tensor: Tensor) -> None:
        """Record that a tensor is computed from weights alone."""
        self.products.add(geometry(tensor))
        self.keep_address(tensor)

    def add_source(self, source: Source) -> None:
        """Record the source of the next units."""
        self.sources.append(source)
        self.firsts.append(source.first)
        self.next_number += source.count

    def layers(self, numbers: Tensor) -> frozenset[str]:
        """Return the layers that these units belong to."""
        found: frozenset[str] = frozenset()
        units = torch.unique(compact(numbers))
        for index in torch.unique(self.which(units[units >= 0])).tolist():
            found |= self.sources[index].layers
        return found

    def which(self, numbers: Tensor) -> Tensor:
        """Return the source of each number, as an index into `sources`."""
        firsts = torch.tensor(self.firsts or [0])
        return torch.bucketize(numbers.long(), firsts, right=True) - 1

    def partial_layers(self, numbers: Tensor) -> frozenset[str]:
        """Return the layers that have some, but not all, of their units among these."""
        units = torch.unique(self.members_of(torch.unique(compact(numbers))))
        present = torch.unique(self.which(units[units >= 0]), return_counts=True)
        found: frozenset[str] = frozenset()
        for index, count in zip(*(each.tolist() for each in present), strict=True):
            if count < self.sources[index].count:
                found |= self.sources[index].layers
        return found

    def members_of(self, numbers: Tensor) -> Tensor:
        """Return the layers' own units in each number, padded with -1. Shape: (numbers, members)."""
        numbers = numbers.long()
        which = torch.where(numbers >= 0, self.which(numbers), -1)
        found = numbers[:, None]
        for index in torch.unique(which).tolist():
            members = self.sources[index].members if index >= 0 else None
            if members is not None:
                inside = which == index
                own = members[numbers[inside] - self.sources[index].first]
                if own.shape[1] > found.shape[1]:
                    found = nn.functional.pad(
                        found, (0, own.shape[1] - found.shape[1]), value=NO_UNIT
                    )
                found[inside] = nn.functional.pad(
                    own, (0, found.shape[1] - own.shape[1]), value=NO_UNIT
                )
        return found

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        """Return a number for each pair of numbers, the same for pairs that join the same units."""
        pairs = (one.long() + 1) * 2**32 + (other.long() + 1)
        found, which = torch.unique(pairs, return_inverse=True)
        members = torch.cat(
            [self.members_of(found // 2**32 - 1), self.members_of(found % 2**32 - 1)], 1
        )
        rows = [tuple(sorted(set(row) - {NO_UNIT})) for row in members.tolist()]
        new = [row for row in dict.fromkeys(rows) if len(row) > 1 and row not in self.joints]
        if new:
            width = max(map(len, new))
            table = torch.tensor([[*row, *[NO_UNIT] * (width - len(row))] for row in new])
            source = Source(self.next_number, len(new), self.layers(table), members=table)
            self.joints.update((row, self.next_number + index) for index, row in enumerate(new))
            self.add_source(source)
        numbers = [self.joints.get(row, row[0] if row else NO_UNIT) for row in rows]
        return torch.tensor(numbers, dtype=torch.int32)[which]

    def distinguished(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Return numbers of tensors that are put beside each other along their units.

        A unit that occurs in several (CReLU: relu(z) beside relu(-z)) has a number for each, so that its
        outputs are not taken for one output at several positions.
        """
        occurrences: Counter[int] = Counter()
        found = []
        for piece in pieces:
            units, which = torch.unique(compacted := compact(piece), return_inverse=True)
            keys = [(unit, occurrences[unit]) for unit in units.tolist()]
            occurrences.update(units.tolist())
            new = [key for key in keys if key[0] >= 0 < key[1] and key not in self.copies]
            if new:
                table = self.members_of(torch.tensor([unit for unit, _ in new]))
                source = Source(self.next_number, len(new), self.layers(table), members=table)
                self.copies.update((key, source.first + index) for index, key in enumerate(new))
                self.add_source(source)
            numbers = torch.tensor([self.copies.get(key, key[0]) for key in keys]).int()
            found.append(numbers[which].view(compacted.shape).expand(piece.shape))
        return found

    def refuse(self, layers: frozenset[str], reason: str) -> None:
        """Record why the readers of layers are unknown."""
        for layer in layers:
            self.not_followed.setdefault(layer, reason)

    def make_unequal(self, numbers: Tensor, reason: str) -> None:
        """Record why the units of layers cannot be exchanged."""
        for layer in self.layers(numbers):
            self.unequal.setdefault(layer, reason)

    def make_partial_unequal(self, numbers: Tensor, reason: str) -> None:
        """Record why units cannot be exchanged, for the layers that have only some units among these."""
        for layer in self.partial_layers(numbers):
            self.unequal.setdefault(layer, reason)
