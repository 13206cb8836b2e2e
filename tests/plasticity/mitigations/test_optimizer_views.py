import pytest
import torch
from networks_in_training import adam, images, marker, single, stacked, step

from plasticity.mitigations.optimizer_views import OrdinaryView
from plasticity.optim.regularizers import regularized


def sgd(model):
    return torch.optim.SGD(
        [
            {"params": [*model.conv.parameters(), *model.fc.parameters()], "lr": 0.5},
            {"params": model.head.parameters()},
        ],
        lr=0.25,
        momentum=0.9,
    )


def test_learning_rates_are_those_of_the_groups():
    model = marker()
    view = OrdinaryView(sgd(model), dict(model.named_parameters()))
    assert view.learning_rate("fc.bias") == 0.5
    assert view.learning_rate("head.weight") == 0.25


def test_a_parameter_that_is_not_trained_has_no_learning_rate():
    model = marker()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    view = OrdinaryView(optimizer, dict(model.named_parameters()))
    with pytest.raises(ValueError, match=r"does not train 'fc\.weight'"):
        view.learning_rate("fc.weight")
    view.restart(["fc.weight"])  # it has no state


def test_what_is_trained_is_in_the_optimizer_and_not_frozen():
    model = marker()
    model.head.bias.requires_grad_(requires_grad=False)
    view = OrdinaryView(
        torch.optim.SGD(model.head.parameters(), lr=0.1), dict(model.named_parameters())
    )
    assert view.trained() == ["head.weight"]
    networks, _, _ = stacked([marker(0), marker(1)], images())
    assert networks.optimizer.of_run(1).trained() == list(networks.parameters)


def test_stacked_networks_have_a_learning_rate_each():
    rates = iter([0.01, 0.02, 0.04])
    networks, _, optimizer = stacked(
        [marker(seed) for seed in range(3)],
        images(),
        lambda model: regularized(torch.optim.Adam)(
            model.parameters(), lr=next(rates), regularizer="none"
        ),
    )
    view = networks.optimizer
    torch.testing.assert_close(view.learning_rate("fc.weight"), torch.tensor([0.01, 0.02, 0.04]))
    assert view.of_run(2).learning_rate("fc.weight").item() == pytest.approx(0.04)
    optimizer.set_learning_rate([1.0, 2.0, 3.0])
    assert view.learning_rate("conv.bias").tolist() == [1, 2, 3]


def test_after_a_restart_the_next_step_is_a_first_one():
    """Adam's first step moves each entry with a gradient by the learning rate, whatever its size."""
    model = marker()
    optimizer = adam(model)
    for _ in range(3):
        step(model, optimizer, images())
    networks = single(model, optimizer, images())
    networks.optimizer.restart(["fc.weight"])
    assert (networks.optimizer.moments("fc.weight")["exp_avg_sq"] == 0).all()
    assert (networks.optimizer.moments("fc.bias")["exp_avg_sq"] != 0).all()
    before = model.fc.weight.detach().clone(), model.fc.bias.detach().clone()
    step(model, optimizer, images(seed=1))
    moved = (model.fc.weight - before[0]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)
    moved = (model.fc.bias - before[1]).abs()
    assert not torch.allclose(moved, torch.full_like(moved, 0.01), rtol=1e-3)


@pytest.mark.parametrize("names", [["fc.weight"], ["conv.bias", "fc.weight"], None])
def test_stacked_networks_restart_like_separate_ones(names):
    """One of three restarts; all then take steps like ordinary networks of which one has restarted."""
    alone = [marker(seed) for seed in range(3)]
    networks, run, optimizer = stacked([marker(seed) for seed in range(3)], images())
    optimizers = [adam(model) for model in alone]
    chosen = list(networks.parameters) if names is None else names
    for count in range(4):
        inputs = torch.stack([images(seed=10 * count + index) for index in range(3)])
        if count == 2:
            networks.of_run(1).optimizer.restart(chosen)
            OrdinaryView(optimizers[1], dict(alone[1].named_parameters())).restart(chosen)
        step(run, optimizer, inputs)
        for index in range(3):
            step(alone[index], optimizers[index], inputs[index])
    for index, model in enumerate(alone):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(networks.parameters[name][index], parameter)


def test_all_stacked_networks_restart_at_once():
    networks, run, optimizer = stacked([marker(seed) for seed in range(2)], images())
    step(run, optimizer, images().expand(2, *images().shape))
    networks.optimizer.restart(networks.parameters)
    assert optimizer.state_dict(0)["state"] == optimizer.state_dict(1)["state"] == {}


@pytest.mark.parametrize("kind", ["NAdam", "Rprop", "ASGD", "Adafactor", "RMSprop", "Adamax"])
def test_any_optimizer_of_torch_takes_a_first_step_after_a_restart(kind):
    model, other = marker(), marker()
    optimizer, fresh = (
        getattr(torch.optim, kind)(each.parameters(), lr=0.01) for each in (model, other)
    )
    for _ in range(3):
        step(model, optimizer, images())
    other.load_state_dict(model.state_dict())
    names = dict(model.named_parameters())
    OrdinaryView(optimizer, names).restart(names)
    for _ in range(2):
        step(model, optimizer, images(seed=1))
        step(other, fresh, images(seed=1))
    for each, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(each, expected)
