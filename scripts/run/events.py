"""Rows as TensorBoard events: bytes, so that they can be cut back like any other file of a run.

A `SummaryWriter` starts a file of its own, and a thread, whenever a run continues, and asks
TensorBoard to forget what the files before it hold too much; its thread takes a full disk badly.
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

FILE_NAME = "events.out.tfevents.run"
"""TensorBoard reads files that have "tfevents" in their name."""

MODULES = (
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.record_writer",
)
"""What `encoded` imports: a quarter of a second, that a process which forks others spends for all."""


def encoded(points: Sequence[tuple[int, Mapping[str, Any]]], *, first: bool) -> bytes:
    """Events with all numbers of some rows.

    Args:
        points: Where each stands on TensorBoard's axis, and its names and values; those that are no
            numbers (None, text) are left out.
        first: Whether this begins a file, which then gets its head.

    Returns:
        Records to be appended to a file of TensorBoard's.
    """
    # Not above: who only asks for help does not wait for TensorBoard.
    event_pb2, summary_pb2, record_writer = (importlib.import_module(name) for name in MODULES)
    buffer = io.BytesIO()
    records = record_writer.RecordWriter(buffer)
    if first:
        head = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
        records.write(head.SerializeToString())
    for step, row in points:
        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, (int, float))
        ]
        event = event_pb2.Event(
            wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)
        )
        records.write(event.SerializeToString())
    return buffer.getvalue()
