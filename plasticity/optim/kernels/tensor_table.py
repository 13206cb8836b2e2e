"""Tables of addresses: one kernel launch goes over many tensors, however small each of them is.

A launch per tensor costs a small network more than its arithmetic. So the addresses and sizes of all
tensors that are treated alike stand in one table on the device, and a second one says which row
each program of the launch works on, a chunk of `CHUNK` elements at a time. The flattening of all
parameters into one buffer, which would do as well, is not asked of the user.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024
"""Elements that one program works on: 8 for each of its 128 threads."""

_VECTOR_BYTES = 16
"""What a thread reads at once, if the address allows."""


_KEPT = 8
"""Tables that a cache keeps: gradients made anew at every step may take turns between places."""


class Column(IntEnum):
    """What stands where in a row of the table: addresses, then numbers."""

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
    """An anchor that is not stored: what `syre_anchor` makes it from."""

    seed: int
    """0 to 2**64 - 1."""

    position: int
    """Place of the parameter in the optimizer, 0 to 2**32 - 1."""

    standard_deviation: float
    """Of the normal, in units of the parameter."""


Anchors = Sequence[Tensor] | Sequence[DrawnAnchor] | None
"""Of several parameters: stored, drawn anew at every use, or zero."""


class LaunchKey(NamedTuple):
    """What the tensors of one launch have in common."""

    device: torch.device
    dtype: torch.dtype
    aligned: bool


class Rows(NamedTuple):
    """The tensors of one launch, as numbers."""

    fields: list[tuple[int, ...]]
    """One number for each `Column`."""

    deviations: list[float]
    """Standard deviations of the drawn anchors; 0 where none is drawn."""


def rows_of(
    columns: Mapping[Column, Sequence[Tensor]], anchors: Sequence[DrawnAnchor] | None
) -> dict[LaunchKey, Rows]:
    """Sort tensors into launches and write down where they are.

    Args:
        columns: Tensors by column, one of each for each parameter; all of a parameter's size and
            layout, but for the steps.
        anchors: What to draw for each parameter, or None.

    Raises:
        ValueError: if a parameter has gaps or repetitions in memory, or is not contiguous and has an
            anchor to be drawn.
    """
    found: dict[LaunchKey, Rows] = {}
    for place, parameter in enumerate(columns[Column.PARAMETER]):
        _require_layout(parameter, drawn=anchors is not None)
        row = [0] * len(Column)
        for column, tensors in columns.items():
            row[column] = tensors[place].data_ptr()
        streamed = [row[column] for column in columns if column != Column.STEP]
        aligned = all(address % _VECTOR_BYTES == 0 for address in streamed)
        row[Column.ELEMENTS] = parameter.numel()
        deviation = 0.0
        if anchors is not None:
            seed, row[Column.POSITION], deviation = anchors[place]
            row[Column.SEED] = seed - 2**64 if seed >= 2**63 else seed  # the same 64 bits
        key = LaunchKey(parameter.device, parameter.dtype, aligned)
        rows = found.setdefault(key, Rows([], []))
        rows.fields.append(tuple(row))
        rows.deviations.append(deviation)
    return {key: _with_first_programs(rows) for key, rows in found.items()}


def _require_layout(parameter: Tensor, *, drawn: bool) -> None:
    # torch keeps the strides of whatever fills its memory without gaps, in any order.
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    if dense and (parameter.is_contiguous() or not drawn):
        return
    needed = "contiguous, as its anchor is drawn in row-major order" if dense else "dense in memory"
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
    """The tables of one launch, on its device.

    Attributes:
        key: What the tensors have in common.
        count: How many tensors there are.
        programs: How many programs go over their elements.
        fields: Shape: (count, len(Column)), int64.
        program_rows: The row that each program works on. Shape: (programs,), int32.
        numbers: One row of float32 for each tensor, the first the deviation of its drawn anchor; the
            others are the kernels' own. Shape: (count, 4).
    """

    def __init__(self, key: LaunchKey, rows: Rows) -> None:
        self.key = key
        self.count = len(rows.fields)
        per_row = [_programs(row) for row in rows.fields]
        self.programs = sum(per_row)
        numbers = torch.zeros((self.count, 4))
        numbers[:, 0] = torch.tensor(rows.deviations)
        places = torch.arange(self.count, dtype=torch.int32)
        self.fields = _sent(torch.tensor(rows.fields), key.device)
        self.numbers = _sent(numbers, key.device)
        self.program_rows = _sent(
            places.repeat_interleave(torch.tensor(per_row), output_size=self.programs), key.device
        )
        self._shape = _shape_of(rows)
        self._spare: tuple[Tensor, Tensor] | None = None
        self._read_by_graph: Tensor | None = None
        if key.device.type == "cuda":
            # For a capture, during which nothing can be allocated that the host reads from.
            host = torch.empty(self.fields.shape, dtype=torch.int64, pin_memory=True)
            self._spare = host, torch.empty_like(self.fields)

    def readdress_in_capture(self, rows: Rows) -> bool:
        """Give the graph that is being captured a table of its own, filled at every replay.

        Returns:
            False if that cannot be: it was done before, or the tensors differ in more than where
            they are.
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
    """All but the addresses."""
    return tuple(rows.deviations), *[row[Column.ELEMENTS :] for row in rows.fields]


class TableCache:
    """The tables of the latest calls, used again while the tensors stay where they are.

    The tables that a CUDA graph was captured with are kept as long as this object: the graph works
    on their memory.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[TensorTable, ...]] = {}
        self._captured: list[tuple[TensorTable, ...]] = []

    def tables(
        self, columns: Mapping[Column, Sequence[Tensor]], anchors: Sequence[DrawnAnchor] | None
    ) -> tuple[TensorTable, ...]:
        """Return one table for each launch.

        Args:
            columns: As of `rows_of`.
            anchors: As of `rows_of`.

        Raises:
            RuntimeError: in the capture of a CUDA graph, if no ordinary step went before it.
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
        self._known[signature] = found  # the latest is the last
        return found

    def _tables_in_capture(
        self, signature: Hashable, found: Mapping[LaunchKey, Rows]
    ) -> tuple[TensorTable, ...]:
        latest = next(reversed(self._known), None)
        tables = self._known.pop(latest, ())  # an ordinary step makes its own again
        fits = [table.key for table in tables] == list(found)
        if not fits or not (
            latest == signature
            or all(table.readdress_in_capture(found[table.key]) for table in tables)
        ):
            raise RuntimeError(
                "A CUDA graph can capture this step after an ordinary step over the same parameters:"
                " take one before every capture."
            )
        self._captured.append(tables)
        return tables


def _signature(
    columns: Mapping[Column, Sequence[Tensor]], anchors: Sequence[DrawnAnchor] | None
) -> Hashable:
    """Everything that the tables were made from, cheap enough to be asked for at every step."""
    parameters = columns[Column.PARAMETER]
    # A table is used by the stream that filled it: no other knows when it may be given back.
    devices = dict.fromkeys([p.device for p in parameters if p.is_cuda])
    streams = [torch.cuda.current_stream(device).cuda_stream for device in devices]
    return (
        tuple(columns),
        tuple([tensor.data_ptr() for tensors in columns.values() for tensor in tensors]),
        tuple([(p.shape, p.stride(), p.dtype, p.device) for p in parameters]),
        None if anchors is None else tuple(anchors),
        tuple(streams),
    )
