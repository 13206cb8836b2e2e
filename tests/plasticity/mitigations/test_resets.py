"""Resets of units, by counts in closed form, by markers, and by draws made by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from networks_in_training import (
    adam,
    context_of,
    everything,
    images,
    marker,
    single,
    stacked,
    step,
)
from torch import nn

from plasticity.initialization import Constant
from plasticity.mitigations.resets import reset_units


def mask(size, *chosen):
    found = torch.zeros(size, dtype=torch.bool)
    found[list(chosen)] = True
    return found


def after_a_step(**settings):
    """A network whose weights and moments are nowhere 0, after a step of Adam."""
    model = marker(**settings)
    optimizer = adam(model)
    step(model, optimizer, images())
    networks = single(model, optimizer, images())
    assert all((each != 0).all() for each in everything(networks).values())
    return model, networks


@pytest.mark.parametrize(
    ("channels_last", "columns"),
    # Channel 1 of three on 2 x 2 positions: a block, or every third column.
    [(False, [4, 5, 6, 7]), (True, [1, 4, 7, 10])],
)
@pytest.mark.parametrize("at_most", [None, 1, 3])
def test_a_channel_feeds_its_own_columns_after_a_flatten(channels_last, columns, at_most):
    _, networks = after_a_step(channels_last=channels_last)
    others = [column for column in range(12) if column not in columns]
    before = everything(networks)
    context_of(networks).reset_units({"conv": mask(3, 1)}, at_most=at_most)
    after = everything(networks)
    for name in ("fc.weight", "fc.weight/0", "fc.weight/1"):
        assert (after[name][:, columns] == 0).all()
        assert torch.equal(after[name][:, others], before[name][:, others])


@pytest.mark.parametrize("at_most", [None, 3])
@pytest.mark.parametrize(
    ("chosen", "entries"),
    [
        # a channel: a kernel of 4, a bias, and 4 columns of the 5 dense units
        ({"conv": (1,)}, {"conv.weight": 4, "conv.bias": 1, "fc.weight": 20}),
        # a dense unit: 12 incoming weights, a bias, and a column of the 2 outputs
        ({"fc": (3,)}, {"fc.weight": 12, "fc.bias": 1, "head.weight": 2}),
        # both: the 4 weights between them count once
        (
            {"conv": (1,), "fc": (3,)},
            {**{"conv.weight": 4, "conv.bias": 1}, "fc.weight": 28, "fc.bias": 1, "head.weight": 2},
        ),
        (
            {"conv": (0, 2), "fc": (0, 1, 4)},
            # the dense weights: 2 * 20 outgoing, 3 * 12 incoming, less the 3 * 8 between them
            {**{"conv.weight": 8, "conv.bias": 2}, "fc.weight": 52, "fc.bias": 3, "head.weight": 6},
        ),
    ],
)
def test_the_entries_that_change_are_those_of_the_units(chosen, entries, at_most):
    _, networks = after_a_step()
    before = everything(networks)
    sizes = {"conv": 3, "fc": 5}
    context = context_of(networks)
    context.reset_units(
        {name: mask(sizes[name], *units) for name, units in chosen.items()}, at_most=at_most
    )
    after = everything(networks)
    for name in networks.parameters:
        expected = entries.get(name, 0)
        for each in (name, f"{name}/0", f"{name}/1"):
            assert (after[each] != before[each]).sum() == expected, each
        for moment in ("0", "1"):
            assert (after[f"{name}/{moment}"] == 0).sum() == expected
    assert {name: number.item() for name, number in context.counts.items()} == {
        f"reset_units/{layer}": len(units) for layer, units in chosen.items()
    }


@pytest.mark.parametrize("at_most", [None, 2])
@pytest.mark.parametrize("order", [("conv", "fc"), ("fc", "conv")])
def test_units_that_follow_each_other_are_not_connected_after_a_reset(order, at_most):
    model, networks = after_a_step()
    masks = {"conv": mask(3, 1), "fc": mask(5, 2)}
    context_of(networks).reset_units({name: masks[name] for name in order}, at_most=at_most)
    assert (model.fc.weight[2, 4:8] == 0).all()
    assert (model.fc.weight[2, :4] != 0).all()


def test_new_weights_are_a_draw_from_the_initial_distribution():
    model, networks = after_a_step()
    context_of(networks, 7).reset_units({"fc": mask(5, 0, 4)})
    bound = 1 / math.sqrt(12)
    drawn = torch.empty(5, 12).uniform_(-bound, bound, generator=torch.Generator().manual_seed(7))
    assert torch.equal(model.fc.weight[[0, 4]], drawn[[0, 4]])
    assert torch.equal(model.fc.bias[[0, 4]], torch.zeros(2))


def test_with_a_limit_only_the_rows_of_that_many_units_are_drawn():
    model, networks = after_a_step()
    context_of(networks, 7).reset_units({"fc": mask(5, 3)}, at_most=1)
    bound = 1 / math.sqrt(12)
    drawn = torch.empty(1, 12).uniform_(-bound, bound, generator=torch.Generator().manual_seed(7))
    assert torch.equal(model.fc.weight[3], drawn[0])


def test_both_columns_of_a_crelu_are_outgoing():
    model, networks = after_a_step_of_crelu()
    before = everything(networks)
    context_of(networks).reset_units({"fc": mask(5, 2)})
    assert (model.head.weight[:, [2, 7]] == 0).all()
    others = [0, 1, 3, 4, 5, 6, 8, 9]
    assert torch.equal(model.head.weight[:, others], before["head.weight"][:, others])


def after_a_step_of_crelu():
    model = marker(crelu=True)
    optimizer = adam(model)
    step(model, optimizer, images())
    return model, single(model, optimizer, images())


def test_no_unit_chosen_changes_nothing():
    _, networks = after_a_step()
    before, random = everything(networks), torch.get_rng_state()
    context = context_of(networks)
    for at_most in (None, 2):
        context.reset_units({"conv": mask(3), "fc": mask(5)}, at_most=at_most)
    after = everything(networks)
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_outputs_stay_where_reset_units_were_silent():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].bias[[1, 3]] = -100.0
        model[2].bias[[0, 4]] = -100.0
    inputs = torch.randn(20, 4)
    networks = single(model, torch.optim.SGD(model.parameters(), lr=0.1), inputs)
    before = model(inputs)
    context_of(networks).reset_units({"0": mask(6, 1, 3), "2": mask(5, 0, 4)})
    assert torch.equal(model(inputs), before)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
@pytest.mark.parametrize("at_most", [None, 2])
def test_the_normalization_of_a_reset_unit_begins_anew(norm, at_most):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), norm(6), nn.Tanh(), nn.Linear(6, 2))
    optimizer, inputs = adam(model), torch.randn(20, 4)
    initialization = {**dict.fromkeys(dict(model.named_parameters()), Constant(0.5))}
    model.initialization = lambda: initialization
    step(model, optimizer, inputs)
    step(model, optimizer, inputs)
    networks = single(model, optimizer, inputs)
    before = everything(networks)
    context_of(networks).reset_units({"0": mask(6, 2, 5)}, at_most=at_most)
    after = everything(networks)
    others = [0, 1, 3, 4]
    expected = {"1.weight": 1.0, "1.bias": 0.0}
    if norm is nn.BatchNorm1d:
        expected |= {"1.running_mean": 0.0, "1.running_var": 1.0}
    for name, value in expected.items():
        assert (before[name][[2, 5]] != value).all()
        assert (after[name][[2, 5]] == value).all()
        assert torch.equal(after[name][others], before[name][others])
    for name in ("1.weight/0", "1.weight/1", "1.bias/0", "1.bias/1"):
        assert (after[name][[2, 5]] == 0).all()
        assert torch.equal(after[name][others], before[name][others])
    if norm is nn.BatchNorm1d:
        assert after["1.num_batches_tracked"] == 2


def test_sgd_without_momentum_has_no_moments_to_clear():
    model = marker()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer, images())
    networks = single(model, optimizer, images())
    context_of(networks).reset_units({"fc": mask(5, 1)})
    assert (model.head.weight[:, 1] == 0).all()
    assert networks.optimizer.moments("fc.weight") == {}


# ---- with a limit --------------------------------------------------------------------------------

CHOSEN = {
    "conv": torch.tensor([[True, False, True], [False, False, False], [True, True, True]]),
    "fc": torch.tensor(
        [
            [False, True, False, False, True],
            [True, False, False, False, False],
            [False, True, True, False, True],
        ]
    ),
}


def three(constant):
    """Three stacked networks after a step; new weights may be a constant, so that no draw decides."""
    models = [marker(seed) for seed in range(3)]
    networks, run, optimizer = stacked(models, images())
    optimizer.zero_grad()
    torch.sin(run(torch.stack([images(seed=seed) for seed in range(3)])) + 1).sum().backward()
    optimizer.step()
    if constant:
        networks.initialization.update(dict.fromkeys(networks.parameters, Constant(0.25)))
    return networks


def test_a_limit_that_suffices_changes_nothing():
    found, expected = three(constant=True), three(constant=True)
    context_of(found, 1, 2, 3).reset_units(CHOSEN, at_most=3)
    context_of(expected, 1, 2, 3).reset_units(CHOSEN)
    expected = everything(expected)
    for name, each in everything(found).items():
        assert torch.equal(each, expected[name]), name


def test_no_more_units_than_the_limit_are_reset():
    networks = three(constant=True)
    before = everything(networks)
    context = context_of(networks, 1, 2, 3)
    context.reset_units(CHOSEN, at_most=2)
    after = everything(networks)
    for layer, chosen in CHOSEN.items():
        changed = (after[f"{layer}.bias"] == 0) & (before[f"{layer}.bias"] != 0)
        assert not (changed & ~chosen).any()
        assert changed.sum(-1).tolist() == chosen.sum(-1).clamp(max=2).tolist()
        assert torch.equal(context.counts[f"reset_units/{layer}"], changed.sum(-1).float())


# ---- stacked -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_most", [None, 2])
def test_stacked_networks_are_reset_like_separate_ones(at_most):
    networks = three(constant=False)
    alone = [networks.of_run(index) for index in range(3)]
    for index, each in enumerate(alone):  # copies, with moments of their own
        moments = {
            name: {key: m.clone() for key, m in each.optimizer.moments(name).items()}
            for name in each.parameters
        }
        parameters = {name: p.detach().clone() for name, p in each.parameters.items()}
        alone[index] = type(each)(
            parameters=parameters,
            module=each.module,
            optimizer=SimpleNamespace(moments=moments.__getitem__),
            units=each.units,
            initialization=each.initialization,
            ordinary=each.ordinary,
        )
    context_of(networks, 5, 6, 7).reset_units(CHOSEN, at_most=at_most)
    found = everything(networks)
    for index, own in enumerate(alone):
        masks = {layer: chosen[index] for layer, chosen in CHOSEN.items()}
        context_of(own, 5 + index).reset_units(masks, at_most=at_most)
        for name, each in everything(own).items():
            assert torch.equal(found[name][index], each), name


def test_a_draw_has_the_units_first():
    """Where a weight's units lie along another axis, it is drawn with the units first."""

    class Columns(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(4, 3)), nn.Linear(3, 2)

        def forward(self, inputs):
            return self.second(torch.tanh(inputs @ self.first))

    model = Columns()
    networks = single(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(5, 4))
    shapes = []
    reset_units(
        networks,
        {"first": mask(3, 1)},
        lambda _, out: shapes.append(tuple(out.shape)) or out.fill_(9.0),
    )
    assert shapes == [(3, 4)]
    assert (model.first[:, 1] == 9).all()
    assert (model.first[:, [0, 2]] != 9).all()
    assert (model.second.weight[:, 1] == 0).all()
