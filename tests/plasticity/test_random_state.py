"""Global random generators: saved as plain values, and restored."""

import io
import random

import numpy as np
import pytest
import torch

from plasticity.random_state import random_state, set_random_state


def draws():
    return (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002


def test_the_generators_continue_from_a_state_that_torch_saved_and_loaded_without_pickles():
    file = io.BytesIO()
    torch.save(random_state([]), file)
    expected = draws()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert draws() == expected


def test_numpys_generator_may_be_of_another_kind():
    present = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        state = random_state([])
        expected = draws()
        set_random_state(state)
        assert draws() == expected
    finally:
        np.random.set_bit_generator(present)


def test_devices_that_this_machine_lacks_are_ignored(monkeypatch):
    state = random_state([]) | {"devices": {"cuda:7": torch.zeros(16, dtype=torch.uint8)}}
    set_random_state(state)  # no CUDA device is in use: the run continues on the CPU
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.warns(UserWarning, match="cuda:7, and this machine has 1 CUDA"):
        set_random_state(state)
