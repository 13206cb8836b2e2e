import json

import pytest


@pytest.fixture
def make_run():
    """Function that writes a run folder of a few rows, and returns its path."""

    def make(
        root,
        method="none",
        seed=0,
        *,
        rows=3,
        tasks=3,
        seconds=60.0,
        diverged=False,
        offset=0.0,
        rate=0.01,
    ):
        path = root / "permuted-digits" / method / f"seed_{seed}"
        (path / "tensorboard").mkdir(parents=True)
        (path / "tensorboard" / "events").write_bytes(b"events")
        config = {
            "benchmark": "permuted-digits",
            "method": {} if method == "none" else {method: {}},
            "seed": seed,
            "stream": {"num_tasks": tasks},
            "agent": {"learning_rate": rate},
            "device": "cpu",
        }
        (path / "config.json").write_text(json.dumps(config))
        lines = [
            {
                "task": task,
                "test_accuracy": 0.5 + task / 10 + offset,
                "diverged": diverged and task == rows - 1,
            }
            for task in range(rows)
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        times = [{"task": task, "seconds": seconds} for task in range(rows)]
        (path / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))
        return path

    return make
