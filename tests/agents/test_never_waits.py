"""No inner loop reads a tensor back to the host, which would wait for a GPU.

This is tested without a GPU, by a mode that raises an error at each such operation. Reads of tensors that are
on the CPU on purpose are not covered.
"""

import pytest
import torch
from made_up_mitigations import ALL, Replace
from torch import nn

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.agents.supervised.trainer import Trainer
from plasticity.mitigations import (
    PLAIN_METHOD,
    TRAC,
    UPGD,
    Churn,
    InFeR,
    Isometry,
    L2Init,
    Parseval,
    ProximalFeatures,
    ReDo,
    SeededMethod,
    Spectral,
    Syre,
    Wasserstein,
    WeightDecay,
)
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


class RandomTask:
    """Task of a batch of images, of one run or of several."""

    def __init__(self, index, lead):
        self.index, self.num_train = index, 8
        self.spec = TaskSpec(input_shape=(1, 8, 8), output_size=10)
        self.images, self.labels = torch.rand(*lead, 8, 1, 8, 8), torch.arange(8).expand(*lead, 8)

    def train_batch(self, indices):
        count = indices.shape[-1]
        return self.images[..., :count, :, :, :], self.labels[..., :count]

    def test_batches(self, batch_size):
        yield self.images, self.labels


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "method",
    [
        (ReDo(every=1, tau=0.9),),
        (UPGD(),),
        (TRAC(),),
        (Parseval(), Wasserstein(), Churn(), InFeR(), ProximalFeatures(every=1)),
        (Spectral(),),
        (Isometry(),),
        (Replace(),),
        ALL,
    ],
    ids=lambda m: "+".join(each.name for each in m),
)
def test_mitigations_that_act_on_steps(never_waits, stacked, optimizer, method):
    """Steps, resets and boundaries; the first task makes the hooks, and finds the units."""
    config = ClassifierConfig(optimizer=optimizer, learning_rate=0.01, batch_size=8)
    small = CNN(channels=(2,), hidden=(4,))
    networks = [small.build(small.spec((1, 8, 8), 10)) for _ in range(3)]
    given = [SeededMethod(method, noise_seed=seed) for seed in range(3)]
    lead = (3,) if stacked else ()
    trainer: Trainer
    if stacked:
        trainer = StackedClassifier(networks, config, given, data_order_seeds=range(3))
    else:
        trainer = Classifier(networks[0], config, given[0], data_order_seed=1)
    for index in range(2):  # the second makes the memory of fresh weights and of counts
        task = RandomTask(index, lead)
        trainer.train(task)
        trainer.finish(task)
    task = RandomTask(2, lead)
    with never_waits():
        for _ in range(3):
            trainer._train_step(task.images, task.labels)
        trainer._hooks.boundary(3, range(3 if stacked else 1))
        with trainer._evaluating():
            pass


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
