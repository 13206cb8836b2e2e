"""Tests of shards in one process, which draw their part of the anchor (two: test_distributed.py)."""

import pytest
import torch
from torch import distributed, nn

from plasticity.optim.anchors import anisotropy_factors, syre_anchor
from plasticity.optim.sharded import is_sharded, local_elements, local_part, sharded_like

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")


@pytest.fixture
def mesh(tmp_path):
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_an_ordinary_tensor_is_its_own_part():
    tensor = torch.ones(2, 3)
    assert not is_sharded(tensor)
    assert local_part(tensor) is tensor


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_whole_tensor_in_one_process(mesh, axis):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    whole = torch.zeros(5, 3, 4)
    for placement in (Shard(axis), Replicate()):
        tensor = distribute_tensor(whole, mesh, [placement])
        assert is_sharded(tensor)
        assert torch.equal(local_elements(tensor), torch.arange(60).view(5, 3, 4))
        drawn = syre_anchor(tensor, seed=3, position=2, standard_deviation=0.5)
        expected = syre_anchor(whole, seed=3, position=2, standard_deviation=0.5)
        assert torch.equal(drawn.full_tensor(), expected)
        factors = anisotropy_factors(tensor, seed=3, position=2, anisotropy=0.2)
        expected = anisotropy_factors(whole, seed=3, position=2, anisotropy=0.2)
        assert torch.equal(factors.full_tensor(), expected)


def test_partial_sums_are_refused(mesh):
    from torch.distributed.tensor import DTensor, Partial

    tensor = DTensor.from_local(torch.ones(2, 2), mesh, [Partial()])
    with pytest.raises(ValueError, match=r"\(2, 2\) is placed .*Partial"):
        local_elements(tensor)


def test_a_sharded_tensor_is_built_from_its_local_part(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    parameter = nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    made = sharded_like(torch.full((4, 2), 2.0), parameter)
    assert torch.equal(made.full_tensor(), torch.full((4, 2), 2.0))
