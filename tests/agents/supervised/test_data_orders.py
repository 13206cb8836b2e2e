"""Data orders: those of their seeds, whether or not they are drawn ahead."""

import threading

import pytest
import torch

from plasticity.agents.supervised.data_orders import DataOrders
from plasticity.seeds import child_seed

FORMS = [([3], ()), ([3, 4], (2,))]


def drawn_ahead(seeds, lead, monkeypatch):
    """Return data orders that are drawn ahead as for a device, but stay on the CPU."""
    data_orders = DataOrders(seeds, lead, torch.device("meta"))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: self)
    return data_orders


def expected(seeds, lead, task, epoch):
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(child_seed(seed, f"{task}/{epoch}"))
        rows.append(torch.randperm(40, generator=generator))
    return torch.stack(rows).view(*lead, 40)


@pytest.mark.parametrize(("seeds", "lead"), FORMS)
def test_drawn_ahead(seeds, lead, monkeypatch):
    data_orders = drawn_ahead(seeds, lead, monkeypatch)
    assert torch.equal(data_orders.get(0, 0, 40), expected(seeds, lead, 0, 0))
    data_orders.draw_ahead(0, 1, 40)
    data_orders.draw_ahead(0, 1, 40)
    assert torch.equal(data_orders.get(0, 1, 40), expected(seeds, lead, 0, 1))
    data_orders.draw_ahead(1, 0, 40)
    # not the one drawn ahead
    assert torch.equal(data_orders.get(2, 0, 40), expected(seeds, lead, 2, 0))
    assert torch.equal(data_orders.get(1, 0, 40), expected(seeds, lead, 1, 0))


@pytest.mark.parametrize(("seeds", "lead"), FORMS)
def test_a_cpu_draws_none_ahead(seeds, lead):
    before = threading.active_count()
    data_orders = DataOrders(seeds, lead, torch.device("cpu"))
    data_orders.draw_ahead(0, 1, 40)
    assert threading.active_count() == before
    assert torch.equal(data_orders.get(0, 1, 40), expected(seeds, lead, 0, 1))


def test_the_drawing_thread_allocates_no_memory(monkeypatch):
    """Pinning memory while another thread captures a CUDA graph would break the capture."""
    data_orders = drawn_ahead([3, 4], (2,), monkeypatch)
    monkeypatch.setattr(
        data_orders, "_memory", lambda count, take=data_orders._memory: allocated(take(count))
    )
    threads = []

    def allocated(memory):
        threads.append(threading.current_thread())
        return memory

    data_orders.draw_ahead(0, 0, 40)
    data_orders.get(0, 0, 40)
    data_orders.get(0, 1, 40)
    assert threads == [threading.current_thread()] * 2
