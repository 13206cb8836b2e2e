"""DDP, FSDP2 and distributed checkpoints: training in two processes equals training in one."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from plasticity import parameter_groups, regularized
from plasticity.sb3.optimizer import policy_optimizer

checkpoint = pytest.importorskip("torch.distributed.checkpoint")
state_dicts = pytest.importorskip("torch.distributed.checkpoint.state_dict")

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

STRENGTH = 0.1
SETTINGS = {"strength": STRENGTH, "sigma": 0.3}
BASES = {"SGD": {"lr": 0.05}, "Adam": {"lr": 0.01}}
REGULARIZERS = ("weight-decay", "syre", "l2-init")
CASES = [(base, regularizer) for base in BASES for regularizer in REGULARIZERS]


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Numbers of rows that two ranks cannot halve: 7 become 4 and 3; of 1, the second rank has none.
    model = nn.Sequential(
        nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 1), nn.Linear(1, 3)
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def data():
    generator = torch.Generator().manual_seed(9)
    return torch.randn(8, 5, generator=generator, dtype=torch.float64), torch.arange(8) % 3


def make(model, base="Adam", regularizer="syre", **settings):
    groups = parameter_groups(model, regularizer=regularizer, **(SETTINGS | settings))
    return regularized(getattr(torch.optim, base))(groups, **BASES[base])


def train(model, optimizer, part=slice(None), steps=4):
    inputs, targets = data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[part]), targets[part]).backward()
        optimizer.step()


def half(rank):
    """Return half of the batch; the mean of the two halves' gradients is that of the whole."""
    return slice(4 * rank, 4 * rank + 4)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def anchors_of(model, optimizer):
    return [optimizer.anchor(p) for p in model.parameters()]


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **tolerance)


# ---- DDP: the conftest seeds rank r with 100 + r -----------------------------------------------------


def data_parallel(rank):
    results = {}
    for regularizer in REGULARIZERS:
        model = nn.parallel.DistributedDataParallel(network(seed=rank))  # takes rank 0's weights
        optimizer = make(model, regularizer=regularizer)
        train(model, optimizer, half(rank))
        results[regularizer] = {
            "weights": weights(model),
            "anchors": anchors_of(model, optimizer),
            "seeds": [group["anchor_seed"] for group in optimizer.param_groups],
        }
    return results


def test_two_data_parallel_ranks_equal_one_process(two_ranks):
    ranks = two_ranks(data_parallel)
    for regularizer in REGULARIZERS:
        first, second = (results[regularizer] for results in ranks)
        assert_same(first["anchors"], second["anchors"], rtol=0, atol=0)
        assert_same(first["weights"], second["weights"], rtol=0, atol=0)
        if regularizer == "syre":
            assert first["seeds"][0] == second["seeds"][0] == 100
        alone = network()
        optimizer = make(alone, regularizer=regularizer, anchor_seed=100)
        train(alone, optimizer)
        assert_same(first["anchors"], anchors_of(alone, optimizer), rtol=0, atol=0)
        assert_same(first["weights"], weights(alone), rtol=0, atol=1e-12)


def made_before_data_parallel(rank):
    """Make the optimizer with each rank's own weights, before DDP gives rank 0's weights to all ranks."""
    model = network(seed=rank)
    try:
        optimizer = make(model, regularizer="l2-init")
        wrapped = nn.parallel.DistributedDataParallel(model)
        train(wrapped, optimizer, half(rank))
    except (RuntimeError, ValueError) as error:
        return str(error)
    return {"anchors": anchors_of(model, optimizer), "weights": weights(model)}


def test_initial_weights_taken_before_data_parallel_agree_or_are_rejected(two_ranks):
    first, second = two_ranks(made_before_data_parallel)
    if isinstance(first, str):
        assert "DistributedDataParallel" in first
        assert isinstance(second, str)
        return
    assert_same(first["anchors"], second["anchors"], rtol=0, atol=0)
    assert_same(first["weights"], second["weights"], rtol=0, atol=0)
    frozen = [a for a in first["anchors"] if a is not None]
    kept = [p.detach() for p in network(seed=0).parameters()]
    assert all(any(torch.equal(anchor, p) for p in kept) for anchor in frozen)


def partitioned(rank):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.parallel.DistributedDataParallel(network())
    try:
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(),
            optimizer_class=regularized(torch.optim.Adam),
            lr=0.01,
            regularizer="syre",
            **SETTINGS,
        )
        train(model, optimizer, half(rank))
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    return weights(model)


def test_partitioned_optimizers_are_right_or_rejected(two_ranks):
    """Use ZeroRedundancyOptimizer, of which each rank has only some of the parameters."""
    for result in two_ranks(partitioned):
        if isinstance(result, str):
            assert "ZeroRedundancyOptimizer" in result
        else:
            alone = network()
            flat = regularized(torch.optim.Adam)(
                alone.parameters(), lr=0.01, regularizer="syre", anchor_seed=100, **SETTINGS
            )
            train(alone, flat)
            assert_same(result, weights(alone), rtol=0, atol=1e-12)


# ---- FSDP2: each rank has some rows of each parameter ------------------------------------------------


def shard(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def gathered(tensors):
    return [None if each is None else each.full_tensor() for each in tensors]


def fully_sharded(rank):
    results = {}
    for base, regularizer in CASES:
        model = shard(network())
        optimizer = make(model, base, regularizer)
        train(model, optimizer, half(rank))
        results[base, regularizer] = {
            "weights": gathered(weights(model)),
            "anchors": gathered(anchors_of(model, optimizer)),
        }
    return results


def test_fully_sharded_ranks_equal_one_process(two_ranks):
    for results in two_ranks(fully_sharded):
        for base, regularizer in CASES:
            alone = network()
            optimizer = make(alone, base, regularizer, anchor_seed=100)
            train(alone, optimizer)
            found = results[base, regularizer]
            assert_same(found["anchors"], anchors_of(alone, optimizer), rtol=0, atol=1e-15)
            assert_same(found["weights"], weights(alone), rtol=0, atol=1e-12)


def saved_and_resumed(rank):
    """Make two steps and a checkpoint in memory, then two more in a model with other initial weights."""
    results = {}
    for regularizer in REGULARIZERS:
        model = shard(network())
        optimizer = make(model, regularizer=regularizer, anchor_seed=3)
        train(model, optimizer, half(rank), steps=2)
        states = state_dicts.get_state_dict(model, optimizer)
        saved = copy.deepcopy(states)
        train(model, optimizer, half(rank), steps=2)

        other = shard(network(seed=1))
        resumed = make(other, regularizer=regularizer, anchor_seed=4)
        state_dicts.set_state_dict(
            other, resumed, model_state_dict=saved[0], optim_state_dict=saved[1]
        )
        train(other, resumed, half(rank), steps=2)
        results[regularizer] = [gathered(weights(each)) for each in (model, other)]
    return results


def test_fully_sharded_training_resumes_exactly(two_ranks):
    for results in two_ranks(saved_and_resumed):
        for regularizer in REGULARIZERS:
            whole, resumed = results[regularizer]
            assert_same(resumed, whole, rtol=0, atol=0)


# ---- tensor parallelism: some rows of one weight, some columns of the next ---------------------------


def tensor_parallel(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (2,))
    results = {}
    for base, regularizer in CASES:
        torch.manual_seed(5)
        alone = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        model = copy.deepcopy(alone)
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        found = []
        for each in (model, alone):
            optimizer = make(each, base, regularizer, anchor_seed=3, anisotropy=0.3)
            train(each, optimizer)
            found.append(weights(each))
        results[base, regularizer] = [gathered(found[0]), found[1]]
    return results


def test_tensor_parallel_ranks_equal_one_process(two_ranks):
    for results in two_ranks(tensor_parallel):
        for base, regularizer in CASES:
            found, expected = results[base, regularizer]
            assert_same(found, expected, rtol=0, atol=1e-12)


# ---- torch.distributed.checkpoint, in one process ---------------------------------------------------


def resumed_by_name(regularizer, base, options):
    """Make two steps and a state dict by name, then two more in a model with other initial weights."""
    whole = network()
    optimizer = make(whole, base, regularizer, anchor_seed=3)
    train(whole, optimizer, steps=2)
    model_state, state = copy.deepcopy(
        state_dicts.get_state_dict(whole, optimizer, options=options)
    )
    train(whole, optimizer, steps=2)

    other = network(seed=1)
    resumed = make(other, base, regularizer, anchor_seed=4)
    state_dicts.set_state_dict(
        other, resumed, model_state_dict=model_state, optim_state_dict=state, options=options
    )
    assert_same(anchors_of(other, resumed), anchors_of(whole, optimizer), rtol=0, atol=0)
    train(other, resumed, steps=2)
    assert_same(weights(other), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_state_dicts_by_name_keep_the_anchors(regularizer, base):
    resumed_by_name(regularizer, base, state_dicts.StateDictOptions())


@pytest.mark.parametrize("base", BASES)
def test_flattened_state_dicts_resume_or_are_rejected(base):
    """Flatten the state, which torch then reads by the keys of the present one, without anchors."""
    flattened = state_dicts.StateDictOptions(flatten_optimizer_state_dict=True)
    resumed_by_name("syre", base, flattened)
    with pytest.raises(ValueError, match="lacks those of parameter 0"):
        resumed_by_name("l2-init", base, flattened)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_a_checkpoint_on_disk_keeps_the_anchors(tmp_path, regularizer):
    whole = network()
    optimizer = make(whole, regularizer=regularizer, anchor_seed=3)
    train(whole, optimizer, steps=2)
    model_state, optimizer_state = state_dicts.get_state_dict(whole, optimizer)
    checkpoint.save(
        {"model": model_state, "optimizer": optimizer_state}, checkpoint_id=tmp_path, no_dist=True
    )
    train(whole, optimizer, steps=2)

    other = network(seed=1)
    resumed = make(other, regularizer=regularizer, anchor_seed=4)
    model_state, optimizer_state = state_dicts.get_state_dict(other, resumed)
    state = {"model": model_state, "optimizer": optimizer_state}
    checkpoint.load(state, checkpoint_id=tmp_path, no_dist=True)
    state_dicts.set_state_dict(
        other,
        resumed,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    assert_same(anchors_of(other, resumed), anchors_of(whole, optimizer), rtol=0, atol=0)
    train(other, resumed, steps=2)
    assert_same(weights(other), weights(whole), rtol=0, atol=0)


def test_a_state_without_the_anchors_is_rejected():
    """Drop the anchors of l2-init, as another tool might: they cannot be recomputed."""
    model = network()
    optimizer = make(model, regularizer="l2-init")
    train(model, optimizer, steps=1)
    state = copy.deepcopy(optimizer.state_dict())
    for saved in state["state"].values():
        saved.pop("anchor", None)
    with pytest.raises(ValueError, match="lacks those of parameter 0"):
        make(network(), regularizer="l2-init").load_state_dict(state)


# ---- groups added later, policies, partly sharded models ---------------------------------------------


def later(rank):
    """Add a group, which is the first to need the seed; actor and critic of a policy use child seeds."""
    model, head = network(), nn.Linear(4, 4)
    optimizer = make(model, regularizer="weight-decay")
    group = {"params": list(head.parameters()), "regularizer": "syre", **SETTINGS}
    optimizer.add_param_group(group)
    other = nn.Linear(4, 4)  # with different weights on each rank
    try:
        optimizer.add_param_group(
            {"params": list(other.parameters()), "regularizer": "l2-init", **SETTINGS}
        )
    except ValueError as error:
        refusal = str(error)
    policy = Policy()
    return optimizer.anchor(head.weight), refusal, policy.optimizer.anchor(policy.policy_net.weight)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy_net, self.value_net = nn.Linear(4, 4), nn.Linear(4, 1)
        settings = {"regularizer": "syre", **SETTINGS}
        self.optimizer = policy_optimizer(torch.optim.Adam)(
            self.parameters(), lr=0.1, actor=settings, critic=settings
        )


def test_added_groups_and_policies_agree_on_the_seed(two_ranks):
    first, second = two_ranks(later)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[2], second[2])
    assert "Rank 1 starts from different weights" in first[1]
    assert first[1] == second[1]


def partly_sharded(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    results = []
    for regularizer in REGULARIZERS:
        for base in BASES:
            model = network()
            fully_shard(model[0], mesh=init_device_mesh("cpu", (2,)))
            optimizer = make(model, base, regularizer, anchor_seed=3)
            for parameter in model.parameters():
                parameter.grad = parameter.detach().clone()
            optimizer.step()
            found = [p.detach() for p in model.parameters()]
            results.append([p.full_tensor() if hasattr(p, "full_tensor") else p for p in found])
    return results


def test_a_partly_sharded_model_steps_as_in_one_process(two_ranks):
    cases = [(regularizer, base) for regularizer in REGULARIZERS for base in BASES]
    for found, (regularizer, base) in zip(two_ranks(partly_sharded)[0], cases, strict=True):
        alone = network()
        optimizer = make(alone, base, regularizer, anchor_seed=3)
        for parameter in alone.parameters():
            parameter.grad = parameter.detach().clone()
        optimizer.step()
        assert_same(found, weights(alone), rtol=0, atol=1e-12)


def flattened(rank):
    from torch.distributed.fsdp import FullyShardedDataParallel

    found = []
    for original in (True, False):
        model = FullyShardedDataParallel(
            nn.Linear(4, 4), use_orig_params=original, device_id=torch.device("cpu")
        )
        for regularizer in ("syre", "l2-init"):
            try:
                regularized(torch.optim.SGD)(
                    model.parameters(), lr=0.1, anchor_seed=3, regularizer=regularizer, strength=0.1
                )
            except ValueError as error:
                found.append(str(error))
    return found


def test_flattened_parameters_are_rejected(two_ranks):
    found = two_ranks(flattened)[0]
    assert len(found) == 4
    assert all("use FSDP2" in text for text in found)
