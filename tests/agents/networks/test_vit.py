"""Vision transformer: equal to torch's own encoder, its parameters by hand, and mitigations inside it."""

import math

import pytest
import torch
from torch import nn

from plasticity.agents.networks import ViT
from plasticity.initialization import Constant, Normal, Uniform
from plasticity.mitigations import CReLU, Syre, WAsymmetric, network_spec
from plasticity.mitigations.sigma_asymmetric import RandomGate, SigmaAsymmetric
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.stacking.networks import StackedNetworks

SMALL = {"patch_size": 4, "depth": 2, "width": 12, "heads": 3, "hidden_factor": 2}


def build(*method, shape=(3, 8, 12), seed=0, **settings):
    torch.manual_seed(seed)
    config = ViT(**SMALL | settings)
    network = config.build(network_spec(method, config.spec(shape, 5)))
    for each in method:
        each.initial_weights(network, seed)
    return network


def test_the_parameters_by_hand():
    network = build()
    # patches: 12 * 3 * 16 + 12; tokens: 12 + 7 * 12; a block: 4 * (144 + 12) + 2 * 24 + 24 * 13 + 12 * 25;
    # norm: 24; head: 5 * 13
    block = 4 * 156 + 48 + 312 + 300
    expected = 588 + 96 + 2 * block + 24 + 65
    assert sum(each.numel() for each in network.parameters()) == expected
    assert network.hidden_layers == ("block1.fc1", "block2.fc1")
    assert network(torch.zeros(4, 3, 8, 12)).shape == (4, 5)


def twin_of(block):
    """Torch's own encoder layer with the weights of a block."""
    twin = nn.TransformerEncoderLayer(
        12, 3, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    parts = [block.attention.query, block.attention.key, block.attention.value]
    pairs = [
        (twin.self_attn.in_proj_weight, torch.cat([each.weight for each in parts])),
        (twin.self_attn.in_proj_bias, torch.cat([each.bias for each in parts])),
    ]
    for layer, own in (
        (twin.self_attn.out_proj, block.attention.output),
        (twin.linear1, block.fc1),
        (twin.linear2, block.fc2),
        (twin.norm1, block.norm1),
        (twin.norm2, block.norm2),
    ):
        pairs += [(layer.weight, own.weight), (layer.bias, own.bias)]
    with torch.no_grad():
        for parameter, value in pairs:
            parameter.copy_(value)
    return twin


def test_equals_torchs_encoder_on_patches_in_rows():
    network, images = build(), torch.randn(4, 3, 8, 12)
    with torch.no_grad():
        for each in network.parameters():
            each.add_(0.1 * torch.randn_like(each))  # else norms and biases would hide an error
    # unfolded by hand: patch (i, j) of rows of three
    patches = images.unflatten(2, (2, 4)).unflatten(4, (3, 4)).permute(0, 2, 4, 1, 3, 5)
    kernels = network.patches.weight.flatten(1)
    embedded = patches.reshape(4, 6, 48) @ kernels.T + network.patches.bias
    tokens = torch.cat([network.class_token.expand(4, -1, -1), embedded], 1) + network.positions
    for name in network.blocks:
        tokens = twin_of(network.get_submodule(name))(tokens)
    expected = network.head(
        nn.functional.layer_norm(tokens[:, 0], (12,), *network.norm.parameters())
    )
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_the_declared_distribution():
    network = build(width=96, shape=(3, 32, 32))
    declared = network.initialization()
    assert declared.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        each = declared[name]
        if isinstance(each, Constant):
            assert (parameter == each.value).all()
        elif parameter.numel() > 2000:
            deviation = each.deviation if isinstance(each, Normal) else each.bound / 3**0.5
            assert parameter.std().item() == pytest.approx(deviation, rel=0.05)
    assert declared["block2.attention.query.weight"] == Uniform(1 / math.sqrt(96))
    assert declared["patches.weight"] == Uniform(1 / math.sqrt(48))
    assert declared["positions"] == Normal(0.02)
    assert declared["block1.norm1.weight"] == Constant(1.0)


def test_all_but_normalizations_is_decayed_with_known_fan_ins():
    network = build(hidden_factor=4)
    (decayed, others) = parameter_groups(network, regularizer="syre", strength=0.1)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert all("norm" in names[each] for each in others["params"])
    fan_in = dict(zip([names[each] for each in decayed["params"]], decayed["fan_in"], strict=True))
    assert fan_in["patches.weight"] == 48
    assert fan_in["block1.attention.key.bias"] == fan_in["positions"] == 12
    assert fan_in["block2.fc2.weight"] == 48
    assert "unknown_layouts" not in decayed


def test_mitigations_change_the_hidden_layers():
    assert type(build(SigmaAsymmetric()).block2.fc1.gate) is RandomGate
    assert build(CReLU()).block1.fc1.out_features == 12  # of 24 outputs
    fixed = build(WAsymmetric(share=0.25))
    assert fixed.block1.attention.query.weight_is_fixed.sum(1).tolist() == [3] * 12
    assert fixed.head.weight_is_fixed.sum(1).tolist() == [3] * 5
    assert fixed.patches.weight_is_fixed.flatten(1).sum(1).tolist() == [12] * 12


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop"
)  # of torch's fused attention on a CPU
def test_stacked_networks_compute_the_same():
    method = (SigmaAsymmetric(), WAsymmetric(), Syre())
    networks = [build(*method, seed=seed) for seed in range(3)]
    images = torch.randn(3, 4, 3, 8, 12)
    alone = torch.stack([each(x) for each, x in zip(networks, images, strict=True)])
    torch.testing.assert_close(StackedNetworks(networks)(images), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"heads": 5}, ValueError, "A width of 12 cannot be split into 5 heads: give a multiple"),
        ({"depth": 0}, ValueError, "depth must be at least 1"),
        ({"patch_size": 1.0}, TypeError, "patch_size"),
        ({"patch_size": 3}, ValueError, "8 x 12 cannot be cut into patches of 3 x 3"),
        ({"shape": (96,)}, ValueError, r"not inputs of shape \(96,\): give another architecture"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        build(**settings)
