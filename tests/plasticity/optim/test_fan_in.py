"""Tests of the fan-in by layout, against the number of inputs that an output unit sums over.

For a linear layer with all weights 1, no bias, and inputs of 1, the largest output is that number.
"""

import importlib
import sys

import pytest
import torch
from torch import nn

from plasticity.optim.fan_in import NO_FAN_IN, flat_fan_in, model_layouts, weight_fan_in


def layouts_by_name(model, **given):
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: each for p, each in model_layouts(model, **given).items()}


def fan_in_by_name(model, **given):
    return {name: each.fan_in for name, each in layouts_by_name(model, **given).items()}


def kinds(model):
    return {name: each.kind for name, each in layouts_by_name(model).items()}


class Conv1D(nn.Module):
    """Layer as in transformers, with a weight of shape (inputs, units)."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class LoraConv1D(Conv1D):
    __module__ = "mine"


# ---- layers, against their outputs ------------------------------------------------------------------


def most_inputs(layer, *shapes):
    """Return the largest output of a layer of ones."""
    for name, parameter in layer.named_parameters():
        nn.init.constant_(parameter, 0.0 if name == "bias" else 1.0)
    return round(layer(*(torch.ones(1, *shape) for shape in shapes)).max().item())


LAYERS = {
    "linear": (lambda: nn.Linear(20, 7), (20,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3)), (2, 9, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose1d(16, 8, 5), (16, 12)),
    "transposed, groups": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), (8, 9, 9)),
    "transposed, stride = kernel": (lambda: nn.ConvTranspose2d(8, 3, 2, stride=2), (8, 5, 5)),
    "transposed, overlapping": (lambda: nn.ConvTranspose2d(8, 3, 4, stride=2), (8, 5, 5)),
    "transposed, uneven": (lambda: nn.ConvTranspose1d(8, 3, 5, stride=3), (8, 9)),
    "transposed, gaps": (lambda: nn.ConvTranspose1d(8, 3, 2, stride=5), (8, 9)),
    "transposed, dilated": (lambda: nn.ConvTranspose1d(4, 3, 5, stride=4, dilation=2), (4, 12)),
    "transposed, dilated, coprime": (
        lambda: nn.ConvTranspose1d(4, 3, 5, stride=2, dilation=3),
        (4, 20),
    ),
    "transposed, 3d": (lambda: nn.ConvTranspose3d(4, 2, (2, 3, 4), stride=(1, 2, 3)), (4, 6, 6, 6)),
    "transformers": (lambda: Conv1D(256, 16), (16,)),
    "a subclass of transformers'": (lambda: LoraConv1D(256, 16), (16,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_fan_in_is_the_number_of_inputs_that_a_unit_sums_over(name):
    make, shape = LAYERS[name]
    layer = make()
    expected = most_inputs(layer, shape)
    assert fan_in_by_name(layer) == {"weight": expected, "bias": expected}
    assert kinds(layer) == {"weight": "weight", "bias": "vector"}


def test_bilinear_sums_over_pairs():
    layer = nn.Bilinear(5, 4, 3)
    assert most_inputs(layer, (5,), (4,)) == 20
    assert fan_in_by_name(layer) == {"weight": 20, "bias": 20}


def test_the_conv1d_of_transformers():
    pytest.importorskip("transformers")
    layer = importlib.import_module("transformers.pytorch_utils").Conv1D(256, 16)
    assert fan_in_by_name(layer) == {"weight": 16, "bias": 16}


def test_gpt2_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=40, n_positions=9)
    found = layouts_by_name(transformers.GPT2LMHeadModel(config))
    assert "unknown" not in {each.kind for each in found.values()}
    assert found["transformer.h.0.attn.c_attn.weight"].fan_in == 16  # 16 to 48
    assert found["transformer.h.0.mlp.c_fc.weight"].fan_in == 16  # 16 to 64
    assert found["transformer.h.0.mlp.c_proj.weight"].fan_in == 64  # 64 to 16
    assert found["transformer.h.0.mlp.c_proj.bias"].fan_in == 64


def test_recognizing_a_layer_imports_nothing():
    before = set(sys.modules)
    model_layouts(nn.Sequential(Conv1D(3, 2), nn.Linear(3, 2)))
    assert not {name for name in set(sys.modules) - before if name.startswith("transformers")}


# ---- layers with several parameters -----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_each_weight_of_a_recurrent_layer_has_its_own_fan_in(kind, gates):
    layer = kind(6, 10, num_layers=2, bidirectional=True)
    assert layer.weight_ih_l1_reverse.shape == (gates * 10, 20)
    expected = {}
    for suffix, inputs in {"l0": 6, "l0_reverse": 6, "l1": 20, "l1_reverse": 20}.items():
        expected |= {f"weight_ih_{suffix}": inputs, f"bias_ih_{suffix}": inputs}
        expected |= {f"weight_hh_{suffix}": 10, f"bias_hh_{suffix}": 10}
    assert fan_in_by_name(layer) == expected
    assert set(kinds(layer).values()) == {"weight", "vector"}


def test_a_projected_lstm_and_a_cell():
    found = fan_in_by_name(nn.LSTM(6, 10, proj_size=3))
    assert (found["weight_hh_l0"], found["weight_hr_l0"]) == (3, 10)
    cell = {"weight_ih": 6, "weight_hh": 10, "bias_ih": 6, "bias_hh": 10}
    assert fan_in_by_name(nn.GRUCell(6, 10)) == cell


def test_attention():
    layer = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    assert fan_in_by_name(layer) == {
        "in_proj_weight": 8,
        "in_proj_bias": 8,
        "bias_k": 8,
        "bias_v": 8,
        "out_proj.weight": 8,
        "out_proj.bias": 8,
    }
    assert kinds(layer)["bias_k"] == "rows"
    separate = fan_in_by_name(nn.MultiheadAttention(8, 2, kdim=6, vdim=4))
    projections = [separate[f"{name}_proj_weight"] for name in "qkv"]
    assert projections == [8, 6, 4]
    assert separate["in_proj_bias"] == 8  # the largest of the three


@pytest.mark.parametrize("layer", [nn.Embedding(50, 16), nn.EmbeddingBag(50, 16)])
def test_embeddings_count_the_width_of_a_row(layer):
    assert kinds(layer) == {"weight": "rows"}
    assert fan_in_by_name(layer) == {"weight": 16}


def test_bias_k_is_initialised_with_the_spread_of_its_fan_in():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4096, 1, add_bias_kv=True)
    # 1 / sqrt(4096) = 1 / 64, to 1.1 % (one sigma of 4096 draws)
    assert layer.bias_k.std().item() * 64 == pytest.approx(1.0, abs=0.05)


# ---- parameters without a layer ---------------------------------------------------------------------


class Bare(nn.Module):
    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("pos_embed", (1, 65, 32), 32),
        ("position_embeddings", (1, 65, 32), 32),
        ("encoder_pos", (65, 32), 32),
        ("cls_token", (1, 1, 32), 32),
        ("class_embedding", (32,), 32),  # CLIP's
        ("pos_embed_2d", (1, 32, 8, 4), 4),
    ],
)
def test_tokens_are_recognized_by_their_names(name, shape, width):
    model = Bare(**{name: shape})
    assert kinds(model) == {name: "rows"}
    assert fan_in_by_name(model) == {name: width}


def test_vectors_do_not_take_the_fan_in_of_tokens():
    model = Bare(pos_embed=(1, 65, 32), gain=(32,))
    assert kinds(model) == {"pos_embed": "rows", "gain": "loose"}


def test_rows_without_a_name_are_a_guess():
    model = Bare(a=(1, 65, 32))
    assert kinds(model) == {"a": "unknown"}
    assert fan_in_by_name(model) == {"a": 32}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("log_std", (4,)),
        ("gamma", (32,)),
        ("layer_scale", (96, 1, 1)),  # torchvision's ConvNeXt
        ("gamma", (1, 1, 1, 96)),  # ConvNeXt V2's response normalisation
        ("temperature", ()),
        ("embedding_scale", ()),
        ("token_scale", (3,)),
    ],
)
def test_vectors_without_a_weight_have_no_fan_in(name, shape):
    assert fan_in_by_name(Bare(**{name: shape})) == {name: NO_FAN_IN}
    assert kinds(Bare(**{name: shape})) == {name: "loose"}


@pytest.mark.parametrize(
    ("shape", "guess"), [((20, 7), 7), ((8, 3, 5, 5), 75), ((6, 10, 4), 40), ((20, 1), 1)]
)
def test_an_unknown_layout_is_guessed_by_convention_and_marked_unknown(shape, guess):
    model = Bare(weight=shape, bias=(5,))
    assert kinds(model) == {"weight": "unknown", "bias": "vector"}
    assert fan_in_by_name(model) == {"weight": guess, "bias": guess}


def test_a_list_of_parameters_is_a_guess_too():
    model = nn.ParameterList([torch.zeros(20, 7), torch.zeros(20)])
    assert kinds(model) == {"0": "unknown", "1": "vector"}


@pytest.mark.parametrize("shape", [(20, 7), (7, 20)])
@pytest.mark.parametrize("names", [("in_features", "out_features"), ("nx", "nf")])
def test_a_module_with_size_attributes_has_a_known_layout(shape, names):
    model = Bare(weight_mu=shape, bias_mu=(7,))
    setattr(model, names[0], 20)
    setattr(model, names[1], 7)
    assert kinds(model) == {"weight_mu": "weight", "bias_mu": "vector"}
    assert fan_in_by_name(model) == {"weight_mu": 20, "bias_mu": 20}


def test_size_attributes_that_do_not_fit_are_ignored():
    model = Bare(down=(4, 20))
    model.in_features, model.out_features = 20, 7
    assert kinds(model) == {"down": "unknown"}


def test_matrices_that_a_subclass_adds_are_a_guess():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(20, 7)
            self.down = nn.Parameter(torch.zeros(3, 20))

    assert kinds(Adapted()) == {"weight": "weight", "bias": "vector", "down": "unknown"}


def test_a_bias_follows_the_given_fan_in_of_its_weight():
    model = Bare(weight=(20, 7), bias=(7,))
    found = layouts_by_name(model, given={model.weight: 20})
    assert (found["weight"].kind, found["weight"].fan_in) == ("weight", 20)
    assert found["bias"].fan_in == 20
    scale = Bare(log_std=(4,))
    assert layouts_by_name(scale, given={scale.log_std: 9})["log_std"].fan_in == 9


# ---- layers that are wrapped, tied or lazy ----------------------------------------------------------


@pytest.mark.parametrize("make", ["weight_norm", "spectral_norm", "orthogonal"])
@pytest.mark.parametrize(
    ("layer", "inputs"), [(lambda: nn.Linear(20, 8), 20), (lambda: Conv1D(8, 20), 20)]
)
def test_parametrized_layers_keep_their_layout(make, layer, inputs):
    layer = getattr(nn.utils.parametrizations, make)(layer())
    found = fan_in_by_name(layer)
    lengths = found.pop("parametrizations.weight.original0", None)
    assert lengths == (1 if make == "weight_norm" else None)
    assert set(found.values()) == {inputs}
    assert "unknown" not in kinds(layer).values()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_older_hooks_keep_the_layout():
    layer = nn.utils.weight_norm(nn.ConvTranspose1d(6, 4, 3))
    assert fan_in_by_name(layer) == {"bias": 18, "weight_g": 1, "weight_v": 18}  # 6 x 3 taps
    assert fan_in_by_name(nn.utils.spectral_norm(nn.Linear(20, 8)))["weight_orig"] == 20


def test_names_like_those_of_a_weight_norm_need_its_hook():
    assert fan_in_by_name(Bare(w_g=(20, 7), w_v=(20, 7))) == {"w_g": 7, "w_v": 7}


def test_parametrizations_are_not_run():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(20, 8))
    before = layer.parametrizations.weight[0]._u.clone()
    model_layouts(layer)
    assert torch.equal(layer.parametrizations.weight[0]._u, before)


def test_factors_of_another_parametrization_are_a_guess():
    class Product(nn.Module):
        def forward(self, left, right):
            return left @ right

        def right_inverse(self, weight):
            return weight[:, :2].clone(), weight[:2].clone()

    layer = nn.Linear(20, 8, bias=False)
    nn.utils.parametrize.register_parametrization(layer, "weight", Product())
    assert set(kinds(layer).values()) == {"unknown"}


def test_lazy_layers_are_refused():
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet.*run one batch"):
        model_layouts(nn.Sequential(nn.LazyLinear(4)))
    model = nn.Sequential(nn.LazyLinear(4))
    model(torch.zeros(1, 3))
    assert fan_in_by_name(model) == {"0.weight": 3, "0.bias": 3}


def test_the_bias_of_a_tied_layer_follows_the_weight():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert set(fan_in_by_name(nn.Sequential(first, second)).values()) == {4}


def test_biases_are_distinguished_from_other_vectors():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.LSTM(2, 2), nn.PReLU())
    biases = {name for name, each in layouts_by_name(model).items() if each.is_bias}
    assert biases == {"0.bias", "1.bias", "2.bias_ih_l0", "2.bias_hh_l0"}


# ---- bare lists -------------------------------------------------------------------------------------


def test_fan_in_by_hand():
    assert weight_fan_in(torch.empty(7, 5)) == 5
    assert weight_fan_in(torch.empty(8, 3, 5, 5)) == 75  # 3 channels x 5 x 5
    assert weight_fan_in(torch.empty(4)) is None
    assert weight_fan_in(torch.empty(())) is None


def test_vectors_in_a_flat_list_take_the_fan_in_of_the_weight_before():
    shapes = [(2,), (7, 5), (7,), (8, 3, 5, 5), (8,), (8,), ()]
    assert flat_fan_in(map(torch.empty, shapes)) == [0, 5, 5, 75, 75, 75, 75]
