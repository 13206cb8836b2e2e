"""Sheets of networks whose ranks, dead units and identical neurons are known by construction."""

import math

import pytest
import torch
from torch import nn

from plasticity import capture, effective_rank, stable_rank
from plasticity.scripts.probe.sheet import measure_sheet


def network(activation=nn.ReLU, width=20):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width),
        activation(),
        nn.Linear(width, width),
        activation(),
        nn.Linear(width, 2),
    )


PROBE = (torch.randn(50, 6, generator=torch.Generator().manual_seed(1)),)


def sheet_of(model, fresh=None):
    return measure_sheet(model, PROBE, fresh)


def by_name(sheet):
    return {each.layer: each for each in sheet.layers}


def test_healthy_network_has_no_findings():
    sheet = sheet_of(network(), network())
    assert [each.layer for each in sheet.layers] == ["0", "2", "4"]
    assert sheet.findings == []
    assert sheet.notes == ()
    for layer in sheet.layers:
        assert layer.measures == layer.initial
        assert layer.weight_norm == layer.initial_weight_norm


def test_measures_agree_with_the_library():
    model = network()
    first, second, head = sheet_of(model).layers
    with capture(model) as activations, torch.no_grad():
        model(*PROBE)
    for layer, name in ((first, "1"), (second, "3")):
        features = activations[name]
        assert (layer.measures.units, layer.measures.rows) == (20, 50)
        assert layer.measures.effective_rank == pytest.approx(float(effective_rank(features)))
        assert layer.measures.stable_rank == pytest.approx(float(stable_rank(features)))
        norms = features.norm(dim=1).mean()
        assert layer.measures.feature_norm == pytest.approx(float(norms), rel=1e-6)
    weights = math.sqrt(sum(float(p.detach().square().sum()) for p in model[4].parameters()))
    assert head.weight_norm == pytest.approx(weights, rel=1e-6)
    assert (head.measures, head.symmetry, head.activation) == (None, None, None)


def test_dead_units_are_counted_and_reported():
    model = network()
    with torch.no_grad():
        model[2].bias[:13] = -1e3  # 13 of 20 units: 65 %
    layer = by_name(sheet_of(model, network()))["2"]
    assert layer.measures.dead_fraction == pytest.approx(0.65)
    assert any(
        "65 % of 20 units are dead" in text and "0 on every row" in text for text in layer.findings
    )
    # they are dormant too, which is not reported again
    assert layer.measures.dormant_fraction > 0.64
    assert not any("dormant" in text for text in layer.findings)


def test_dead_units_of_a_saturating_activation_are_constant():
    model = network(nn.Tanh)
    with torch.no_grad():
        model[2].bias[:13] = 50.0  # tanh(50 ± …) = 1 in float32
    layer = by_name(sheet_of(model, network(nn.Tanh)))["2"]
    assert layer.measures.dead_fraction == pytest.approx(0.65)
    assert any(
        "65 % of 20 units are dead" in text and "the same on every row" in text
        for text in layer.findings
    )


def test_dormant_units_are_reported_if_they_are_not_dead():
    model = network()
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter[:10] *= 1e-3
    layer = by_name(sheet_of(model, network()))["2"]
    assert any("dormant" in text for text in layer.findings)
    assert not any("dead" in text for text in layer.findings)


@pytest.mark.parametrize("compare", [True, False])
def test_low_rank_is_reported(compare):
    model = network()
    with torch.no_grad():  # all units compute the same function up to scale: rank 1
        model[2].weight[:] = model[2].weight[:1].abs() * torch.linspace(0.5, 1.5, 20)[:, None]
        model[2].bias[:] = 0.0
    layer = by_name(sheet_of(model, network() if compare else None))["2"]
    assert layer.measures.effective_rank == pytest.approx(1, abs=1e-3)
    (text,) = [text for text in layer.findings if "rank" in text]
    assert text.startswith("effective rank 1 of 20")
    assert text.endswith("low-rank")
    assert ("at initialisation" in text) == compare


def test_low_rank_is_relative_to_the_fresh_network():
    """Use inputs on a line, on which every network of this architecture has a low rank."""
    line = (torch.linspace(0.1, 1, 50)[:, None] * torch.ones(6),)
    model, fresh = network(width=200), network(width=200)
    assert measure_sheet(model, line, fresh).findings == []
    assert any("low-rank" in text for text in measure_sheet(model, line).findings)


@pytest.mark.parametrize("compare", [True, False])
def test_identical_neurons_are_counted_and_reported(compare):
    model = network()
    with torch.no_grad():  # 8 copies of one neuron: 7 pairs of neighbours
        for tensor in (model[0].weight, model[0].bias, model[2].weight.T):
            tensor[:8] = tensor[0].clone()
    layer = by_name(sheet_of(model, network() if compare else None))["0"]
    assert (layer.symmetry.degree, layer.symmetry.possible) == (7, 19)
    assert any(text.startswith("7 of 19 neighbouring pairs of neurons") for text in layer.findings)


def test_distance_of_pairs_is_measured_against_the_fresh_network():
    """Shrink weights to 1 %, so that all distances are below 10 % of the initial ones."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.01)
    symmetries = [each.symmetry for each in sheet_of(model, network()).layers[:2]]
    assert [(each.degree, each.possible) for each in symmetries] == [(19, 19), (19, 19)]


def test_large_weights_are_reported_for_hidden_layers_only():
    model = network()
    with torch.no_grad():
        for layer in (model[2], model[4]):
            for parameter in layer.parameters():
                parameter.mul_(7)
    sheet = sheet_of(model, network())
    assert [text.split(":")[0] for text in sheet.findings] == ["2"]
    assert "7 times that at initialisation" in sheet.findings[0]


def test_no_symmetry_where_something_else_reads_the_layer():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.skip, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 1)

        def forward(self, x):
            x = self.body(x).relu()
            return self.head((x + self.skip(x)).relu())

    assert [each.symmetry for each in sheet_of(Residual()).layers] == [None] * 4


def test_attention_has_directions():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.body, self.head = nn.Linear(8, 5), nn.Linear(5, 1)

        def forward(self, x):
            x, _ = self.attention(x, x, x, need_weights=False)
            return self.head(self.body(x).relu())

    torch.manual_seed(0)
    model, fresh = Attending(), Attending()
    with torch.no_grad():  # rows 0, 1, 2 of head 0, in queries and keys: 3 of 2 × 4 directions
        for row in (0, 1, 2):
            model.attention.in_proj_weight[[row, 8 + row]] = 0
    sheet = measure_sheet(model, (torch.randn(6, 3, 8),), fresh)
    layer = sheet.layers[-1]
    assert (layer.layer, layer.symmetry.degree, layer.symmetry.possible) == ("attention", 3, 8)
    assert any(
        "3 of 8 directions of queries and keys are nearly unused" in text for text in layer.findings
    )


def test_convolutions_count_channels_and_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 2))
    sheet = measure_sheet(model, (torch.randn(7, 1, 6, 6),))
    measures = sheet.layers[0].measures
    assert (measures.units, measures.rows) == (5, 7 * 16)
    assert sheet.layers[0].symmetry.possible == 4


def test_given_hidden_layers_replace_those_found():
    sheet = measure_sheet(network(), PROBE, layers=["3"])
    assert [(each.layer, each.measures is None) for each in sheet.layers] == [
        ("0", True),
        ("2", False),
        ("4", True),
    ]


def test_too_few_rows_are_noted():
    sheet = measure_sheet(network(), (PROBE[0][:10],), network())
    assert any("10 rows" in note and "20 units" in note for note in sheet.notes)
    alone = measure_sheet(network(), PROBE)
    assert any("no freshly initialised network" in note for note in alone.notes)


def test_repeated_rows_are_noted():
    """Repeat 6 distinct rows 8 times each, for layers of 20 units."""
    sheet = measure_sheet(network(), (PROBE[0][:6].repeat(8, 1),), network())
    assert [
        note
        for note in sheet.notes
        if "Only 6 of the 48 rows of the probe batch are distinct" in note
    ]
    pairs = (PROBE[0][:25].repeat(2, 1),)  # 25 distinct rows of 50: more than units
    assert measure_sheet(network(), pairs, network()).notes == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_differ_if_any_argument_does(dtype):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network().to(dtype)

        def forward(self, x, named):
            return self.net(x + named["y"])

    same, other = torch.ones(30, 6, dtype=dtype), torch.arange(30)[:, None] % 4
    sheet = measure_sheet(Two(), (same, {"y": other}))
    assert any(
        "Only 4 of the 30 rows of the probe batch are distinct" in note for note in sheet.notes
    )


@pytest.mark.parametrize(
    ("rows", "message"), [(0, "has 0 rows"), (1, "has 1 rows"), (9, "All 9 rows .* are the same")]
)
def test_probes_without_two_distinct_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=rf"{message}.*Pass observations that differ"):
        measure_sheet(network(), (torch.ones(rows, 6),))


def test_evaluation_mode():
    model = nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.9), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 1)
    )
    assert measure_sheet(model.train(), PROBE).layers == measure_sheet(model.train(), PROBE).layers


def test_invalid_probes_and_networks_are_refused():
    with pytest.raises(
        ValueError, match=r"Sequential fails on the probe batch.*that the network was trained"
    ):
        measure_sheet(network(), (torch.randn(5, 7),))
    with pytest.raises(ValueError, match="Linear has no hidden activation"):
        measure_sheet(nn.Linear(6, 2), PROBE)
    with pytest.raises(ValueError, match="layer '1'"):
        measure_sheet(network(), (PROBE[0] * math.inf,))


def test_wrappers_are_transparent():
    model = network()
    assert measure_sheet(nn.DataParallel(model), PROBE) == measure_sheet(model, PROBE)


class Tied(nn.Module):
    """Autoencoder whose decoder is a separate layer with the encoder's matrix."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.encoder = nn.Linear(6, 6, bias=False)
        self.decoder = nn.Linear(6, 6, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.relu(self.encoder(torch.relu(self.first(x)))))


def test_tied_weights_count_for_both_layers():
    model = Tied()
    sheet = by_name(measure_sheet(model, PROBE, Tied()))
    assert list(sheet) == ["first", "encoder", "decoder"]
    norm = float(model.encoder.weight.detach().norm())
    for name in ("encoder", "decoder"):
        assert sheet[name].weight_norm == pytest.approx(norm, rel=1e-6)
    both = (model.first.weight, model.first.bias)
    expected = math.sqrt(sum(float(p.detach().square().sum()) for p in both))
    assert sheet["first"].weight_norm == pytest.approx(expected, rel=1e-6)


def test_transposed_tied_weights():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 20)

        def forward(self, x):
            return nn.functional.linear(torch.relu(self.encoder(x)), self.encoder.weight.T)

    sheet = by_name(measure_sheet(Transposed(), PROBE))
    assert sheet["encoder"].measures.units == 20


def test_parametrized_weights_have_their_norm():
    model = network()
    nn.utils.parametrizations.weight_norm(model[2])
    sheet = by_name(sheet_of(model))
    # the parameters are the magnitudes g, the directions v, and the bias
    own = model[2].parametrizations.weight
    parts = (own.original0, own.original1, model[2].bias)
    expected = math.sqrt(sum(float(p.detach().square().sum()) for p in parts))
    assert sheet["2"].weight_norm == pytest.approx(expected, rel=1e-6)
