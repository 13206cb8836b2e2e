import math

import pytest
import torch
from networks_in_training import images, marker
from torch import nn

from plasticity.initialization import Constant
from plasticity.mitigations import CPR
from plasticity.mitigations.attach import attach

TRANSFORMS = ("sigmoid", "exponential", "softplus", "linear")


class Run:
    """A network that stays as it is but for partial resets: a rate of 0."""

    def __init__(self, network, inputs, **settings):
        self.network, self.inputs = network, inputs
        self.optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
        fresh = {n: Constant(0.5) for n, each in network.named_parameters() if each.dim() > 1}
        self.attached = attach(
            network, self.optimizer, CPR(**settings), inputs=inputs, initialize=fresh
        )

    def step(self):
        self.network(self.inputs).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def utility(self, layer, value=None):
        state = self.attached.state_dict()
        if value is not None:
            state["mitigations"]["cpr"]["state"][f"utility/{layer}"] = torch.tensor(value)
            self.attached.load_state_dict(state)
        return state["mitigations"]["cpr"]["state"][f"utility/{layer}"]


def chain():
    """Three units whose mean absolute gradients are 0, 2 and 4, so that their scores are 0, 1 and 2."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 1))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.0, 2.0, -4.0]]))
    return network


INPUTS = torch.tensor([[0.5, 1.5]])


def test_utilities_are_an_average_of_scores():
    run = Run(chain(), INPUTS, every=100)
    run.step()
    # 0.99 * 1 + 0.01 * (0, 1, 2)
    torch.testing.assert_close(run.utility("0"), torch.tensor([0.99, 1.0, 1.01]))
    run.step()
    torch.testing.assert_close(run.utility("0"), torch.tensor([0.9801, 1.0, 1.0199]))


@pytest.mark.parametrize(
    # Sharpness 16 and threshold 1, at utilities 1, 1.2, 2 and 0: distances of 0, 3.2, 16 and -16.
    ("transform", "expected"),
    [
        ("sigmoid", [1.0, 0.07833, 2.3e-7, 1.0]),
        ("exponential", [1.0, math.exp(-3.2), math.exp(-16), 1.0]),
        ("softplus", [1.0, math.log1p(math.exp(-3.2)) / math.log(2), 1.6e-7, 1.0]),
        ("linear", [1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_the_share_of_a_unit(transform, expected):
    network = nn.Sequential(nn.Linear(2, 4), nn.Identity(), nn.Linear(4, 1))
    # a decay of almost 1: the utilities stay as they are set
    run = Run(network, INPUTS, every=1, transform=transform, replacement_rate=0.2, decay=1 - 1e-9)
    run.utility("0", [1.0, 1.2, 2.0, 0.0])
    before = {name: each.clone() for name, each in network.state_dict().items()}
    run.step()
    share = 0.2 * torch.tensor(expected)[:, None]
    mixed = (1 - share) * before["0.weight"] + share * 0.5
    torch.testing.assert_close(network[0].weight, mixed, rtol=1e-4, atol=1e-6)
    shrunk = (1 - share.mT) * before["2.weight"]
    torch.testing.assert_close(network[2].weight, shrunk, rtol=1e-4, atol=1e-6)
    for name in ("0.bias", "2.bias"):
        assert torch.equal(network.state_dict()[name], before[name])
    assert run.utility("0").tolist() == [1.0] * 4
    counted = run.attached.take_counts()["reset_units/0"]
    assert counted == pytest.approx(share.sum().item(), rel=1e-4)


def test_new_weights_between_two_layers_shrink_with_the_old_ones():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    run = Run(network, INPUTS, every=1, replacement_rate=0.2, decay=1 - 1e-9)
    run.utility("0", [0.0, 2.0, 9.0])
    run.utility("2", [9.0, 0.0, 0.0, 9.0])
    before = network[2].weight.clone()
    run.step()
    first, second = torch.tensor([0.2, 0.0, 0.0]), torch.tensor([[0.0, 0.2, 0.2, 0.0]]).mT
    expected = (1 - first) * ((1 - second) * before + second * 0.5)
    torch.testing.assert_close(network[2].weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels_last", "columns"), [(False, [4, 5, 6, 7]), (True, [1, 4, 7, 10])]
)
def test_what_a_channel_feeds_through_a_flatten_shrinks(channels_last, columns):
    network = marker(channels_last=channels_last)
    run = Run(network, images(), every=1, replacement_rate=0.5, decay=1 - 1e-9)
    run.utility("conv", [9.0, 0.0, 9.0])
    run.utility("fc", [9.0] * 5)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    run.step()
    expected = before["fc.weight"].clone()
    expected[:, columns] /= 2
    torch.testing.assert_close(network.fc.weight, expected)
    kernels = before["conv.weight"].clone()
    kernels[1] = (kernels[1] + 0.5) / 2
    torch.testing.assert_close(network.conv.weight, kernels)


def test_moments_stay():
    found = []
    for rate in (0.0, 1.0):
        torch.manual_seed(0)
        run = Run(marker(), images(), every=1, replacement_rate=rate)
        run.step()
        found.append(
            [
                m
                for state in run.optimizer.state.values()
                for m in (state["exp_avg"], state["exp_avg_sq"])
            ]
        )
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_rate_of_0_leaves_training_as_it_is(transform):
    found = []
    for mitigations in ((CPR(every=1, replacement_rate=0.0, transform=transform),), ()):
        network = marker()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        if mitigations:
            attach(network, optimizer, *mitigations)
        for seed in range(6):
            network(images(seed=seed)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([*network.parameters(), torch.get_rng_state()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("every", 0),
        ("replacement_rate", 1.5),
        ("replacement_rate", -0.1),
        ("transform", "step"),
        ("sharpness", -1.0),
        ("threshold", -1.0),
        ("decay", 1.0),
    ],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        CPR(**{field: value})


@pytest.mark.parametrize("transform", ["sigmoid", "softplus"])
def test_stacked_as_alone(stacked_as_alone, transform):
    settings = {"every": 3, "transform": transform}
    stacked_as_alone(
        (CPR(replacement_rate=0.3, **settings),),
        (CPR(replacement_rate=0.1, sharpness=2.0, threshold=0.9, decay=0.9, **settings),),
    )


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    ppo_stacked_as_alone(
        (CPR(every=3, replacement_rate=0.3),), (CPR(every=3, replacement_rate=0.1, decay=0.9),)
    )


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    continues_exactly((CPR(every=5, replacement_rate=0.3),), stacked=stacked)


def test_weights_in_half_precision_are_mixed():
    network = chain().bfloat16()
    run = Run(network, INPUTS.bfloat16(), every=1, replacement_rate=0.5)
    before = network[0].weight.detach().clone()
    run.step()
    # unit 0 has a utility of 0.99 and the largest share, 0.5; its new weights are 0.5
    torch.testing.assert_close(network[0].weight[0], 0.5 * before[0] + 0.25)
