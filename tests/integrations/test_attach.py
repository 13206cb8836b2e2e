"""Attached mitigations in Stable-Baselines3's PPO, and in two processes of DistributedDataParallel."""

from dataclasses import fields, replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from plasticity.mitigations import MITIGATIONS, ReDo, Syre
from plasticity.mitigations.attach import attach
from plasticity.mitigations.stacked_settings import overrides

# ---- Stable-Baselines3 ------------------------------------------------------------------------------

HIDDEN = [f"mlp_extractor.{net}.{layer}" for net in ("policy_net", "value_net") for layer in (0, 2)]


@pytest.fixture
def make_ppo():
    ppo = pytest.importorskip("stable_baselines3").PPO

    def make():
        torch.set_num_threads(1)
        settings = {"n_steps": 256, "batch_size": 64, "n_epochs": 5, "learning_rate": 1e-3}
        network = {"net_arch": [32, 32], "activation_fn": nn.ReLU}
        return ppo(
            "MlpPolicy", "CartPole-v1", policy_kwargs=network, seed=0, device="cpu", **settings
        )

    return make


def observations(model):
    return torch.as_tensor(model.env.reset(), dtype=torch.float32)


def test_ppo_whose_mitigation_never_fires_is_the_plain_one(make_ppo):
    plain = make_ppo()  # which seeds the generators that both draw from
    plain.learn(512)
    own = make_ppo()
    attach(own.policy, own.policy.optimizer, ReDo(every=10**6), inputs=torch.zeros(2, 4))
    own.learn(512)
    for name, each in own.policy.state_dict().items():
        assert torch.equal(each, plain.policy.state_dict()[name]), name


def test_ppo_resets_the_units_that_are_dormant_on_its_minibatch(make_ppo):
    model = make_ppo()
    extractor, expected, inputs = model.policy.mlp_extractor, {}, {}
    for name in HIDDEN:
        # by a hook of our own on the activation behind the layer
        activation = model.policy.get_submodule(name[:-1] + str(int(name[-1]) + 1))
        activation.register_forward_hook(
            lambda _module, _inputs, output, name=name: inputs.__setitem__(name, output.detach())
        )
    steps = []

    def count(*_):
        steps.append(1)
        if len(steps) == 20:
            for name in HIDDEN:
                activity = inputs[name].abs().mean(0)
                dormant = activity / activity.mean() <= 0.3
                expected[f"reset_units/{name}"] = float(dormant.sum())

    model.policy.optimizer.register_step_post_hook(count)
    attached = attach(
        model.policy, model.policy.optimizer, ReDo(every=20, tau=0.3), inputs=observations(model)
    )
    model.learn(256)  # 4 minibatches, 5 times
    assert len(steps) == 20
    assert list(expected) == [f"reset_units/{name}" for name in HIDDEN]
    assert sum(expected.values()) > 0
    assert attached.take_counts() == expected
    assert extractor is model.policy.mlp_extractor


def test_ppo_learns_with_redo_and_syre(make_ppo):
    model = make_ppo()
    attached = attach(
        model.policy,
        model.policy.optimizer,
        ReDo(every=100, tau=0.1),
        Syre(strength=1e-5, sigma=0.3),
        inputs=observations(model),
    )
    model.learn(6000)
    returns = [episode["r"] for episode in model.ep_info_buffer]
    # the mean of the last 100 episodes; 56 without mitigations, 22 at the beginning
    assert sum(returns) / len(returns) > 40
    assert sum(attached.take_counts().values()) > 0


def test_ppo_without_example_inputs_says_what_to_give(make_ppo):
    model = make_ppo()
    attach(model.policy, model.policy.optimizer, ReDo())
    with pytest.raises(RuntimeError, match=r"give attach\(…, inputs=…\)"):
        model.learn(256)


# ---- two processes ----------------------------------------------------------------------------------

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)


def make_model():
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(
        nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
    )
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(0.5 * torch.randn(each.shape, generator=generator))
    return model.double()


def train(model, optimizer, part):
    """Train on parts of batches whose features differ between the parts."""
    for step in range(9):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 6, generator=generator, dtype=torch.float64)
        inputs[8:] -= 2.0
        optimizer.zero_grad()
        model(inputs[part]).square().mean().backward()
        optimizer.step()


def often(name):
    """Return a mitigation that acts after every third step, if it has a cadence, and clips little."""
    made, wanted = MITIGATIONS[name](), {"every": 3, "kappa": 10.0}
    return replace(
        made, **{each.name: wanted[each.name] for each in fields(made) if each.name in wanted}
    )


def run_every_mitigation(rank):
    found = {}
    for name in MITIGATIONS:
        if overrides(often(name), "network"):
            continue
        raw = make_model()
        optimizer = torch.optim.Adam(raw.parameters(), lr=0.01)
        model = DistributedDataParallel(raw)
        attached = attach(model, optimizer, often(name), adds_penalty=True)
        train(model, optimizer, slice(8 * rank, 8 * rank + 8))
        inputs = torch.randn(8, 6, dtype=torch.float64)  # of the rank's own seed
        attached.boundary(1, [(inputs, inputs[:, :3].argmax(1))])
        found[name] = raw.state_dict(), attached.take_counts()
    return found


@needs_gloo
def test_every_mitigation_acts_alike_in_both_processes(two_ranks):
    first, second = two_ranks(run_every_mitigation)
    assert list(first) == list(second)
    differing = [
        name
        for name, (weights, counts) in first.items()
        if second[name][1] != counts
        or any(not torch.equal(second[name][0][key], each) for key, each in weights.items())
    ]
    assert differing == []


METHOD = ReDo(every=3, tau=0.3), Syre(strength=0.1, sigma=0.5)


def run_ddp(rank):
    raw = make_model()
    model = DistributedDataParallel(raw)
    optimizer = torch.optim.Adam(raw.parameters(), lr=0.01)
    attached = attach(model, optimizer, *METHOD, seed=1)
    train(model, optimizer, slice(8 * rank, 8 * rank + 8))
    return raw.state_dict(), attached.take_counts()


@needs_gloo
def test_processes_reset_the_units_that_are_dormant_on_the_whole_batch(two_ranks):
    runs = []
    for part in (slice(None), slice(0, 8), slice(8, 16)):
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        attached = attach(model, optimizer, *METHOD, seed=1)
        train(model, optimizer, part)
        runs.append((model.state_dict(), attached.take_counts()))
    (weights, counts), *halves = runs
    assert all(counts != own for _, own in halves)  # on its own half, a process would reset others
    for own, own_counts in two_ranks(run_ddp):
        assert own_counts == counts
        torch.testing.assert_close(own, weights, rtol=1e-8, atol=1e-10)
    first, second = (own for own, _ in two_ranks(run_ddp))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
