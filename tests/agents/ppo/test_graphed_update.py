"""PPO's captured update compared with the same update called eagerly."""

import copy
from dataclasses import replace

import gymnasium as gym
import pytest
import torch

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.graphed_update import GraphedUpdate
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    actor_optimizer,
    critic_optimizer,
    update_both,
)
from plasticity.optim.settings import RegularizerSettings

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

CONFIG = PPOConfig(rollout_steps=32, minibatch_size=8, epochs=2, hidden=(6, 5), compile=True)
CONFIGS = [
    CONFIG,
    replace(CONFIG, max_gradient_norm=0.1, value_clip_range=0.2, entropy_coefficient=0.01),
    replace(CONFIG, normalize_advantages="minibatch"),
]
SYRE = RegularizerSettings("syre", 0.1, 0.5, anchor_seed=3)
DECAY = RegularizerSettings("weight-decay", 0.1)


class Agent:
    """Both halves of an agent, and rollouts drawn for it."""

    def __init__(self, config, *, discrete=False, device="cpu"):
        self.config, self.discrete, self.device = config, discrete, torch.device(device)
        generator = torch.Generator().manual_seed(0)
        self.policy = ActorCritic(4, 2, config, discrete=discrete, generator=generator).to(device)
        self.actor = ActorUpdate(self.policy, config, actor_optimizer(self.policy, config, SYRE))
        self.critic = CriticUpdate(
            self.policy.critic, config, critic_optimizer(self.policy.critic, config, DECAY)
        )

    def rollout(self, seed):
        generator = torch.Generator().manual_seed(seed)
        steps = self.config.rollout_steps

        def normal(*shape):
            return torch.randn(shape, generator=generator).to(self.device)

        observations = normal(steps, 4)
        actions = normal(steps, 2)
        if self.discrete:
            actions = (actions[:, 0] > 0).long()
        data_orders = torch.stack(
            [torch.randperm(steps, generator=generator) for _ in range(self.config.epochs)]
        ).to(self.device)
        actor = ActorBatch(observations, actions, normal(steps) - 2, normal(steps))
        return (actor, CriticBatch(observations, normal(steps), normal(steps))), data_orders

    def eagerly(self, batches, data_orders, learning_rate):
        return update_both(
            self.actor, self.critic, batches, list(data_orders), learning_rate, self.config
        )

    def graphed(self):
        return GraphedUpdate(self.actor, self.critic, self.config, self.device)

    def optimizers(self):
        return self.actor.optimizer, self.critic.optimizer

    def weights(self):
        return torch.cat([p.detach().flatten().cpu() for p in self.policy.parameters()])


def compare(here, there, **tolerance):
    """Run updates with a falling learning rate, loading the other agent's state halfway."""
    graphed = there.graphed()
    for seed in range(11):
        rate = 0.01 / (1 + seed)
        expected = here.eagerly(*here.rollout(seed), rate)
        found = graphed(*there.rollout(seed), rate)
        assert expected.keys() == found.keys()
        for name, number in expected.items():
            torch.testing.assert_close(found[name].cpu(), number.cpu(), **tolerance)
        assert [o.param_groups[0]["lr"] for o in there.optimizers()] == [rate, rate]
        if seed == 5:
            for own, other in zip(there.optimizers(), here.optimizers(), strict=True):
                own.load_state_dict(copy.deepcopy(other.state_dict()))
            there.policy.load_state_dict(here.policy.state_dict())
            graphed.forget()
    torch.testing.assert_close(here.weights(), there.weights(), **tolerance)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_captured_update_equals_the_eager_update(cuda_graphs_on_cpu, config, discrete):
    agents = [Agent(config, discrete=discrete) for _ in range(2)]
    # The CPU's kernel uses a learning rate in a tensor as float32, but a number as float64.
    compare(*agents, rtol=1e-5, atol=1e-6)
    assert len(cuda_graphs_on_cpu) == 2


def test_a_captured_update_runs_no_python(cuda_graphs_on_cpu, monkeypatch):
    agent = Agent(CONFIG)
    graphed = agent.graphed()
    for seed in range(4):
        graphed(*agent.rollout(seed), 0.01)
    before = agent.weights()
    monkeypatch.setattr(ActorUpdate, "compute_gradients", None)
    graphed(*agent.rollout(4), 0.01)
    assert not torch.equal(before, agent.weights())


def test_a_cpu_has_no_graphs():
    with pytest.raises(ValueError, match=r"CUDA graph \(compile\) needs a CUDA device, not cpu"):
        Agent(CONFIG).graphed()


def pendulums():
    return gym.make_vec(
        "Pendulum-v1",
        num_envs=2,
        vectorization_mode="sync",
        max_episode_steps=15,
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )


def test_an_agent_that_compiles_and_continues(cuda_graphs_on_cpu):
    scheduled = replace(CONFIG, learning_rate_schedule="linear", total_steps=1000)
    eager, compiled = (
        PPO(pendulums(), replace(scheduled, compile=compiles), SYRE, DECAY, seed=4)
        for compiles in (False, True)
    )
    for iteration in range(11):
        if iteration == 5:
            # The resumed agent keeps the environments, so that both continue from equal ones.
            resumed = PPO(compiled.envs, compiled.config, SYRE, DECAY, seed=4)
            resumed.load_state_dict(copy.deepcopy(compiled.state_dict()))
            compiled = resumed
        expected, found = eager.iterate(), compiled.iterate()
        for name, number in expected.statistics.items():
            assert found.statistics[name] == pytest.approx(number, rel=1e-3, abs=1e-4), name
    assert len(cuda_graphs_on_cpu) == 2
    rates = [
        agent.state_dict()["actor_optimizer"]["param_groups"][0]["lr"]
        for agent in (eager, compiled)
    ]
    assert rates[0] == rates[1]
    assert isinstance(rates[1], float)


def test_an_agent_without_cuda_does_not_compile():
    for threads in (1, 2):
        with pytest.raises(ValueError, match="needs a CUDA device, not cpu: leave out compile"):
            PPO(pendulums(), CONFIG, seed=4, update_threads=threads)


def test_decisions_of_the_host_cannot_be_captured():
    with pytest.raises(ValueError, match=r"target_kl=0\.01 is read by the host .* leave out"):
        replace(CONFIG, target_kl=0.01)
    with pytest.raises(TypeError, match="compile must be True or False, not 1"):
        replace(CONFIG, compile=1)


@needs_cuda
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_captured_and_eager_agree_on_a_gpu(config, discrete):
    agents = [Agent(config, discrete=discrete, device="cuda") for _ in range(2)]
    compare(*agents, rtol=1e-3, atol=1e-4)


@needs_cuda
def test_a_replayed_update_never_waits():
    agent = Agent(CONFIG, device="cuda")
    graphed = agent.graphed()
    rollouts = [agent.rollout(seed) for seed in range(6)]
    for rollout in rollouts[:4]:
        graphed(*rollout, 0.01)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for rollout in rollouts[4:]:
            graphed(*rollout, 0.005)
    finally:
        torch.cuda.set_sync_debug_mode("default")
