"""Policies of both forms, one and several stacked ones, with rollouts to learn from."""

import copy

import pytest
import torch
from torch import distributions

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.ppo.stacked_policies import StackedPolicies
from plasticity.mitigations import PLAIN_METHOD as NONE

SMALL = {"hidden": (8, 7), "rollout_steps": 64, "minibatch_size": 16, "epochs": 2}
LOG_STD = torch.tensor([-0.5, 0.0, 0.3])


def distribution(policy, observations):
    """Return the distribution of an ordinary policy's actions."""
    outputs = policy.actor(observations)
    if policy.log_std is None:
        return distributions.Categorical(logits=outputs)
    return distributions.Independent(distributions.Normal(outputs, policy.log_std.exp()), 1)


class Made:
    """Policies of one form in float64, ordinary copies of them, and a rollout with much clipping."""

    def __init__(
        self,
        form,
        config,
        *,
        discrete=False,
        actor=NONE,
        critic=NONE,
        networks=None,
    ):
        self.form, self.config = form, config
        seeds = range(1 if form == "single" else 3)
        self.copies = [self._policy(seed, discrete, networks) for seed in seeds]
        self.policies = self.again(actor, critic)
        self.batches = [self._batch(policy, seed) for seed, policy in enumerate(self.copies)]
        generator = torch.Generator().manual_seed(2)
        self.data_orders = [
            torch.stack([torch.randperm(64, generator=generator) for _ in range(config.epochs)])
            for _ in seeds
        ]

    def _policy(self, seed, discrete, networks):
        generator = torch.Generator().manual_seed(seed)
        own = {} if networks is None else networks(generator)
        policy = ActorCritic(5, 3, self.config, discrete=discrete, generator=generator, **own)
        policy = policy.double()
        if not discrete:
            policy.log_std.data.copy_(LOG_STD - seed / 10)
        return policy

    def again(self, actor=NONE, critic=NONE, form=None):
        """Make new policies with the weights of the copies."""
        made = copy.deepcopy(self.copies)
        if (form or self.form) == "single":
            return SinglePolicy(made[0], self.config, actor, critic)
        return StackedPolicies(made, self.config, [actor] * len(made), [critic] * len(made))

    @torch.no_grad()
    def _batch(self, policy, seed):
        generator = torch.Generator().manual_seed(10 + seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        observations = normal(64, 5)
        if policy.log_std is None:
            actions = torch.randint(3, (64,), generator=generator)
        else:
            actions = policy.actor(observations) + normal(64, 3) * policy.log_std.exp()
        # old probabilities that differ from the current ones, so that many ratios are clipped on both sides
        old = distribution(policy, observations).log_prob(actions) + 0.3 * normal(64)
        values = policy.critic(observations).squeeze(1) + 0.2 * normal(64)
        return Batch(observations, actions, old, normal(64), values, values + normal(64))

    def joined(self, tensors):
        """Give the tensors of all policies the leading dimensions of the form."""
        return tensors[0] if self.form == "single" else torch.stack(tensors)

    @property
    def batch(self):
        """Rollout of all policies."""
        parts = [vars(batch).values() for batch in self.batches]
        return Batch(*(self.joined(list(each)) for each in zip(*parts, strict=True)))

    @property
    def orders(self):
        """Data orders of all policies."""
        return self.joined(self.data_orders)

    def each(self):
        """Return index, ordinary copy, batch and data orders of each policy."""
        return zip(
            range(len(self.copies)), self.copies, self.batches, self.data_orders, strict=True
        )

    def of(self, numbers, index):
        """Return one policy's part of statistics or other numbers."""
        return numbers if self.form == "single" else numbers[index]


@pytest.fixture(params=["single", "stacked"])
def form(request):
    """Name of a form."""
    return request.param


@pytest.fixture
def make(form):
    """Return a function that makes policies of this form."""

    def make_form(*, discrete=False, actor=NONE, critic=NONE, networks=None, **settings):
        config = PPOConfig(**(SMALL | settings))
        options = {"discrete": discrete, "networks": networks}
        return Made(form, config, actor=actor, critic=critic, **options)

    return make_form


def policy_loss(policy, config, batch, rows, advantages):
    """Return the actor's loss as in the paper, for autograd."""
    found = distribution(policy, batch.observations[rows])
    ratios = (found.log_prob(batch.actions[rows]) - batch.log_probabilities[rows]).exp()
    clipped = ratios.clamp(1 - config.clip_range, 1 + config.clip_range)
    surrogate = torch.min(ratios * advantages, clipped * advantages).mean()
    return -surrogate - config.entropy_coefficient * found.entropy().mean()


def value_loss(policy, config, batch, rows):
    """Return the critic's loss, for autograd."""
    values, old = policy.critic(batch.observations[rows]).squeeze(1), batch.values[rows]
    if config.value_clip_range is not None:
        limit = config.value_clip_range
        values = old + (values - old).clamp(-limit, limit)
    return config.value_coefficient * (values - batch.returns[rows]).square().mean()


@pytest.fixture
def by_autograd():
    """Return functions of ordinary policies: their distribution, and both losses as in the paper."""
    return distribution, policy_loss, value_loss
