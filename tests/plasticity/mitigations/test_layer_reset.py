import pytest
import torch
from networks_in_training import Training, images, marker, step
from torch import nn

from plasticity.mitigations import LayerReset
from plasticity.mitigations.attach import attach

LAYERS = [["conv", "norm"], ["fc", "scale"], ["head"]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_last_layers_are_reset_with_their_normalizations(count):
    run = Training((LayerReset(layers=count),)).train(5)
    before = run.everything()
    run.hooks.boundary(1, [0])
    reset = {layer for group in LAYERS[-count:] for layer in group}
    for name, each in run.everything().items():
        is_reset = name.split(".")[0] in reset
        assert torch.equal(each, before[name]) != is_reset, name
        if is_reset and "/" in name:
            assert not each.any()
        if is_reset and name in ("scale.weight", "norm.weight", "norm.running_var"):
            assert (each == 1).all()


def test_it_acts_after_steps_if_asked():
    network = marker()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    method = LayerReset(layers=1, every=3, at_tasks=False)
    attached = attach(network, optimizer, method, inputs=images())
    changed = []
    for _ in range(7):
        before = network.head.weight.clone()
        step(network, optimizer, images())
        changed.append(not torch.equal(network.head.weight, before))
    assert changed == [False, False, True, False, False, True, False]
    before = network.head.weight.clone()
    attached.boundary(1)
    assert torch.equal(network.head.weight, before)


def test_the_optimizer_goes_on_with_the_new_weights():
    run = Training((LayerReset(),)).train(5)
    run.hooks.boundary(1, [0])
    before = run.everything()
    run.steps = 6  # whose boundary was
    run.train(1)
    after = run.everything()
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


def test_a_network_of_fewer_layers_is_refused():
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="layers=2, but the network has 1"):
        attach(network, optimizer, LayerReset(), inputs=torch.ones(2, 2))


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 0), ("every", 0), ("at_tasks", 1), ("at_tasks", False)]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        LayerReset(**{field: value})


def test_all_forms_agree(trains_alike):
    trains_alike(*[(LayerReset(layers=2, every=4),)] * 2)
