import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.initialization import Uniform
from plasticity.mitigations import ReDo
from plasticity.mitigations.attach import attach

FIRST, SECOND = "0", "2"  # names of the hidden layers below


class Chosen(nn.Module):
    """Network whose hidden units have the mean absolute activations 0, 1 and 3 on the batch of ones."""

    def __init__(self):
        super().__init__()
        self.fc1, self.head = nn.Linear(2, 3), nn.Linear(3, 2)
        with torch.no_grad():
            self.fc1.weight.zero_()
            self.fc1.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))

    def forward(self, inputs):
        return self.head(functional.relu(self.fc1(inputs)))


@pytest.mark.parametrize(
    # The mean of the layer is 4 / 3, so the scores are 0, 3/4 and 9/4; the threshold itself is included.
    ("tau", "expected"),
    [(0.0, [0]), (0.74, [0]), (0.75, [0, 1]), (2.25, [0, 1, 2])],
)
def test_dormant_units_are_those_with_a_small_share_of_their_layer(tau, expected):
    network = Chosen()
    # a rate of 0: what changes is the reset
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    initialize = {"fc1.weight": Uniform(0.5)}
    attached = attach(network, optimizer, ReDo(tau=tau, every=1), initialize=initialize)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    network(torch.ones(5, 2)).sum().backward()
    optimizer.step()
    for unit in range(3):
        is_reset = unit in expected
        assert (network.head.weight[:, unit] == 0).all() == is_reset
        assert (network.fc1.weight[unit] != 0).any() == is_reset  # zero before
        assert network.fc1.bias[unit] == (0 if is_reset else before["fc1.bias"][unit])
    assert attached.take_counts() == {"reset_units/fc1": len(expected)}
    assert attached.take_counts() == {"reset_units/fc1": 0}


def test_the_output_stays_where_reset_units_were_silent():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        network[0].bias[::2] = -100  # silent
        network[2].bias[:3] = -100
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
    attached = attach(network, optimizer, ReDo(tau=0.0, every=2))
    inputs = torch.randn(32, 4)
    before = network(inputs).detach()
    for _ in range(2):
        network(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    counts = attached.take_counts()
    assert counts[f"reset_units/{FIRST}"] >= 8
    assert counts[f"reset_units/{SECOND}"] >= 3
    torch.testing.assert_close(network(inputs), before)


def test_a_silent_layer_is_reset_as_a_whole():
    network = Chosen()
    with torch.no_grad():
        network.fc1.bias.fill_(-1.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    attached = attach(network, optimizer, ReDo(every=1))
    network(torch.ones(5, 2)).sum().backward()
    optimizer.step()
    assert attached.take_counts() == {"reset_units/fc1": 3}
    assert torch.equal(network(torch.randn(2, 2)), network.head.bias.expand(2, -1))


@pytest.mark.parametrize(
    ("field", "value"), [("every", 0), ("every", 1.5), ("tau", -1), ("tau", "a")]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        ReDo(**{field: value})


def test_stacked_as_alone(stacked_as_alone):
    # thresholds that differ, and enough of the units that are under them
    stacked_as_alone((ReDo(every=5, tau=0.5),), (ReDo(every=5, tau=0.9),))


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    counts = ppo_stacked_as_alone((ReDo(every=5, tau=0.5),), (ReDo(every=5, tau=0.9),))
    assert all(each[f"reset_units/{part}.fc1"] for each in counts for part in ("actor", "critic"))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    continues_exactly((ReDo(every=5, tau=0.9),), stacked=stacked)


@pytest.mark.parametrize("cores", [1, 2])  # 2: the critic learns in a process of its own
def test_an_agent_continues_exactly(ppo_continues_exactly, cores):
    rows = ppo_continues_exactly((ReDo(every=3, tau=0.9),), **{"stream.cores": cores})
    counted = sum(rows[0][f"reset_units/{part}.fc1"] for part in ("actor", "critic"))
    assert counted > 0
