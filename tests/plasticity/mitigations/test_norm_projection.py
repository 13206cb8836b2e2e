import pytest
import torch
from networks_in_training import Training
from torch import nn

from plasticity.mitigations import NormProjection
from plasticity.mitigations.attach import attach

INPUTS = torch.ones(3, 2)


def projected(network, method, change):
    """Change the weights of a network, and take a step with a rate of 0."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    attach(network, optimizer, method, inputs=INPUTS)
    with torch.no_grad():
        change()
    network(INPUTS).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("first", "now", "expected"),
    [
        ([2.0, 0.0], [3.0, 4.0], [1.2, 1.6]),  # 2 / 5 of it
        ([3.0, 4.0], [0.3, -0.4], [3.0, -4.0]),
        ([0.0, 0.0], [3.0, 4.0], [3.0, 4.0]),  # no norm to return to
        ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_a_weight_is_scaled_to_its_first_norm(first, now, expected):
    layer = nn.Linear(2, 1)
    layer.weight.data = torch.tensor([first])
    bias = layer.bias.item()
    projected(layer, NormProjection(), lambda: layer.weight.copy_(torch.tensor([now])))
    assert layer.weight[0].tolist() == pytest.approx(expected)
    assert layer.bias.item() == bias


def test_the_output_layer_is_left_out_if_asked():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    norms = [network[index].weight.norm().item() for index in (0, 2)]

    def double():
        for index in (0, 2):
            network[index].weight.mul_(2)

    projected(network, NormProjection(head=False), double)
    assert network[0].weight.norm().item() == pytest.approx(norms[0])
    assert network[2].weight.norm().item() == pytest.approx(2 * norms[1])


def test_factors_and_offsets_are_scaled_together():
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 1))

    def move():  # 3, 0, 4, 0: a norm of 5, where that of 1, 1, 0, 0 was sqrt(2)
        network[1].weight.copy_(torch.tensor([3.0, 0.0]))
        network[1].bias.copy_(torch.tensor([4.0, 0.0]))

    projected(network, NormProjection(rescale_affine=True), move)
    factor = 2**0.5 / 5
    assert network[1].weight.tolist() == pytest.approx([3 * factor, 0])
    assert network[1].bias.tolist() == pytest.approx([4 * factor, 0])
    projected(network, NormProjection(), move)
    assert network[1].weight.tolist() == [3, 0]


def test_projecting_twice_is_projecting_once():
    run = Training((NormProjection(rescale_affine=True),)).train(6)
    before = run.everything()
    run.hooks.after_step()
    torch.testing.assert_close(run.everything(), before)


def test_norms_stay_in_training():
    run = Training((NormProjection(),))
    first, last = run.everything(), run.train(9).everything()
    for name in ("conv.weight", "fc.weight", "head.weight"):
        assert not torch.equal(first[name], last[name])
        torch.testing.assert_close(first[name].norm(), last[name].norm(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("field", "value"), [("every", 0), ("head", 1), ("rescale_affine", "a")])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        NormProjection(**{field: value})


def test_all_forms_agree(trains_alike):
    trains_alike(*[(NormProjection(every=2, rescale_affine=True),)] * 2)
