import pytest
import torch
from networks_in_training import images, marker
from torch import nn

from plasticity.initialization import Constant
from plasticity.mitigations import ReGraMa, require_compatible
from plasticity.mitigations.attach import attach
from plasticity.mitigations.base import Mitigation


def run(mitigation, factor=1.0, make=torch.optim.SGD):
    """Take a step, at a rate of 0, in which three units have mean absolute gradients 0, 2 and 4."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 1))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[0.0, 2.0, -4.0]]))
    optimizer = make(network.parameters(), lr=0.0)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    attached = attach(network, optimizer, mitigation, initialize={"0.weight": Constant(0.7)})
    # inputs with a mean of 1
    (network(torch.tensor([[0.5, 1.5]])).sum() * factor).backward()
    optimizer.step()
    return network, optimizer, attached, before


@pytest.mark.parametrize("factor", [1.0, 1000.0, 1e-3])
@pytest.mark.parametrize(
    # Their mean is 2, so that the shares are 0, 1 and 2; tau is included.
    ("tau", "expected"),
    [(0.0, [0]), (0.99, [0]), (1.0, [0, 1]), (2.0, [0, 1, 2])],
)
def test_inactive_units_are_those_with_a_small_share_of_their_layer(tau, expected, factor):
    network, _, attached, before = run(ReGraMa(tau=tau, every=1), factor)
    assert attached.take_counts() == {"reset_units/0": len(expected)}
    for unit in range(3):
        is_reset = unit in expected
        assert (network[0].weight[unit] == 0.7).all() == is_reset
        assert network[0].bias[unit] == (0 if is_reset else before["0.bias"][unit])
    assert torch.equal(network[2].weight, before["2.weight"])


def test_outgoing_weights_stay_or_become_0():
    for outgoing in ("keep", "zero"):
        network, optimizer, _, before = run(
            ReGraMa(tau=1.0, every=1, outgoing=outgoing), make=torch.optim.Adam
        )
        kept = before["2.weight"] if outgoing == "keep" else torch.tensor([[0.0, 0.0, -4.0]])
        assert torch.equal(network[2].weight, kept)
        for moment in ("exp_avg", "exp_avg_sq"):
            of_weight, of_bias, of_reader = (
                optimizer.state[each][moment]
                for each in (network[0].weight, network[0].bias, network[2].weight)
            )
            assert of_weight.ne(0).all(1).tolist() == [False, False, True]
            assert of_bias.ne(0).tolist() == [False, False, True]
            assert of_reader.ne(0).tolist() == [[outgoing == "keep"] * 2 + [True]]


def test_a_layer_without_gradients_is_passed_over():
    network, _, attached, before = run(ReGraMa(tau=1.0, every=1), factor=0.0)
    assert attached.take_counts() == {"reset_units/0": 0}
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_a_channel_is_compared_by_its_whole_kernel():
    network = marker()
    with torch.no_grad():
        network.fc.weight[:, 4:8] = 0.0  # what reads channel 1
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    attached = attach(network, optimizer, ReGraMa(tau=0.0, every=1, outgoing="zero"))
    before = network.conv.weight.clone()
    network(images()).square().sum().backward()
    optimizer.step()
    assert attached.take_counts() == {"reset_units/conv": 1, "reset_units/fc": 0}
    assert (network.conv.weight != before).flatten(1).all(1).tolist() == [False, True, False]


def test_a_mitigation_with_a_penalty_is_refused():
    class Penalty(Mitigation):
        name = "penalty"

        def penalty(self, context):
            return None

    with pytest.raises(ValueError, match=r"regrama compares .* penalty of penalty"):
        require_compatible([Penalty(), ReGraMa()])


def test_nothing_is_reset_between_two_looks():
    network = marker()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    attached = attach(network, optimizer, ReGraMa(tau=100.0, every=3), inputs=images())
    found = []
    for _ in range(6):
        network(images()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(attached.take_counts().get("reset_units/fc", 0))
    assert found == [0, 0, 5, 0, 0, 5]


@pytest.mark.parametrize(
    ("field", "value"), [("every", 0), ("tau", -1), ("tau", "a"), ("outgoing", "shrink")]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        ReGraMa(**{field: value})


@pytest.mark.parametrize("outgoing", ["keep", "zero"])
def test_stacked_as_alone(stacked_as_alone, outgoing):
    settings = {"every": 5, "outgoing": outgoing}
    rows = stacked_as_alone((ReGraMa(tau=0.5, **settings),), (ReGraMa(tau=0.8, **settings),))
    assert all(sum(row["reset_units/fc1"] for row in each) > 0 for each in rows)


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    counts = ppo_stacked_as_alone((ReGraMa(every=5, tau=0.5),), (ReGraMa(every=5, tau=0.9),))
    assert all(each[f"reset_units/{part}.fc1"] for each in counts for part in ("actor", "critic"))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    continues_exactly((ReGraMa(every=5, tau=0.5),), stacked=stacked)
