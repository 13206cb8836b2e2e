import pytest
import torch
from networks_in_training import Training
from torch import nn

from plasticity.initialization import Constant
from plasticity.mitigations import SWR
from plasticity.mitigations.attach import attach

WEIGHTS = [1.0, -2.0, 0.5, 4.0]


def reset_once(swr, weights, gradients, momentum=0.0):
    """Return which weights are 100, their new value, after a step with a rate of 0; and the counts."""
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight.data = torch.tensor([weights])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=momentum)
    attached = attach(layer, optimizer, swr, initialize={"weight": Constant(100.0)})
    layer.weight.grad = torch.tensor([gradients])
    optimizer.step()
    chosen = (layer.weight[0] == 100).tolist()
    assert attached.take_counts() == {"reset_weights": sum(chosen)}
    return [index for index, each in enumerate(chosen) if each], layer, optimizer


@pytest.mark.parametrize(
    # utilities of 0.1, 0.2, 0.05 and 0.4, whose mean is 0.1875
    ("choice", "share", "expected"),
    [
        ("threshold", 0.4, [2]),  # at most 0.075
        ("threshold", 0.26, []),
        ("threshold", 0.6, [0, 2]),  # 0.1125
        ("threshold", 0.0, []),
        ("proportion", 0.0, []),
        ("proportion", 0.25, [2]),
        ("proportion", 0.5, [0, 2]),
        ("proportion", 1.0, [0, 1, 2, 3]),
    ],
)
def test_the_weights_of_least_utility_are_reset(choice, share, expected):
    swr = SWR(every=1, share=share, choice=choice)
    assert reset_once(swr, WEIGHTS, [0.1] * 4)[0] == expected


def test_the_gradient_counts_only_if_asked():
    gradients = [0.0, 1.0, 9.0, 0.001]
    for utility, expected in (("gradient", [0]), ("magnitude", [2])):
        swr = SWR(every=1, share=0.25, utility=utility, choice="proportion")
        assert reset_once(swr, WEIGHTS, gradients)[0] == expected


@pytest.mark.parametrize("choice", ["threshold", "proportion"])
def test_without_any_utility_nothing_is_reset(choice):
    swr = SWR(every=1, share=0.5, choice=choice)
    assert reset_once(swr, WEIGHTS, [0.0] * 4)[0] == []


def test_a_reset_clears_exactly_the_moments_of_its_weights():
    swr = SWR(every=1, share=0.4)
    chosen, layer, optimizer = reset_once(swr, WEIGHTS, [0.1] * 4, momentum=0.9)
    assert chosen == [2]
    moments = optimizer.state[layer.weight]["momentum_buffer"][0]
    torch.testing.assert_close(moments, torch.tensor([0.1, 0.1, 0.0, 0.1]))


def test_a_part_of_a_weight_is_reset_that_often():
    # 0.25 of 3 weights are 0.75: one, with this probability
    layer = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    attached = attach(layer, optimizer, SWR(every=1, share=0.25, choice="proportion"))
    for _ in range(300):
        layer.weight.grad = torch.ones(1, 3)
        optimizer.step()
    # binomial: a standard deviation of sqrt(300 * 0.75 * 0.25) = 7.5
    assert abs(attached.take_counts()["reset_weights"] - 225) < 3 * 7.5


def test_without_a_share_training_is_as_without(leaves_alone):
    leaves_alone((SWR(every=2, share=0.0, choice="proportion"),))


@pytest.mark.parametrize(
    ("field", "value"), [("every", 0), ("share", -0.1), ("utility", "random"), ("choice", "a")]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        SWR(**{field: value})


def test_more_than_all_weights_are_refused():
    with pytest.raises(ValueError, match="more than all of the weights"):
        SWR(share=1.1, choice="proportion")


@pytest.mark.parametrize("choice", ["threshold", "proportion"])
@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
def test_all_forms_agree(trains_alike, choice, utility):
    settings = {"every": 3, "choice": choice, "utility": utility}
    trains_alike((SWR(share=0.2, **settings),), (SWR(share=0.4, **settings),))


def test_weights_are_counted_in_a_stack():
    run = Training([(SWR(every=3, share=0.2),), (SWR(every=3, share=0.9),)]).train(4)
    few, many = (each["reset_weights"] for each in run.hooks.take_counts())
    assert 0 < few < many


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    counts = ppo_stacked_as_alone((SWR(every=5, share=0.1),), (SWR(every=5, share=0.3),))
    assert all(each[f"reset_weights/{part}"] > 0 for each in counts for part in ("actor", "critic"))


def test_the_number_of_weights_may_be_larger_than_a_number_in_half_precision():
    layer = nn.Linear(300, 300, bias=False, dtype=torch.float16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    swr = SWR(every=1, share=0.5, choice="proportion", utility="magnitude")
    attached = attach(layer, optimizer, swr)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert attached.take_counts()["reset_weights"] == 45_000
