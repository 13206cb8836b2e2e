"""No inner loop reads a tensor back to the host, which would wait for a GPU.

This is tested without a GPU, by a mode that raises an error at each such operation. Reads of tensors that are
on the CPU on purpose are not covered.
"""

import pytest
import torch
from torch import nn

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    actor_optimizer,
    critic_optimizer,
    run_coupled,
    run_half,
)
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings

SETTINGS = [
    RegularizerSettings(),
    RegularizerSettings("weight-decay", 0.01),
    RegularizerSettings("syre", 0.01, 0.5, anchor_seed=3),
    RegularizerSettings("syre", 0.01, 0.5, anisotropy=0.2, anchor_seed=3),
    RegularizerSettings("l2-init", 0.01),
]


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
    ],
)
def test_the_mode_catches_waiting_operations(never_waits, waiting):
    with never_waits(), pytest.raises(AssertionError, match="waits for the device"):
        waiting(torch.ones(3))


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.regularizer)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("precision", "loss"), [("float32", "cross-entropy"), ("bf16", "squared-error")]
)
def test_the_step_of_a_classifier(never_waits, settings, optimizer, precision, loss):
    config = ClassifierConfig(
        optimizer=optimizer, learning_rate=0.01, precision=precision, loss=loss
    )
    network = ImageNetwork((1, 8, 8), 10, NetworkConfig(channels=(2,), hidden=(4,)))
    classifier = Classifier(network, config, settings, data_order_seed=1)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    classifier._train_step(images, labels)  # creates the optimizer's state and the anchors
    with never_waits():
        for _ in range(33):  # until the accuracy has been counted
            classifier._train_step(images, labels)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("precision", "loss"), [("float32", "cross-entropy"), ("bf16", "squared-error")]
)
def test_the_step_of_stacked_classifiers(never_waits, optimizer, precision, loss):
    config = ClassifierConfig(
        optimizer=optimizer, learning_rate=0.01, precision=precision, loss=loss
    )
    networks = [
        ImageNetwork((1, 8, 8), 10, NetworkConfig(channels=(2,), hidden=(4,))) for _ in SETTINGS
    ]
    seeds = range(len(SETTINGS))
    classifier = StackedClassifier(networks, config, SETTINGS, data_order_seeds=seeds)
    images = torch.rand(len(SETTINGS), 8, 1, 8, 8)
    labels = torch.arange(8).expand(len(SETTINGS), -1)
    classifier._train_step(images, labels)
    with never_waits():
        classifier._train_step(images, labels)


# Adam without `fused` reads its step count, which is then on the CPU.
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.regularizer)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(
    ("base", "extra"),
    [
        (torch.optim.SGD, {"foreach": True}),
        (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
        (torch.optim.Adam, {"fused": True}),
        (torch.optim.AdamW, {"fused": True}),
    ],
)
def test_regularized_steps(never_waits, settings, decoupled, base, extra):
    layer = nn.Linear(3, 2)
    optimizer = regularized(base)(
        layer.parameters(),
        lr=0.01,
        regularizer=settings.regularizer,
        strength=settings.strength,
        sigma=settings.sigma,
        anisotropy=settings.anisotropy,
        decoupled=decoupled,
        **extra,
    )
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with never_waits():
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.regularizer)
@pytest.mark.parametrize(
    "options",
    [
        {"normalize_advantages": "minibatch"},
        {"normalize_advantages": "rollout", "value_clip_range": 0.2},
        {"max_gradient_norm": 0.5, "entropy_coefficient": 0.01},
    ],
)
def test_the_update_of_ppo(never_waits, options, settings, discrete):
    config = PPOConfig(rollout_steps=32, minibatch_size=16, epochs=2, hidden=(4,), **options)
    policy = ActorCritic(3, 2, config, discrete=discrete)
    actor = ActorUpdate(policy, config, actor_optimizer(policy, config, settings))
    critic = CriticUpdate(policy.critic, config, critic_optimizer(policy.critic, config, settings))
    observations = torch.randn(32, 3)
    actions = torch.randint(2, (32,)) if discrete else torch.randn(32, 2)
    zeros, data_orders = torch.zeros(32), [torch.randperm(32) for _ in range(2)]

    def update():
        actor.begin(ActorBatch(observations, actions, zeros, torch.randn(32)), 1e-3)
        critic.begin(CriticBatch(observations, zeros, torch.randn(32)), 1e-3)
        # Without `flushed_denormals` around it, which reads a number on the CPU.
        if config.max_gradient_norm is None:
            run_half.__wrapped__(actor, data_orders, config.num_minibatches)
            run_half.__wrapped__(critic, data_orders, config.num_minibatches)
        else:
            run_coupled.__wrapped__(actor, critic, data_orders, config)
        return actor.statistics() | critic.statistics()

    update()
    with never_waits():
        update()
