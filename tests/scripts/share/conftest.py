"""Folders of runs."""

import json

import pytest


@pytest.fixture
def run_folder(tmp_path):
    """Return a function that writes the folder of a run with some rows."""

    def write(rows, *, num_tasks=2, seed=4):
        path = tmp_path / f"runs/permuted-digits/syre/seed_{seed}"
        path.mkdir(parents=True)
        config = {
            "benchmark": "permuted-digits",
            "seed": seed,
            "method": {"syre": {"strength": 0.5, "sigma": 0.3}},
            "stream": {"dataset": "digits", "num_tasks": num_tasks},
            "agent": {"learning_rate": 0.125},
            "git_commit": "abc",
        }
        (path / "config.json").write_text(json.dumps(config))
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


ROWS = [
    {"task": 0, "test_accuracy": 0.5, "effective_rank/fc1": 3.0, "dead_fraction/fc1": 0.25},
    {"task": 1, "test_accuracy": 0.75, "effective_rank/fc1": 2.0, "dead_fraction/fc1": 0.5},
]


@pytest.fixture
def rows():
    """Return the rows of two tasks."""
    return [dict(row) for row in ROWS]
