"""No inner loop reads a tensor back to the host, which would wait for a GPU.

This is tested without a GPU, by a mode that raises an error at each such operation. Reads of tensors that are
on the CPU on purpose are not covered.
"""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.agents.supervised.trainer import Trainer
from plasticity.mitigations import PLAIN_METHOD, L2Init, SeededMethod, Syre, WeightDecay
from plasticity.optim.regularizers import regularized
from plasticity.tasks.streams.base import TaskSpec

SETTINGS = [
    PLAIN_METHOD,
    SeededMethod((WeightDecay(strength=0.01),)),
    SeededMethod((Syre(strength=0.01, sigma=0.5),), anchor_seed=3),
    SeededMethod((Syre(anisotropy=0.2, strength=0.01, sigma=0.5),), anchor_seed=3),
    SeededMethod((L2Init(strength=0.01),)),
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


@pytest.mark.parametrize(
    "settings", [*SETTINGS, None], ids=lambda s: s.regularizer.regularizer if s else "stacked"
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("precision", "loss", "active"),
    [
        ("float32", "cross-entropy", None),
        ("bf16", "squared-error", None),
        ("float32", "cross-entropy", tuple(range(8))),
        ("float32", "squared-error", tuple(range(8))),
    ],
)
def test_the_step_of_a_classifier(never_waits, settings, optimizer, precision, loss, active):
    """One network with each regularizer, and networks with all of them stacked (None)."""
    config = ClassifierConfig(
        optimizer=optimizer, learning_rate=0.01, precision=precision, loss=loss
    )
    count = 1 if settings else len(SETTINGS)
    small = CNN(channels=(2,), hidden=(4,))
    networks = [small.build(small.spec((1, 8, 8), 10)) for _ in range(count)]
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    trainer: Trainer
    if settings is not None:
        trainer = Classifier(networks[0], config, settings, data_order_seed=1)
    else:
        trainer = StackedClassifier(networks, config, SETTINGS, data_order_seeds=range(count))
        images, labels = torch.rand(count, 8, 1, 8, 8), labels.expand(count, -1)
    trainer._loss.follow(TaskSpec(input_shape=(1, 8, 8), output_size=10, active=active))
    trainer._train_step(images, labels)  # creates the optimizer's state and the anchors
    with never_waits():
        for _ in range(33):  # until the accuracy has been counted
            trainer._train_step(images, labels)


# Adam without `fused` reads its step count, which is then on the CPU.
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.regularizer.regularizer)
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
        regularizer=settings.regularizer.regularizer,
        strength=settings.regularizer.strength,
        sigma=settings.regularizer.sigma,
        anisotropy=settings.regularizer.anisotropy,
        decoupled=decoupled,
        **extra,
    )
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with never_waits():
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
