"""The measured memory of a replica, against allocations of known sizes."""

import pytest
import torch

from plasticity.replica_memory import measured_bytes_per_replica


def test_nothing_is_run_where_memory_is_not_counted():
    assert measured_bytes_per_replica(lambda replicas: pytest.fail("it was run"), "cpu") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_known_allocations():
    def run(replicas):
        return torch.empty(3 << 20, device="cuda", dtype=torch.uint8), torch.empty(
            replicas * (5 << 20), device="cuda", dtype=torch.uint8
        )

    shared, each = measured_bytes_per_replica(run, "cuda")
    assert each == pytest.approx(5 << 20, rel=0.01)
    assert shared == pytest.approx(3 << 20, rel=0.02)


def test_the_two_parts(monkeypatch):
    """The arithmetic, on a device whose peak is 100 + 7 R."""
    runs = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1100 + 7 * runs[-1])
    assert measured_bytes_per_replica(runs.append, "cuda") == (100, 7)
    assert runs == [2, 2, 4]
