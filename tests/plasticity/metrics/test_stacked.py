"""Tests of the metrics of stacked networks against a tracker of each alone."""

import pytest
import torch
from torch import nn

from plasticity import StackedNetworks, Tracker
from plasticity.agents.networks import NETWORKS
from plasticity.metrics.registry import METRICS, Metric
from plasticity.metrics.stacked import finite_networks, stacked_features, stacked_metrics


def image_network(seed, architecture="cnn", **settings):
    torch.manual_seed(seed)
    network = NETWORKS[architecture](hidden=(16, 16), **settings)
    network = network.build(network.spec((1, 8, 8), 3))
    with torch.no_grad():  # some dead and dormant units
        network.fc1.bias[: 2 + seed] = -10.0
        network.fc2.weight[3] *= 1e-4
    return network


class Normalised(nn.Sequential):
    def __init__(self, seed):
        torch.manual_seed(seed)
        super().__init__(
            nn.Flatten(), nn.Linear(64, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)
        )


MAKERS = {
    "cnn": (image_network, ["conv1", "conv2", "fc1", "fc2"]),
    "mlp": (lambda seed: image_network(seed, architecture="mlp", activation="tanh"), None),
    "normalised": (Normalised, None),
}


def prepared(kind):
    """Return three networks with gradients, their stack, a probe for each, and earlier weights."""
    alone = [MAKERS[kind][0](seed) for seed in range(3)]
    networks = StackedNetworks(alone)
    probe = torch.rand(3, 40, 1, 8, 8)
    gradients = {name: torch.randn_like(p) for name, p in networks.parameters.items()}
    previous = {name: torch.randn_like(p) for name, p in networks.parameters.items()}
    for name, parameter in networks.parameters.items():
        parameter.grad = gradients[name]
        for i, network in enumerate(alone):
            network.get_parameter(name).grad = gradients[name][i]
    return alone, networks, probe, previous


def tracked(network, probe, metrics, layers, previous):
    tracker = Tracker(network, probe, metrics, layers)
    tracker.load_state_dict({"previous": previous, "before_step": None})
    return tracker.measure()


UNLABELLED = [name for name, metric in METRICS.items() if metric.kind != "loss"]
"""Metrics that need no labels."""

MEAN = Metric("mean", lambda features: features.mean(), "features")
BIAS = Metric("bias", lambda model: [*model.parameters()][-1].sum(), "model")


@pytest.mark.parametrize("kind", MAKERS)
def test_every_metric_of_every_stacked_network(kind):
    alone, networks, probe, previous = prepared(kind)
    layers = MAKERS[kind][1]
    metrics = [*UNLABELLED, MEAN, BIAS]
    features = stacked_features(networks, probe, layers)
    rows = stacked_metrics(networks, features, metrics, previous=previous, probe=probe)
    for i, network in enumerate(alone):
        earlier = {name: each[i] for name, each in previous.items()}
        expected = tracked(network, probe[i], metrics, layers, earlier)
        assert list(rows[i]) == list(expected)
        assert rows[i] == pytest.approx(expected, rel=1e-5)
    if kind == "cnn":  # because of the biases
        assert all(row["dead_fraction/fc1"] >= (2 + i) / 16 for i, row in enumerate(rows))
    assert stacked_metrics(networks, features, ["weight_norm"], indices=[2, 0]) == [
        {key: rows[i][key] for key in rows[i] if key.startswith("weight_norm")} for i in (2, 0)
    ]


def test_measuring_changes_nothing():
    _, networks, probe, previous = prepared("normalised")
    networks.train()
    before = {name: each.clone() for name, each in networks.buffers.items()}
    gradients = {name: each.grad for name, each in networks.parameters.items()}
    state, kept = torch.get_rng_state(), probe.clone()
    features = stacked_features(networks, probe)
    stacked_metrics(networks, features, UNLABELLED, previous=previous, probe=probe)
    assert all(torch.equal(before[name], each) for name, each in networks.buffers.items())
    assert all(each.grad is gradients[name] for name, each in networks.parameters.items())
    assert all(parameter.grad is None for parameter in networks.template.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(probe, kept)
    assert networks.template.training
    assert not any(each.requires_grad for each in features.values())


class Careless(nn.Module):
    """Network that writes to its input and to a buffer, even in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.linear, self.relu = nn.Linear(4, 3), nn.ReLU()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.relu(self.linear(inputs.mul_(2)))


def test_a_careless_network_changes_neither_probe_nor_buffers():
    networks = StackedNetworks([Careless() for _ in range(2)])
    probe = torch.rand(2, 5, 4)
    before = probe.clone()
    stacked_features(networks, probe)
    assert torch.equal(probe, before)
    assert networks.buffers["calls"].tolist() == [0, 0]


def test_stacked_networks_that_are_not_finite():
    alone, networks, probe, _ = prepared("cnn")
    with torch.no_grad():
        networks.parameters["fc1.bias"][1, 0] = float("nan")
    features = stacked_features(networks, probe, ["conv1", "fc1"])
    assert finite_networks(features).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"layer 'fc1': features\[1, 0, 0\] is nan"):
        stacked_metrics(networks, features, ["srank"])
    rows = stacked_metrics(networks, features, ["srank", "feature_norm"], indices=[0, 2])
    for row, i in zip(rows, (0, 2), strict=True):
        expected = tracked(alone[i], probe[i], ["srank", "feature_norm"], ["conv1", "fc1"], None)
        assert row == pytest.approx(expected, rel=1e-5)
    assert stacked_metrics(networks, features, ["srank"], indices=[]) == []


def test_updates_are_left_out_without_earlier_weights():
    _, networks, probe, _ = prepared("mlp")
    features = stacked_features(networks, probe)
    assert stacked_metrics(networks, features, ["update_norm"]) == [{}, {}, {}]


def test_a_pass_through_convolutions_that_are_products():
    alone, _, probe, _ = prepared("cnn")
    networks = StackedNetworks(alone, convolution="products")
    features = stacked_features(networks, probe)
    rows = stacked_metrics(networks, features, ["degree_of_symmetry"], probe=probe)
    for row, network, batch in zip(rows, alone, probe, strict=True):
        assert row == Tracker(network, batch, ["degree_of_symmetry"]).measure()
    assert list(rows[0]) == [f"degree_of_symmetry/{n}" for n in ("conv1", "conv2", "fc1", "fc2")]
    assert all(
        "_conv_forward" in vars(networks.template.get_submodule(n)) for n in ("conv1", "conv2")
    )
    with pytest.raises(ValueError, match="'degree_of_symmetry' needs a probe batch"):
        stacked_metrics(networks, features, ["degree_of_symmetry"])


def test_bad_arguments():
    _, networks, probe, _ = prepared("mlp")
    features = stacked_features(networks, probe)
    with pytest.raises(ValueError, match="2 batches for 3 stacked networks"):
        stacked_features(networks, probe[:2])
    with pytest.raises(ValueError, match="no layer 'fc9'"):
        stacked_features(networks, probe, ["fc9"])
    with pytest.raises(ValueError, match="no activation was seen in Linear"):
        stacked_features(StackedNetworks([nn.Linear(2, 2)]), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="no metric 'srnk'"):
        stacked_metrics(networks, features, ["srnk"])
    with pytest.raises(IndexError, match="Index 3 is out of range"):
        stacked_metrics(networks, features, ["srank"], indices=[3])
    vector = Metric("vector", lambda features: features.mean(0), "features")
    with pytest.raises(ValueError, match="expected one number"):
        stacked_metrics(networks, features, [vector])
