"""The critic in a separate process: same bits, no process left behind, an error if the process dies."""

import copy
import gc
import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from made_up_mitigations import Average
from torch import nn

from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.critic_process import CriticProcess
from plasticity.agents.ppo.gradients import gradients_of
from plasticity.agents.ppo.optimizers import critic_optimizer
from plasticity.agents.ppo.updates import CriticUpdate, run_half
from plasticity.mitigations import L2Init, SeededMethod

CONFIG = PPOConfig(hidden=(16, 8), rollout_steps=64, minibatch_size=16, epochs=2)
L2_INIT = SeededMethod((L2Init(strength=0.1),), anchor_seed=1)


def make_critic():
    generator = torch.Generator().manual_seed(0)
    return ActorCritic(5, 2, CONFIG, generator=generator).critic


def make_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(64, 5, generator=generator)
    values, returns = torch.randn(2, 64, generator=generator)
    data_orders = torch.stack([torch.randperm(64, generator=generator) for _ in range(2)])
    actor = torch.empty(0), torch.empty(0), torch.empty(0)  # what only the actor learns from
    return Batch(observations, *actor, values, returns), data_orders


def is_running(process):
    return process._process.poll() is None


@pytest.fixture(scope="module")
def process():
    made = CriticProcess(make_critic(), CONFIG, L2_INIT)
    yield made
    made.close()
    assert not is_running(made)


def test_same_bits_as_a_local_update(process):
    twin = make_critic()
    optimizer = SingleOptimizer(critic_optimizer(twin, CONFIG, L2_INIT.regularizer))
    update = CriticUpdate(
        gradients_of(SingleNetwork(twin), CONFIG.minibatch_size), optimizer, CONFIG
    )
    critic = process._critic
    for seed, rate in ((1, 1e-2), (2, 1e-3)):
        batch, data_orders = make_batch(seed)
        process.set_learning_rate([rate])
        process.start(batch, data_orders)
        statistics = process.finish()
        optimizer.set_learning_rate([rate])
        update.begin(batch.observations, batch.values, batch.returns)
        run_half(update, data_orders)
        for name, parameter in critic.named_parameters():
            assert torch.equal(parameter, twin.get_parameter(name))
            assert torch.equal(parameter.grad, twin.get_parameter(name).grad)
        assert torch.equal(statistics["value_loss"], update.statistics()["value_loss"])
        state, expected = process.state_dict(), optimizer.state_dict()
        assert state["param_groups"] == expected["param_groups"]
        for key in ("exp_avg", "exp_avg_sq", "step", "anchor"):
            for index in expected["state"]:
                assert torch.equal(state["state"][index][key], expected["state"][index][key])


def test_an_update_starts_from_the_weights_of_this_process(process):
    """The next update starts from weights changed here, and from a loaded optimizer state."""
    critic = process._critic
    state = process.state_dict()
    weights = {name: p.detach().clone() for name, p in critic.named_parameters()}
    batch, data_orders = make_batch(3)
    found = []
    for _ in range(2):
        critic.load_state_dict(weights)
        process.load_state_dict(0, state)
        process.start(batch, data_orders)
        process.finish()
        found.append([p.detach().clone() for p in critic.parameters()])
    for first, second, before in zip(*found, weights.values(), strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, before)


def test_running_statistics_come_back():
    here = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    there = copy.deepcopy(here)
    optimizer = SingleOptimizer(critic_optimizer(here, CONFIG, L2_INIT.regularizer))
    update = CriticUpdate(
        gradients_of(SingleNetwork(here), CONFIG.minibatch_size), optimizer, CONFIG
    )
    process = CriticProcess(there, CONFIG, L2_INIT)
    try:
        for seed in (1, 2):
            batch, data_orders = make_batch(seed)
            update.begin(batch.observations, batch.values, batch.returns)
            run_half(update, data_orders)
            process.start(batch, data_orders)
            process.finish()
            for network in (here, there):  # a rollout changes them in this process
                network(batch.observations)
    finally:
        process.close()
    for name, tensor in here.state_dict().items():
        assert torch.equal(there.state_dict()[name], tensor)


def test_critics_that_cannot_be_moved_are_refused():
    local = nn.Linear(5, 1)
    local.function = lambda x: x
    for critic, message in (
        (nn.Sequential(nn.Linear(5, 1), nn.Dropout(0.2)), r"'1' is a dropout layer with p=0\.2"),
        (local, "cannot be pickled .*give update_threads=1"),
    ):
        with pytest.raises(ValueError, match=message):
            CriticProcess(critic, CONFIG, L2_INIT)


def test_an_update_that_was_never_finished_is_skipped(process):
    batch, data_orders = make_batch(4)
    process.start(batch, data_orders)
    steps = process.state_dict()["state"][0]["step"]
    process.start(batch, data_orders)
    process.finish()
    assert process.state_dict()["state"][0]["step"] == steps + 8


def test_a_killed_process_is_an_error_that_names_it():
    process = CriticProcess(make_critic(), CONFIG, L2_INIT)
    batch, data_orders = make_batch(0)
    process.start(batch, data_orders)
    number = process._process.pid
    os.kill(number, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=f"process {number} ended with exit status -9"):
        process.finish()
    with pytest.raises(RuntimeError, match="Continue from the last checkpoint"):
        process.start(batch, data_orders)


def test_it_ends_with_its_owner():
    process = CriticProcess(make_critic(), CONFIG, L2_INIT)
    popen = process._process
    assert os.getsid(popen.pid) != os.getsid(0)  # so that Ctrl-C does not reach it
    process.state_dict()
    del process
    gc.collect()
    assert popen.poll() == 0


def test_modules_are_found_on_the_search_path_of_this_process(tmp_path, monkeypatch):
    """Not in the current directory, where a file may have the name of a standard module."""
    for name in ("platform", "json", "statistics"):
        message = f"{name} of the current directory"
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError({message!r})\n")
    modules = tmp_path / "it's a folder"
    modules.mkdir()
    (modules / "critic_of_a_user.py").write_text(
        "from plasticity.agents.networks.actor_critic import DenseNetwork\n\n\n"
        "class UserNetwork(DenseNetwork):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(modules), modules, *sys.path])
    critic = make_critic()
    critic.__class__ = importlib.import_module("critic_of_a_user").UserNetwork
    process = CriticProcess(critic, CONFIG, L2_INIT)
    assert process.state_dict()["param_groups"]
    process.close()


OWNER = """
import os, signal, time
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.critic_process import CriticProcess
from plasticity.agents.ppo.config import PPOConfig
from plasticity.mitigations import PLAIN_METHOD

config = PPOConfig(hidden=(4,))
process = CriticProcess(ActorCritic(2, 1, config).critic, config, PLAIN_METHOD)
process.state_dict()
child = os.fork()
if child == 0:
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(process._process.pid, child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_when_its_owner_is_killed():
    """It ends even while a forked child of the owner keeps the socket open."""
    owner = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWNER],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.returncode == -signal.SIGKILL
    number, child = map(int, owner.stdout.split())
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and _exists(number):
            time.sleep(0.1)
        assert not _exists(number)
    finally:
        os.kill(child, signal.SIGKILL)


def _exists(number):
    try:
        with open(f"/proc/{number}/stat") as file:  # noqa: PTH123
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_mitigations_there_see_the_weights_of_this_process(process_of_average):
    critic, process = process_of_average
    untrained = process.hooks.state_dict()
    process.start(*make_batch(0))
    process.finish()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(0.5)
    process.hooks.load_state_dict(untrained)  # from before the beginning: the average begins anew
    for average in process.hooks.evaluation_parameters().values():
        assert (average == 0.5).all()


@pytest.fixture
def process_of_average():
    critic = make_critic()
    made = CriticProcess(critic, CONFIG, SeededMethod((Average(),)))
    yield critic, made
    made.close()
