"""Rows as TensorBoard events: bytes, so that they can be truncated like any other file of a run.

A `SummaryWriter` starts a new file and a thread whenever a run continues, and asks TensorBoard to discard
surplus events of the earlier files; its thread does not cope with a full disk.
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

FILE_NAME = "events.out.tfevents.run"
"""Name of the file of events; TensorBoard reads files that have "tfevents" in their name."""

MODULES = (
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.record_writer",
)
"""Modules that `encoded` imports. They take a quarter of a second, which a process that forks others spends
once for all of them."""


def encoded(points: Sequence[tuple[int, Mapping[str, Any]]], *, first: bool) -> bytes:
    """Encode all numbers of some rows as events.

    Args:
        points: Position of each row on TensorBoard's axis, and its values by name; values that are not
            numbers (None, text) are left out.
        first: Whether the records begin a file, which then gets its header.

    Returns:
        Records to append to a TensorBoard file.
    """
    # Not at the top: help texts do not wait for TensorBoard.
    event_pb2, summary_pb2, record_writer = (importlib.import_module(name) for name in MODULES)
    buffer = io.BytesIO()
    records = record_writer.RecordWriter(buffer)
    if first:
        header = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
        records.write(header.SerializeToString())
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
