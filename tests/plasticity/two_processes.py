"""One of two gloo processes on a CPU: `python two_processes.py RANK RENDEZVOUS`; prints JSON."""

import json
import sys
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from plasticity import regularized

BASES = {"SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {}}
REGULARIZERS = {
    "weight-decay": {"regularizer": "weight-decay"},
    "syre": {"regularizer": "syre", "sigma": 0.5},
    "anisotropic": {"regularizer": "syre", "sigma": 0.5, "anisotropy": 0.3},
    "l2-init": {"regularizer": "l2-init"},
}


def network(seed=0):
    torch.manual_seed(seed)
    # 7 and 3 rows: the two processes have shards of different sizes.
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def make(base, parameters, **settings):
    return regularized(getattr(torch.optim, base))(
        parameters, lr=0.05, strength=0.1, **BASES[base], **settings
    )


def train(model, optimizer, rank=0, world=1, steps=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs, targets = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        errors = model(inputs[rank::world]) - targets[rank::world, :3]
        errors.square().mean().backward()
        optimizer.step()


def flat(model):
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return nn.utils.parameters_to_vector([p.detach() for p in whole]).tolist()


def error_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def data_parallel(rank):
    """Each process has a seed of its own, as in CleanRL's recipe; the optimizer reads it."""
    found = {}
    for name, settings in REGULARIZERS.items():
        model = DistributedDataParallel(network())
        torch.manual_seed(100 + rank)
        optimizer = make("Adam", model.parameters(), **settings)
        train(model, optimizer, rank, 2)
        found[name] = flat(model)
    return found


def made_before_wrapping(rank):
    model = network(seed=rank)
    return error_of(lambda: make("SGD", model.parameters(), regularizer="l2-init"))


def other_parameters(rank):
    own = [nn.Parameter(torch.ones(3 + rank, 2))]
    return error_of(lambda: make("SGD", own, regularizer="syre", sigma=0.5))


def apart(rank):
    """Given seeds are this process's own affair: nothing is agreed, and nothing waited for."""
    if rank == 1:
        make("SGD", [nn.Parameter(torch.ones(3, 2))], regularizer="syre", anchor_seed=7)
    return rank


def zero_redundancy(rank):
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns of its own imports

    return error_of(
        lambda: ZeroRedundancyOptimizer(
            network().parameters(),
            optimizer_class=regularized(torch.optim.Adam),
            lr=0.1,
            regularizer="syre",
            strength=0.1,
            anchor_seed=0,
        )
    )


def sharded(rank):
    found = {}
    for base in BASES:
        for name, settings in REGULARIZERS.items():
            model = network()
            fully_shard(model)
            optimizer = make(base, model.parameters(), anchor_seed=3, **settings)
            train(model, optimizer, rank, 2)
            found[f"{base} {name}"] = flat(model)
    return found


def checkpointed(rank):
    """Trained, saved by torch.distributed.checkpoint, and continued by new objects."""
    found = {}
    for base in BASES:
        model = network()
        fully_shard(model)
        optimizer = make(base, model.parameters(), regularizer="l2-init")
        train(model, optimizer, rank, 2)
        folders = [tempfile.mkdtemp() if rank == 0 else None]
        dist.broadcast_object_list(folders)
        dcp.save(
            {"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folders[0]
        )
        model.zero_grad()  # as in a new process: torch then makes the state that it loads into
        again = make(base, model.parameters(), regularizer="l2-init")  # from the weights of now
        state = {"optimizer": get_optimizer_state_dict(model, again)}
        dcp.load(state, checkpoint_id=folders[0])
        set_optimizer_state_dict(model, again, state["optimizer"])
        train(model, again, rank, 2)
        found[base] = flat(model)
    return found


CASES = (
    data_parallel,
    made_before_wrapping,
    other_parameters,
    apart,
    zero_redundancy,
    sharded,
    checkpointed,
)

if __name__ == "__main__":
    rank, rendezvous = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of torch.distributed, about itself
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    results = {case.__name__: case(rank) for case in CASES}
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(results))
