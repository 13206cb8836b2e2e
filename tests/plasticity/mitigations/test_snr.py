from itertools import pairwise

import pytest
import torch
from torch import nn

from plasticity.initialization import Uniform
from plasticity.mitigations import SNR
from plasticity.mitigations.attach import attach

BATCH = 100
# thresholds of 100 examples at first, one batch: what is silent is reset
HASTY = SNR(max_age=200, bins=2, update_tasks=1, percentile=0.9)


class Switches:
    """Units that fire in a step if their input does; a rate of 0, so that what changes is a reset."""

    def __init__(self, snr, units=2):
        self.network = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 3))
        with torch.no_grad():
            self.network[0].weight.copy_(torch.eye(units))
            self.network[0].bias.fill_(-0.5)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.0)
        self.units = units
        example = torch.zeros(2, units)
        fresh = {"0.weight": Uniform(0.5)}
        self.attached = attach(self.network, self.optimizer, snr, inputs=example, initialize=fresh)

    def step(self, *firing):
        """Take a step in which these units fire, for the last example of the batch only."""
        inputs = torch.zeros(BATCH, self.units)
        inputs[-1, list(firing)] = 1.0
        self.network(inputs).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self, name):
        return self.attached.state_dict()["mitigations"]["snr"]["state"][f"{name}/0"]

    def load(self, **changes):
        state = self.attached.state_dict()
        for name, value in changes.items():
            state["mitigations"]["snr"]["state"][f"{name}/0"] = value
        self.attached.load_state_dict(state)


def ages(histogram, width):
    """Return the number of events by age, of one unit's histogram."""
    return {
        (place + 1) * width: number for place, number in enumerate(histogram.tolist()) if number
    }


def test_the_age_at_which_a_unit_fires_again_is_counted():
    run = Switches(SNR())  # bins of 100 examples
    for _ in range(3):
        run.step(1)
    assert run.state("age").tolist() == [300, 0]
    run.step(0, 1)
    assert run.state("age").tolist() == [0, 0]
    silent, always = run.state("histogram")
    assert ages(silent, 100) == {300: 1}
    assert ages(always, 100) == {}  # an age of 0 is no event


@pytest.mark.parametrize(
    # 98 of 100 ages are 100, the others 5000. At most 100 are 0.98 of them, 0.95 and not 0.99.
    ("percentile", "expansion", "before", "after"),
    [
        (0.95, 2.0, 400.0, 100.0),
        (0.98, 2.0, 400.0, 100.0),
        (0.99, 2.0, 400.0, 800.0),
        (0.99, 3.0, 400.0, 1200.0),
        (0.99, 2.0, 5000.0, 10_000.0),  # not smaller
        (0.99, 2.0, 6000.0, 5000.0),
        (0.95, 2.0, 100.0, 200.0),
        (0.99, 2.0, 12_000.0, 5000.0),
        (0.99, 5.0, 4500.0, 20_000.0),  # the largest, of 22,500
    ],
)
def test_a_threshold_falls_to_the_percentile_or_grows(percentile, expansion, before, after):
    run = Switches(SNR(percentile=percentile, expansion=expansion, update_tasks=2))
    histogram = torch.zeros(2, 200, dtype=torch.int32)
    histogram[0, 0], histogram[0, 49] = 98, 2
    run.load(histogram=histogram, threshold=torch.tensor([before, before]))
    run.attached.boundary(1)
    assert run.state("threshold").tolist() == [before, before]  # not yet
    run.attached.boundary(2)
    # of the second unit nothing was observed
    assert run.state("threshold").tolist() == [after, before]
    assert not run.state("histogram").any()


def test_thresholds_are_updated_after_steps_where_there_are_no_tasks():
    run = Switches(SNR(update_steps=4))
    for firing in ([1], [0, 1], [1]):
        run.step(*firing)
    assert run.state("threshold").tolist() == [10_000, 10_000]
    run.attached.boundary(16)
    assert run.state("threshold").tolist() == [10_000, 10_000]
    run.step(0, 1)  # ages of 100 and 100
    assert run.state("threshold").tolist() == [100, 10_000]


def test_a_unit_is_reset_at_its_threshold():
    run = Switches(SNR(max_age=800, bins=8))  # 400 at first
    for _ in range(3):
        run.step(1)
    assert run.attached.take_counts() == {"reset_units/0": 0}
    first, last = run.network[0], run.network[2]
    before = {name: each.clone() for name, each in run.network.state_dict().items()}
    run.step(1)
    assert run.attached.take_counts() == {"reset_units/0": 1}
    assert run.state("age").tolist() == [0, 0]
    assert ages(run.state("histogram")[0], 100) == {400: 1}
    # fan-in of 2, a bias, fan-out of 3; the other unit's stay
    assert first.weight[0].abs().max() <= 0.5
    assert (first.weight[0] != before["0.weight"][0]).all()
    assert first.bias.tolist() == [0.0, -0.5]
    assert (last.weight[:, 0] == 0).all()
    assert torch.equal(first.weight[1], before["0.weight"][1])
    assert torch.equal(last.weight[:, 1], before["2.weight"][:, 1])
    for moment in ("exp_avg", "exp_avg_sq"):
        of_weight, of_bias, of_reader = (
            run.optimizer.state[each][moment] for each in (first.weight, first.bias, last.weight)
        )
        assert not of_weight[0].any()
        assert of_weight[1].any()
        assert of_bias.ne(0).tolist() == [False, True]
        assert of_reader.ne(0).any(0).tolist() == [False, True]


def test_the_oldest_are_reset_first_and_the_others_later():
    # 6 units, bins of 100 examples, a threshold of 300. Unit 5 falls silent a step before the others.
    run = Switches(SNR(max_age=600, bins=6, at_most=2), units=6)
    run.step(0, 1, 2, 3, 4)
    zero = [set()]
    for _ in range(5):
        run.step()
        columns = (run.network[2].weight == 0).all(0)
        zero.append(set(columns.nonzero().flatten().tolist()))
    new = [after - before for before, after in pairwise(zero)]
    assert new == [set(), {5}, {0, 1}, {2, 3}, {4}]
    recorded = run.state("histogram")
    assert [next(iter(ages(each, 100))) for each in recorded] == [300, 300, 400, 400, 500, 300]


def test_ages_above_the_largest_count_as_the_largest():
    run = Switches(SNR(max_age=200, bins=2, at_most=1), units=5)  # a threshold of 100
    for step in range(1, 6):
        run.step()
        assert run.attached.take_counts() == {"reset_units/0": 1}, step
    # one unit after the other, at ages of 100, 200, 300, 400 and 500
    assert [next(iter(ages(each, 100))) for each in run.state("histogram")] == [100] + [200] * 4


def test_a_channel_fires_if_it_does_at_one_position_of_one_image():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        network[0].bias.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    attached = attach(network, optimizer, SNR())
    images = torch.zeros(8, 1, 3, 3)
    images[5, 0, 2, 1] = 1.0
    network(images).sum().backward()
    optimizer.step()
    assert attached.state_dict()["mitigations"]["snr"]["state"]["age/0"].tolist() == [0, 8]


def test_training_is_as_without_while_no_unit_is_due():
    found = []
    for mitigations in ((SNR(),), ()):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        if mitigations:
            attach(network, optimizer, *mitigations)
        for _ in range(20):
            network(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([*network.parameters(), torch.get_rng_state()])
    for own, plain in zip(*found, strict=True):
        assert torch.equal(own, plain)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("percentile", 1.0),
        ("percentile", -0.1),
        ("expansion", 0.5),
        ("update_tasks", 0),
        ("update_steps", 0),
        ("max_age", 0),
        ("bins", 1.5),
        ("at_most", 0),
    ],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        SNR(**{field: value})


# the runs of the fixtures have tanh, whose units are hardly ever silent
RELU = {"network.activation": "relu"}


def number_of_resets(rows):
    return sum(row[f"reset_units/{layer}"] for row in rows for layer in ("conv1", "conv2", "fc1"))


@pytest.mark.parametrize("update_steps", [None, 7])
def test_stacked_as_alone(stacked_as_alone, update_steps):
    settings = {"max_age": 1200, "bins": 12, "update_tasks": 1, "update_steps": update_steps}
    methods = [
        (SNR(percentile=0.9, **settings),),
        (SNR(percentile=0.5, expansion=1.5, **settings),),
    ]
    rows = stacked_as_alone(*methods, **RELU)
    assert all(number_of_resets(each) > 0 for each in rows)


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    # minibatches of 16, a threshold of one at first
    settings = {"max_age": 32, "bins": 2, "at_most": 1, "update_steps": 7}
    methods = [
        (SNR(percentile=0.9, **settings),),
        (SNR(percentile=0.1, expansion=1.5, **settings),),
    ]
    counts = ppo_stacked_as_alone(*methods, updates=20)
    for part in ("actor", "critic"):
        numbers = [
            each[f"reset_units/{part}.{layer}"] for each in counts for layer in ("fc1", "fc2")
        ]
        assert sum(numbers) > 0


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    rows = continues_exactly((HASTY,), stacked=stacked, **RELU)
    assert all(number_of_resets(each) > 0 for each in rows)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    rows = ppo_continues_exactly((HASTY,))
    for part in ("actor", "critic"):
        assert sum(rows[0][f"reset_units/{part}.{layer}"] for layer in ("fc1", "fc2")) > 0
