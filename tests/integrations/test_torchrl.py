"""torchrl: the parameters of its loss modules, and measuring on a TensorDict."""

import warnings

import pytest
import torch
from torch import nn

from plasticity import Tracker, effective_rank, parameter_groups, regularized

torchrl = pytest.importorskip("torchrl")
tensordict = pytest.importorskip("tensordict")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # import warnings about optional simulators and parts of torch
    from tensordict import TensorDict
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import ClipPPOLoss, DQNLoss, SoftUpdate

# torchrl's own warnings, about its choice of keys and about torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::torchrl"),
    pytest.mark.filterwarnings("ignore:::tensordict"),
]

LR, STRENGTH = 1e-2, 0.1
SYRE = {"regularizer": "syre", "strength": STRENGTH, "sigma": 0.3, "anchor_seed": 3}


def loss_module():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 2), NormalParamExtractor()
    )
    actor = ProbabilisticActor(
        TensorDictModule(network.double(), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)).double(),
        in_keys=["observation"],
    )
    return ClipPPOLoss(actor, critic), actor, critic


def batch():
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(32, *shape, generator=generator, dtype=torch.float64)

    return TensorDict(
        {
            "observation": normal(4),
            "action": normal(1).tanh() * 0.9,
            "action_log_prob": normal() * 0.1 - 1,
            "advantage": normal(1),
            "value_target": normal(1),
        },
        batch_size=[32],
    )


def train(loss, optimizer, join=lambda: None, steps=4):
    for _ in range(steps):
        torch.manual_seed(2)  # the entropy is estimated from a sample
        optimizer.zero_grad()
        found = loss(batch())
        (found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]).backward()
        join()
        optimizer.step()


def weights(loss):
    return [p.detach().clone() for p in loss.parameters()]


def test_ppo_loss_equals_a_loop_by_hand():
    loss, *_ = loss_module()
    optimizer = regularized(torch.optim.Adam)(loss.parameters(), lr=LR, **SYRE)
    anchors = [optimizer.anchor(p) for p in loss.parameters()]
    assert all(anchor is not None and anchor.any() for anchor in anchors)
    train(loss, optimizer)

    other, *_ = loss_module()

    def join():
        for parameter, anchor in zip(other.parameters(), anchors, strict=True):
            parameter.grad += STRENGTH * (parameter.detach() - anchor)

    train(other, torch.optim.Adam(other.parameters(), lr=LR), join)
    for one, expected in zip(weights(loss), weights(other), strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-12)


def test_groups_of_actor_and_critic():
    """Make groups from the networks, which know their layers, unlike the loss module's flat list."""
    loss, actor, critic = loss_module()
    groups = [*parameter_groups(actor, **SYRE), *parameter_groups(critic, **SYRE)]
    optimizer = regularized(torch.optim.Adam)(groups, lr=LR)
    every = {p for group in optimizer.param_groups for p in group["params"]}
    assert every == set(loss.parameters())
    norm = actor.get_submodule("0.module.1")
    assert isinstance(norm, nn.LayerNorm)
    alone = [p for p in loss.parameters() if optimizer.anchor(p) is None]
    assert len(alone) == 2
    assert all(any(p is q for q in norm.parameters()) for p in alone)
    before = weights(loss)
    train(loss, optimizer)
    assert not any(map(torch.equal, before, weights(loss)))


def test_target_networks_are_left_alone():
    """Check that target networks, which are not parameters, are moved only by SoftUpdate."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    value = TensorDictModule(network, in_keys=["observation"], out_keys=["action_value"])
    actor = torchrl.modules.QValueActor(value, in_keys=["observation"], action_space="categorical")
    loss = DQNLoss(actor, action_space="categorical", delay_value=True)
    SoftUpdate(loss, eps=0.99)
    optimizer = regularized(torch.optim.SGD)(loss.parameters(), lr=LR, **SYRE)
    assert len(optimizer.param_groups[0]["params"]) == 4
    targets = [t.clone() for t in loss.target_value_network_params.values(True, True)]
    for parameter in loss.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = loss.target_value_network_params.values(True, True)
    assert len(targets) == 4
    assert all(map(torch.equal, targets, after))


def test_measuring_on_a_tensordict():
    _, actor, _ = loss_module()
    probe = batch().select("observation")
    kept = probe.clone()
    state = torch.get_rng_state()
    tracker = Tracker(actor, probe, forward=lambda model, data: model(data))
    row = tracker.boundary(task=0)
    assert torch.equal(state, torch.get_rng_state())
    assert set(probe.keys()) == {"observation"}
    assert torch.equal(probe["observation"], kept["observation"])
    network = actor.get_submodule("0.module")
    with torch.no_grad():
        hidden = network[:3](probe["observation"])
    found = row["effective_rank/module.0.module.2"]  # in addition to functions of the distribution
    assert found == pytest.approx(effective_rank(hidden).item(), rel=1e-9)


def test_measuring_does_not_change_training():
    trained = []
    for measured in (False, True):
        loss, actor, _ = loss_module()
        optimizer = regularized(torch.optim.Adam)(loss.parameters(), lr=LR, **SYRE)
        tracker = None
        if measured:
            probe = batch().select("observation")
            tracker = Tracker(actor, probe, forward=lambda model, data: model(data))
        for task in range(2):
            train(loss, optimizer)
            if tracker is not None:
                tracker.boundary(task=task)
        trained.append(weights(loss))
    assert all(map(torch.equal, *trained))
