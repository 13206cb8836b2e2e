"""Agents of every algorithm on one thread, and the folder of what these tests share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from plasticity.agents.sb3 import ALGORITHMS


@pytest.fixture(params=ALGORITHMS)
def config(request):
    """Settings of a small agent of each algorithm."""
    from small_agents import small

    return small(request.param)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
