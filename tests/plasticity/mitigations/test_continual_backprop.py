import pytest
import torch
from networks_in_training import Marker, images
from torch import nn

from plasticity.initialization import Constant
from plasticity.mitigations import ContinualBackprop
from plasticity.mitigations.attach import attach

UTILITIES = (
    "contribution",
    "zero-contribution",
    "adaptable-contribution",
    "adaptation",
    "weight",
    "random",
)
EAGER = {"maturity_threshold": 0, "replacement_rate": 0.5}


def chain(*rows, biases=None):
    """Two or more units that pass on their inputs, and outputs that read them with these rows of weights."""
    units = len(rows[0])
    network = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, len(rows)))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(units))
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor(rows))
        network[2].bias.copy_(torch.zeros(len(rows)) if biases is None else torch.tensor(biases))
    return network


class Run:
    """A network that stays as it is but for the replacements: a rate of 0."""

    def __init__(self, network, example, fresh=0.25, **settings):
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
        initialize = {
            name: Constant(fresh) for name, each in network.named_parameters() if each.dim() > 1
        }
        self.attached = attach(
            network,
            self.optimizer,
            ContinualBackprop(**settings),
            inputs=example[:2],
            initialize=initialize,
        )

    def step(self, inputs):
        self.network(inputs).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return [number for _, number in sorted(self.attached.take_counts().items())]

    def state(self, name):
        return self.attached.state_dict()["mitigations"]["cbp"]["state"][name]


def test_the_average_of_a_utility_and_its_correction():
    rows = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    network = chain([3.0, 1.0], [-1.0, 1.0])
    run = Run(network, rows, replacement_rate=0.0)
    # features of the first unit: 2 in both rows of the batch, read by weights of 3 and -1
    run.step(rows.abs())
    # 0.01 * 2 * 4
    assert run.state("utility/0")[0] == pytest.approx(0.08)
    assert run.state("mean/0")[0] == pytest.approx(0.02)
    run.step(torch.zeros(2, 2))
    assert run.state("utility/0")[0] == pytest.approx(0.0792)


def test_units_are_replaced_at_the_rate_of_the_old_ones():
    inputs = torch.ones(2, 3)
    run = Run(chain([1.0] * 3), inputs, maturity_threshold=0, replacement_rate=0.25)
    assert [run.step(inputs) for _ in range(8)] == [[0], [1], [1], [1], [0], [1], [1], [1]]
    run = Run(chain([1.0] * 3), inputs, maturity_threshold=2, replacement_rate=0.25)
    # older than 2 steps in the third: parts 0.75, 1.5; then two old units, 1.0, as the third becomes old
    assert [run.step(inputs) for _ in range(5)] == [[0], [0], [0], [1], [1]]


@pytest.mark.parametrize(
    # Features of three units in a batch of two; how they are read and made; and which is of the least use.
    ("utility", "features", "outgoing", "incoming", "least"),
    [
        ("contribution", [[1, 3, 2], [1, 3, 2]], [4, 1, 2], [1, 1, 1], 1),  # 4, 3, 4
        # distances from the means 2, 3, 5: 2 * 1, 1 * 2, 0 * 9
        ("zero-contribution", [[0, 2, 5], [4, 4, 5]], [1, 2, 9], [1, 1, 1], 2),
        # distances 2, 1, 3, times 1, 2, 1; divided by 1, 4, 1
        ("adaptable-contribution", [[0, 2, 0], [4, 4, 6]], [1, 2, 1], [1, 4, 1], 1),
        ("adaptation", [[1, 1, 1], [1, 1, 1]], [1, 1, 1], [1, 2, 3], 2),
        ("weight", [[9, 1, 1], [9, 1, 1]], [1, 2, 3], [1, 1, 1], 0),
    ],
)
def test_the_unit_of_the_least_use_is_replaced(utility, features, outgoing, incoming, least):
    features, incoming = torch.tensor(features).float(), torch.tensor(incoming).float()
    network = chain([float(each) for each in outgoing])
    with torch.no_grad():
        network[0].weight.mul_(incoming)
    inputs = features / incoming
    # in the second step: 0.2 * 3 in each
    run = Run(network, inputs, utility=utility, maturity_threshold=0, replacement_rate=0.2)
    assert [run.step(inputs) for _ in range(2)] == [[0], [1]]
    assert (network[2].weight == 0).flatten().nonzero().tolist() == [[least]]


def test_a_unit_that_is_not_old_enough_stays():
    inputs = torch.tensor([[1.0, 5.0, 3.0]])
    network = chain([1.0, 1.0, 1.0])
    run = Run(network, inputs, maturity_threshold=1, replacement_rate=0.5)
    # 1.5 of three old units, then a rest of 0.5, and 1 of two
    assert [run.step(inputs) for _ in range(3)] == [[0], [1], [1]]
    # the first one feeds the least again, but is of age 1
    assert (network[2].weight == 0).tolist() == [[True, False, True]]


def test_of_equals_the_first_is_replaced():
    inputs = -torch.ones(1, 3)
    network = chain([1.0, 1.0, 1.0])
    run = Run(network, inputs, maturity_threshold=0, replacement_rate=1 / 3)
    run.step(inputs)
    assert (network[2].weight == 0).tolist() == [[True, False, False]]


def test_what_a_constant_unit_feeds_moves_into_the_biases():
    inputs = torch.tensor([[2.0, 90.0], [2.0, 80.0]])
    network = chain([3.0, 1.0], biases=[0.5])
    before = network(inputs)
    run = Run(network, inputs, **EAGER)
    run.step(inputs)
    # 0.5 + 3 * 2
    assert network[2].bias.item() == pytest.approx(6.5)
    assert network[2].weight.tolist() == [[0.0, 1.0]]
    assert network[0].weight.tolist() == [[0.25, 0.25], [0.0, 1.0]]
    assert network[0].bias.tolist() == [0.0, 0.0]
    torch.testing.assert_close(network(inputs), before)
    assert run.state("utility/0")[0] == 0
    assert run.state("mean/0")[0] == 0
    assert run.state("born/0").tolist() == [1, 0]


def test_outputs_change_by_what_the_unit_deviates_from_its_average():
    torch.manual_seed(0)
    inputs = [torch.rand(4, 2) * torch.tensor([1.0, 50.0]) for _ in range(5)]
    network = chain([3.0, 1.0], [-2.0, 1.0])
    run = Run(network, inputs[0], maturity_threshold=4, replacement_rate=0.5, decay=0.9)
    for each in inputs[:-1]:
        run.step(each)
    before = network(inputs[-1])
    run.step(inputs[-1])
    means = [each[:, 0].mean() for each in inputs]
    shares = torch.tensor([0.9**lag for lag in (4, 3, 2, 1, 0)])
    usual = (torch.stack(means) * shares).sum() / shares.sum()
    expected = before + (usual - inputs[-1][:, :1]) * torch.tensor([3.0, -2.0])
    torch.testing.assert_close(network(inputs[-1]), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_hand_over_to_a_convolution_and_through_a_flatten(channels_last):
    class Maps(nn.Module):
        """Maps of constant channels, each position of which is read by weights of its own."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 2)
            self.head = nn.Linear(16, 2)

        def forward(self, images):
            maps = torch.tanh(self.second(torch.tanh(self.first(images))))
            return self.head((maps.permute(0, 2, 3, 1) if channels_last else maps).flatten(1))

    torch.manual_seed(0)
    network, inputs = Maps().double(), torch.ones(5, 1, 3, 3, dtype=torch.float64)
    before = network(inputs)
    run = Run(network, inputs, maturity_threshold=0, replacement_rate=0.4)
    # 1.2 channels of three and 1.6 of four
    assert run.step(inputs) == [1, 1]
    assert (network.second.weight == 0).all((0, 2, 3)).sum() == 1
    columns = network.head.weight.view(2, 4, 4)
    by_channel = columns.mT if channels_last else columns
    assert (by_channel == 0).all(-1).sum() == 2  # of both outputs
    assert (network.second.weight == 0.25).any(1).all((1, 2)).sum() == 1
    torch.testing.assert_close(network(inputs), before)


def test_both_outputs_of_a_crelu_have_a_mean_of_their_own():
    network = Marker(crelu=True).double()
    inputs = images(1).double().expand(6, -1, -1, -1)
    before = network(inputs)
    run = Run(network, inputs, maturity_threshold=0, replacement_rate=0.2)
    # 0.6 channels and 1 unit
    assert run.step(inputs) == [0, 1]
    torch.testing.assert_close(network(inputs), before)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_new_weights_have_no_past(make):
    """Replaced entries are the fresh draw itself, although the optimizer has momentum."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    settings = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make(network.parameters(), lr=0.05, **settings)
    mitigation = ContinualBackprop(maturity_threshold=3, replacement_rate=0.5)
    fresh = {"0.weight": Constant(0.7), "2.weight": Constant(0.3)}
    attached = attach(network, optimizer, mitigation, initialize=fresh)
    for _ in range(4):
        network(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert attached.take_counts() == {"reset_units/0": 3, "reset_units/2": 2}
    first = (network[0].weight == 0.7).all(1)
    second = (network[2].weight[:, ~first] == 0.3).all(1)
    assert (first.sum(), second.sum()) == (3, 2)
    # those that follow each other are not connected
    assert (network[2].weight[:, first] == 0).all()
    assert (network[4].weight[:, second] == 0).all()
    new = {
        "0.weight": first[:, None].expand(6, 4),
        "0.bias": first,
        "2.weight": first[None] | second[:, None],
        "2.bias": second,
        "4.weight": second[None].expand(2, 5),
        "4.bias": torch.zeros(2, dtype=torch.bool),
    }
    for name, each in network.named_parameters():
        moments = [m for key, m in optimizer.state[each].items() if key != "step"]
        for moment in moments:
            assert torch.equal(moment == 0, new[name]), name


@pytest.mark.parametrize("utility", UTILITIES)
def test_a_rate_of_0_leaves_training_as_it_is(utility):
    found = []
    for mitigations in ((ContinualBackprop(replacement_rate=0.0, utility=utility),), ()):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        if mitigations:
            attach(network, optimizer, *mitigations)
        for _ in range(10):
            network(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([*network.parameters(), torch.get_rng_state()])
    for own, plain in zip(*found, strict=True):
        assert torch.equal(own, plain)


def test_a_layer_that_is_not_trained_is_passed_over():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = torch.randn(5, 3)
    run = Run(network, inputs, maturity_threshold=0, replacement_rate=0.25)
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    assert run.step(inputs) == [0, 1]
    assert torch.equal(network[0].weight, before)
    assert not run.state("mean/0").any()
    assert run.state("mean/2").all(-1) or run.state("mean/2").any()
    network[0].requires_grad_(True)
    assert run.step(inputs) == [1, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("replacement_rate", -0.1),
        ("replacement_rate", 1.1),
        ("maturity_threshold", -1),
        ("maturity_threshold", 1.5),
        ("utility", "use"),
        ("decay", 1.0),
    ],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        ContinualBackprop(**{field: value})


def number_of_resets(rows):
    return sum(row[f"reset_units/{layer}"] for row in rows for layer in ("conv1", "conv2", "fc1"))


@pytest.mark.parametrize(
    ("utility", "accumulate"),
    [("contribution", True), ("adaptable-contribution", True), ("random", False)],
)
def test_stacked_as_alone(stacked_as_alone, utility, accumulate):
    settings = {"maturity_threshold": 3, "utility": utility, "accumulate": accumulate}
    rows = stacked_as_alone(
        (ContinualBackprop(replacement_rate=0.02, **settings),),
        (ContinualBackprop(replacement_rate=0.01, decay=0.9, **settings),),
    )
    assert all(number_of_resets(each) > 0 for each in rows)


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    counts = ppo_stacked_as_alone(
        (ContinualBackprop(replacement_rate=0.02, maturity_threshold=3),),
        (ContinualBackprop(replacement_rate=0.01, maturity_threshold=3),),
    )
    assert all(each[f"reset_units/{part}.fc1"] for each in counts for part in ("actor", "critic"))


@pytest.mark.parametrize(("stacked", "accumulate"), [(False, True), (True, False)])
def test_a_run_continues_exactly(continues_exactly, stacked, accumulate):
    method = ContinualBackprop(replacement_rate=0.05, maturity_threshold=3, accumulate=accumulate)
    rows = continues_exactly((method,), stacked=stacked)
    assert all(number_of_resets(each) > 0 for each in rows)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    method = (ContinualBackprop(replacement_rate=0.02, maturity_threshold=3),)
    rows = ppo_continues_exactly(method)
    assert all(rows[0][f"reset_units/{part}.fc1"] > 0 for part in ("actor", "critic"))


@pytest.mark.parametrize("utility", ["adaptable-contribution", "adaptation"])
def test_a_unit_without_incoming_weights_has_a_utility(utility):
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    nn.init.zeros_(network[0].weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    method = ContinualBackprop(utility=utility, replacement_rate=0.0)
    attached = attach(network, optimizer, method, inputs=torch.ones(1, 2))
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = attached.state_dict()["mitigations"]["cbp"]["state"]
    assert state["utility/0"].isfinite().all()
