"""Tables of addresses, with which one kernel launch covers many tensors, however small each of them is.

A launch per tensor costs a small network more than its arithmetic. So the addresses and sizes of all
tensors that are treated alike are in one table on the device, and a second table gives the row that each
program of the launch works on, a chunk of `CHUNK` elements at a time. The user does not have to flatten
all parameters into one buffer, which would do as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024
"""Number of elements that one program works on: 8 for each of its 128 threads."""

_VECTOR_BYTES = 16
"""Number of bytes that a thread reads at once from an aligned address."""


_KEPT = 8
"""Number of tables that a cache keeps: newly allocated gradients may alternate between addresses."""


class Column(IntEnum):
    """Columns of the table: addresses, then numbers."""

    PARAMETER = 0
    GRADIENT = 1
    FIRST_MOMENT = 2
    SECOND_MOMENT = 3
    STEP = 4
    ANCHOR = 5
    OUTPUT = 6
    ELEMENTS = 7
    FIRST_PROGRAM = 8
    SEED = 9
    POSITION = 10


class DrawnAnchor(NamedTuple):
    """Description of an anchor that is not stored: the arguments of `syre_anchor`."""

    seed: int
    """Seed of the anchor, from 0 to 2**64 - 1."""

    position: int
    """Position of the parameter in the optimizer, from 0 to 2**32 - 1."""

    standard_deviation: float
    """Standard deviation of the normal, in units of the parameter."""


Anchors = Sequence[Tensor] | Sequence[DrawnAnchor] | None
"""Anchors of several parameters: stored, drawn again at every use, or zero."""


class LaunchKey(NamedTuple):
    """Properties that all tensors of one launch share."""

    device: torch.device
    dtype: torch.dtype
    aligned: bool


class Rows(NamedTuple):
    """Table rows of the tensors of one launch."""

    fields: list[tuple[int, ...]]
    """Rows with one number for each `Column`."""

    deviations: list[float]
    """Standard deviations of the drawn anchors; 0 where none is drawn."""


def rows_of(
    columns: Mapping[Column, Sequence[Tensor]], anchors: Sequence[DrawnAnchor] | None
) -> dict[LaunchKey, Rows]:
    """Sort tensors into launches and record their addresses.

    Args:
        columns: Tensors by column, one for each parameter and, except for the steps, of its size and
            layout.
        anchors: Anchors to draw, one for each parameter, or None.

    Raises:
        ValueError: if a parameter has gaps or repetitions in memory, or is not contiguous although its
            anchor is drawn.
    """
    found: dict[LaunchKey, Rows] = {}
    for index, parameter in enumerate(columns[Column.PARAMETER]):
        _require_layout(parameter, drawn=anchors is not None)
        row = [0] * len(Column)
        for column, tensors in columns.items():
            row[column] = tensors[index].data_ptr()
        streamed = [row[column] for column in columns if column != Column.STEP]
        aligned = all(address % _VECTOR_BYTES == 0 for address in streamed)
        row[Column.ELEMENTS] = parameter.numel()
        deviation = 0.0
        if anchors is not None:
            seed, row[Column.POSITION], deviation = anchors[index]
            row[Column.SEED] = seed - 2**64 if seed >= 2**63 else seed  # the same 64 bits
        key = LaunchKey(parameter.device, parameter.dtype, aligned)
        rows = found.setdefault(key, Rows([], []))
        rows.fields.append(tuple(row))
        rows.deviations.append(deviation)
    return {key: _with_first_programs(rows) for key, rows in found.items()}


def _require_layout(parameter: Tensor, *, drawn: bool) -> None:
    # empty_like keeps the strides of any tensor that fills its memory without gaps, in any order.
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    if dense and (parameter.is_contiguous() or not drawn):
        return
    needed = (
        "contiguous, because its anchor is drawn in row-major order" if dense else "dense in memory"
    )
    remedy = 'kernel="triton", which stores the anchor' if dense else 'kernel="eager"'
    raise ValueError(
        f"A kernel needs this parameter of shape {tuple(parameter.shape)} and strides"
        f" {parameter.stride()} to be {needed}: make it contiguous, or give {remedy}."
    )


def _with_first_programs(rows: Rows) -> Rows:
    first = accumulate((_programs(row) for row in rows.fields), initial=0)
    return Rows(
        [
            (*row[: Column.FIRST_PROGRAM], start, *row[Column.FIRST_PROGRAM + 1 :])
            for row, start in zip(rows.fields, first, strict=False)
        ],
        rows.deviations,
    )


def _programs(row: Sequence[int]) -> int:
    return -(-row[Column.ELEMENTS] // CHUNK)


class TensorTable:
    """Tables of one launch, on its device.

    Attributes:
        key: Properties that the tensors share.
        count: Number of tensors.
        programs: Number of programs for all their elements.
        fields: Table of addresses and sizes. Shape: (count, len(Column)), int64.
        program_rows: Row that each program works on. Shape: (programs,), int32.
        numbers: One row of float32 for each tensor: first the deviation of its drawn anchor, then
            numbers that the kernels write themselves. Shape: (count, 4).
    """

    def __init__(self, key: LaunchKey, rows: Rows) -> None:
        self.key = key
        self.count = len(rows.fields)
        per_row = [_programs(row) for row in rows.fields]
        self.programs = sum(per_row)
        numbers = torch.zeros((self.count, 4))
        numbers[:, 0] = torch.tensor(rows.deviations)
        rows_of_tensors = torch.arange(self.count, dtype=torch.int32)
        self.fields = _sent(torch.tensor(rows.fields), key.device)
        self.numbers = _sent(numbers, key.device)
        self.program_rows = _sent(
            rows_of_tensors.repeat_interleave(torch.tensor(per_row), output_size=self.programs),
            key.device,
        )
        self._shape = _shape_of(rows)
        self._spare: tuple[Tensor, Tensor] | None = None
        self._read_by_graph: Tensor | None = None
        if key.device.type == "cuda":
            # For a capture, during which no host memory can be allocated.
            host = torch.empty(self.fields.shape, dtype=torch.int64, pin_memory=True)
            self._spare = host, torch.empty_like(self.fields)

    def readdress_in_capture(self, rows: Rows) -> bool:
        """Give the graph that is being captured its own table, filled at every replay.

        Returns:
            Whether this was possible: not if it was done before, or the tensors differ in more than
            their addresses.
        """
        if self._spare is None or _shape_of(rows) != self._shape:
            return False
        host, self.fields = self._spare
        host.copy_(torch.tensor(rows.fields))
        self.fields.copy_(host, non_blocking=True)
        self._spare, self._read_by_graph = None, host
        return True


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    # From pinned memory the host does not wait for the copy.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _shape_of(rows: Rows) -> tuple[object, ...]:
    """Return everything except the addresses."""
    return tuple(rows.deviations), *[row[Column.ELEMENTS :] for row in rows.fields]


class TableCache:
    """Cache of the tables of the latest calls, reused while the tensors keep their addresses.

    The tables that a CUDA graph was captured with are kept as long as this object, because the graph uses
    their memory.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[TensorTable, ...]] = {}
        self._captured: list[tuple[TensorTable, ...]] = []

    def tables(
        self, columns: Mapping[Column, Sequence[Tensor]], anchors: Sequence[DrawnAnchor] | None
    ) -> tuple[TensorTable, ...]:
        """Return one table for each launch.

        Args:
            columns: Tensors by column, as in `rows_of`.
            anchors: Anchors to draw, as in `rows_of`.

        Raises:
            RuntimeError: in the capture of a CUDA graph, if no ordinary step preceded it.
            ValueError: as `rows_of`.
        """
        signature = _signature(columns, anchors)
        first = columns[Column.PARAMETER][0]
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            return self._tables_in_capture(signature, rows_of(columns, anchors))
        found = self._known.pop(signature, None)
        if found is None:
            every = rows_of(columns, anchors).items()
            found = tuple([TensorTable(key, rows) for key, rows in every])
            if len(self._known) == _KEPT:
                self._known.pop(next(iter(self._known)))
        self._known[signature] = found  # the most recently used is the last
        return found

    def _tables_in_capture(
        self, signature: Hashable, found: Mapping[LaunchKey, Rows]
    ) -> tuple[TensorTable, ...]:
        latest = next(reversed(self._known), None)
        tables = self._known.pop(latest, ())  # the next ordinary step creates its own
        fits = [table.key for table in tables] == list(found)
        if not fits or not (
            latest == signature
            or all(table.readdress_in_capture(found[table.key]) for table in tables)
        ):
            raise RuntimeError(
                "A CUDA graph can capture this step only after an ordinary step over the same parameters:"
                " take one before every capture."
            )
        self._captured.append(tables)
        return tables


def _signature(
    columns: Mapping[Column, Sequence[Tensor]], anchors: Sequence[DrawnAnchor] | None
) -> Hashable:
    """Return everything that determines the tables, cheap enough to compare at every step."""
    parameters = columns[Column.PARAMETER]
    # A table is used only on the stream that filled it: no other knows when its memory may be freed.
    devices = dict.fromkeys([p.device for p in parameters if p.is_cuda])
    streams = [torch.cuda.current_stream(device).cuda_stream for device in devices]
    return (
        tuple(columns),
        tuple([tensor.data_ptr() for tensors in columns.values() for tensor in tensors]),
        tuple([(p.shape, p.stride(), p.dtype, p.device) for p in parameters]),
        None if anchors is None else tuple(anchors),
        tuple(streams),
    )
