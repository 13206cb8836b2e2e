"""Two processes: the same anchors, the weights of one process, or an error that says what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from plasticity import regularized

sys.path.insert(0, str(Path(__file__).parent))
import two_processes

sys.path.pop(0)

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of the two processes found, case by case."""
    script = Path(__file__).with_name("two_processes.py")
    rendezvous = tmp_path_factory.mktemp("two") / "rendezvous"
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(rendezvous)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    for process in processes:
        output, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        found.append(json.loads(output.splitlines()[-1]))
    return found


def alone(base, name, times=1, **settings):
    """The weights after the same training in one process; several times with the optimizer kept."""
    model = two_processes.network()
    optimizer = two_processes.make(
        base, model.parameters(), **two_processes.REGULARIZERS[name], **settings
    )
    for _ in range(times):
        two_processes.train(model, optimizer)
    return two_processes.flat(model)


def test_data_parallel_processes_with_seeds_of_their_own_have_rank_zeros_anchors(ranks):
    first, second = (rank["data_parallel"] for rank in ranks)
    for name in two_processes.REGULARIZERS:
        expected = torch.tensor(alone("Adam", name, anchor_seed=100), dtype=torch.float64)
        assert first[name] == second[name]
        torch.testing.assert_close(
            torch.tensor(first[name], dtype=torch.float64), expected, rtol=1e-9, atol=1e-12
        )


def test_l2_init_refuses_weights_that_differ(ranks):
    for message in (rank["made_before_wrapping"] for rank in ranks):
        assert "Rank 1 starts from other weights than rank 0" in message
        assert "make the optimizer after DistributedDataParallel(model)" in message


def test_parameters_that_are_dealt_out_are_refused(ranks):
    for message in (rank["other_parameters"] for rank in ranks):
        assert "Rank 1 gives this optimizer 1 parameters" in message
        assert "anchor_seed" in message


def test_a_given_seed_waits_for_nobody(ranks):
    assert [rank["apart"] for rank in ranks] == [0, 1]


def test_zero_redundancy_optimizer_is_refused_by_name(ranks):
    for message in (rank["zero_redundancy"] for rank in ranks):
        assert message.startswith("ZeroRedundancyOptimizer deals the parameters out")
        assert "fully_shard" in message


def test_sharded_parameters_train_as_in_one_process(ranks):
    first, second = (rank["sharded"] for rank in ranks)
    for key, weights in first.items():
        expected = torch.tensor(alone(*key.split(), anchor_seed=3), dtype=torch.float64)
        assert weights == second[key]
        torch.testing.assert_close(
            torch.tensor(weights, dtype=torch.float64), expected, rtol=1e-9, atol=1e-12
        )


def test_distributed_checkpoints_keep_the_anchors_of_l2_init(ranks):
    first, second = (rank["checkpointed"] for rank in ranks)
    for base, weights in first.items():
        expected = torch.tensor(alone(base, "l2-init", times=2), dtype=torch.float64)
        assert weights == second[base]
        torch.testing.assert_close(
            torch.tensor(weights, dtype=torch.float64), expected, rtol=1e-9, atol=1e-12
        )


def test_without_other_processes_the_seed_is_this_ones():
    torch.manual_seed(5)
    optimizer = regularized(torch.optim.SGD)(
        [nn.Parameter(torch.ones(2, 2))], lr=0.1, regularizer="syre", strength=0.1
    )
    assert optimizer.defaults["anchor_seed"] == 5
