"""Whole runs of a method, tiny: of a classifier, alone and stacked, and of PPO."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks import CNN
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.ppo.stacked_policies import StackedPolicies
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.attach import attach
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import (
    ControlRunConfig,
    ControlTracking,
    SupervisedRunConfig,
    SupervisedTracking,
)
from plasticity.scripts.run.experiment import experiment_class
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.streams.base import TaskSpec
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

sys.path.append(str(Path(__file__).parent))

DIGITS = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=2),
    # tanh, where a method keeps it: single and stacked runs round differently, and a ReLU at 0 would jump
    network=CNN(channels=(4, 4), hidden=(8,), activation="tanh"),
    agent=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=100),
    tracking=SupervisedTracking(probe_size=32, metrics=("effective_rank", "weight_norm")),
)
ANT = ControlRunConfig(
    benchmark="slippery-ant",
    stream=SlipperyAntConfig(engine="bullet", num_steps=256, change_every=200, num_envs=2),
    agent=PPOConfig(rollout_steps=64, epochs=2, minibatch_size=16, hidden=(8, 8)),
    tracking=ControlTracking(metrics=("effective_rank", "weight_norm"), measure_every=128),
)


def start(configs, *, stacked):
    return experiment_class(configs[0])(configs, stacked=stacked)


def finish(experiment):
    """Return the rows of each run until all are finished."""
    rows = [[] for _ in experiment.configs]
    while not all(map(experiment.is_finished, range(len(rows)))):
        for run, row in experiment.next_rows(lambda: False).items():
            rows[run].append(row)
    return rows


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stacked_as_alone():
    """Function that returns the rows of methods with networks of one shape, which train stacked as alone."""

    def check(*methods, **changes):
        configs = [
            with_values(DIGITS, {"method": method, "seed": seed, **changes})
            for seed, method in enumerate(methods)
        ]
        stacked = start(configs, stacked=True)
        rows, states = finish(stacked), stacked.state_dicts(range(len(configs)))
        for config, run_rows, state in zip(configs, rows, states, strict=True):
            alone = start([config], stacked=False)
            for row, expected in zip(run_rows, finish(alone)[0], strict=True):
                assert row.keys() == expected.keys()
                assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
            (expected,) = alone.state_dicts([0])
            torch.testing.assert_close(
                state["classifier"]["network"],
                expected["classifier"]["network"],
                rtol=1e-3,
                atol=1e-4,
            )
        return rows

    return check


@pytest.fixture
def attached_as_trained():
    """Function that trains a method, attached in a loop by hand, to the bits of the trainer's weights."""

    def check(*method, learning_rate=0.05, steps=8, **changes):
        settings = {"batch_size": 6, "learning_rate": learning_rate, **changes}
        draws = torch.Generator().manual_seed(0)
        inputs = torch.randn(steps, 6, 1, 4, 4, generator=draws)
        labels = torch.randint(3, (steps, 6), generator=draws)
        made = CNN(channels=(3,), hidden=(6,), activation="tanh")
        network = made.build(made.spec((1, 4, 4), 3))
        own = copy.deepcopy(network)
        seeds = child_seed(5, "anchor"), child_seed(5, "mitigations")
        trainer = Classifier(
            network, ClassifierConfig(**settings), SeededMethod(method, *seeds), data_order_seed=0
        )
        trainer._loss.follow(TaskSpec(input_shape=(1, 4, 4), output_size=3))
        trainer._hooks.begin(lambda: inputs[0])
        base = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings.get("optimizer", "sgd")]
        optimizer = base(own.parameters(), lr=learning_rate, fused=True)
        attach(own, optimizer, *method, seed=5, inputs=inputs[0])
        for batch, answers in zip(inputs, labels, strict=True):
            trainer._train_step(batch, answers)
            optimizer.zero_grad()
            functional.cross_entropy(own(batch), answers).backward()
            optimizer.step()
        for name, each in own.named_parameters():
            assert torch.equal(each, network.get_parameter(name)), name

    return check


@pytest.fixture
def continues_exactly():
    """Function that returns the rows of runs, which stop halfway through a task and continue to the same."""

    def check(method, *, stacked=False, **changes):
        configs = [
            with_values(DIGITS, {"method": method, "seed": seed, **changes})
            for seed in range(1 + stacked)
        ]
        whole = finish(start(configs, stacked=stacked))
        first, steps = start(configs, stacked=stacked), iter(range(7))
        assert first.next_rows(lambda: next(steps, None) is None) == {}
        second = start(configs, stacked=stacked)
        for run, state in enumerate(first.state_dicts(range(len(configs)))):
            second.load_state_dict(run, state)
        assert json.dumps(finish(second)) == json.dumps(whole)
        return whole

    return check


@pytest.fixture
def ppo_continues_exactly():
    """Function that returns the rows of an agent's run, which continues to the same bytes from its middle."""
    pytest.importorskip("pybullet")

    def check(method, **changes):
        config = with_values(ANT, {"method": method, **changes})
        whole = start([config], stacked=False)
        rows = [whole.next_rows(lambda: False)[0]]
        state = copy.deepcopy(whole.state_dicts([0])[0])  # which shares memory with the run
        rows += finish(whole)[0]
        whole.close()
        second = start([config], stacked=False)
        second.load_state_dict(0, state)
        assert json.dumps(finish(second)[0]) == json.dumps(rows[1:])
        second.close()
        return rows

    return check


@pytest.fixture
def ppo_stacked_as_alone():
    """Function that returns the counts of methods on policies in float64, which learn stacked as alone."""

    def check(*methods, updates=6):
        config = PPOConfig(hidden=(8, 7), rollout_steps=64, minibatch_size=16, epochs=2)
        draws = torch.Generator().manual_seed(0)
        shape = {"size": (len(methods), 64), "generator": draws, "dtype": torch.float64}
        observations = torch.randn(len(methods), 64, 5, generator=draws, dtype=torch.float64)
        actions = torch.randint(3, shape["size"], generator=draws)
        batch = observations, actions, -torch.rand(**shape), *(torch.randn(**shape) for _ in "123")
        orders = torch.stack([torch.randperm(64, generator=draws) for _ in range(config.epochs)])
        policies = [
            ActorCritic(5, 3, config, discrete=True, generator=draws).double() for _ in methods
        ]
        actors, critics = (
            [SeededMethod(method, noise_seed=first + run) for run, method in enumerate(methods)]
            for first in (0, 100)
        )
        stacked = StackedPolicies(copy.deepcopy(policies), config, actors, critics)
        for _ in range(updates):
            stacked.update(
                Batch(*batch), orders.expand(len(methods), -1, -1), [1e-2] * len(methods)
            )
        counts = stacked.take_counts()
        for run, (policy, actor, critic) in enumerate(zip(policies, actors, critics, strict=True)):
            alone = SinglePolicy(policy, config, actor, critic)
            for _ in range(updates):
                alone.update(Batch(*(each[run] for each in batch)), orders, [1e-2])
            assert counts[run] == alone.take_counts()[0]
            found, expected = stacked.state_dict(run), alone.state_dict()
            torch.testing.assert_close(found["policy"], expected["policy"])
            for part in ("actor_mitigations", "critic_mitigations"):
                for mitigation in methods[run]:
                    own, of_alone = (each[part][mitigation.name] for each in (found, expected))
                    torch.testing.assert_close(own, of_alone)
        return counts

    return check


@pytest.fixture
def trains_alike():
    """Function that trains by methods of one shape, and checks that each comes to the same in every form.

    In float64, each network alone is as its row of a stack; the first also as with `attach`, and, bit for
    bit, as one that stopped and continued. It returns each one's weights, buffers and moments, by name.
    """
    from networks_in_training import Training

    def check(*methods, steps=13, **settings):
        together = Training(list(methods), **settings).train(steps)
        found = [
            Training(method, seed=run, **settings).train(steps).everything()
            for run, method in enumerate(methods)
        ]
        for run, alone in enumerate(found):
            torch.testing.assert_close(together.everything(run), alone, rtol=1e-9, atol=1e-9)
        attached = Training(methods[0], attached=True, **settings).train(steps).everything()
        torch.testing.assert_close(attached, found[0], rtol=1e-12, atol=1e-12)
        for stop in (7, 10):  # within a task, and between two
            begun = Training(methods[0], **settings).train(stop)
            continued = begun.continued(methods[0], **settings).train(steps - stop)
            torch.testing.assert_close(continued.everything(), found[0], rtol=0, atol=0)
        return found

    return check


@pytest.fixture
def leaves_alone():
    """Function that checks that a method with these settings trains exactly as none does."""
    from networks_in_training import Training

    def check(method, steps=12):
        found = Training(method).train(steps).everything()
        torch.testing.assert_close(found, Training(()).train(steps).everything(), rtol=0, atol=0)

    return check
