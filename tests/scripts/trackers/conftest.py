"""A tracker that keeps what it gets in memory, and rows of a run."""

import json
from typing import ClassVar

import pytest

from plasticity.scripts.trackers import base
from plasticity.scripts.trackers.base import TrackedRun


class Memory:
    """Tracker that keeps everything, and fails while `down`."""

    log_of: ClassVar[dict] = {}
    """Calls by identifier."""

    down = False

    def __init__(self, run, identifier):
        if self.down:
            raise ConnectionError("no route")
        self.identifier = identifier or f"run-{len(self.log_of)}"
        self.log_of.setdefault(self.identifier, [])

    def log(self, step, numbers):
        if self.down:
            raise ConnectionError("no route")
        self.log_of[self.identifier].append((step, numbers))

    def close(self, *, finished):
        self.log_of[self.identifier].append("finished" if finished else "stopped")


@pytest.fixture
def memory(monkeypatch):
    """Register the tracker "memory" and return its class."""
    monkeypatch.setattr(Memory, "log_of", {})
    monkeypatch.setattr(Memory, "down", False)
    monkeypatch.setitem(base.TRACKERS, "memory", "conftest_memory:Memory")
    monkeypatch.setattr(
        base.importlib, "import_module", lambda name: type("Module", (), {"Memory": Memory})
    )
    return Memory


@pytest.fixture
def tracked(tmp_path):
    """Return a run in an empty folder."""
    return TrackedRun(
        folder=tmp_path,
        benchmark="permuted-digits",
        method="syre",
        seed=3,
        settings={"agent.learning_rate": 0.1, "method.syre.sigma": 0.3},
    )


@pytest.fixture
def append(tmp_path):
    """Return a function that appends the row of a task to the file of rows."""

    def append_row(task, **numbers):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"task": task, **numbers}) + "\n")

    return append_row
