"""Query and key matrices by their names in torchvision, timm and Hugging Face."""

import pytest
import torch
from torch import nn

from plasticity.symmetry.attention_weights import query_key_weights

WIDTH = 6


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("encoder.layers.encoder_layer_0.self_attention", "in_proj_weight"),  # torchvision
        ("blocks.0.attn", "qkv.weight"),  # timm
    ],
)
def test_fused_matrices(prefix, name):
    weight = drawn(3 * WIDTH, WIDTH)
    state = {
        "head.weight": drawn(2, WIDTH),
        f"{prefix}.{name}": weight,
        f"{prefix}.{name.replace('weight', 'bias')}": drawn(3 * WIDTH),
    }
    ((found, (query, key)),) = query_key_weights(state).items()
    assert found == prefix
    assert torch.equal(query, weight[:WIDTH])
    assert torch.equal(key, weight[WIDTH : 2 * WIDTH])


@pytest.mark.parametrize(
    ("prefix", "query", "key"),
    [
        ("vit.encoder.layer.3.attention.attention", "query", "key"),  # ViT, DeiT, DINOv2
        ("vision_model.encoder.layers.3.self_attn", "q_proj", "k_proj"),  # CLIP, SigLIP
        ("encoder.block.3.layer.0.SelfAttention", "q", "k"),  # T5
    ],
)
def test_separate_matrices(prefix, query, key):
    state = {
        f"{prefix}.{key}.weight": drawn(WIDTH, WIDTH),
        f"{prefix}.{query}.weight": drawn(WIDTH, WIDTH + 1),
        f"{prefix}.{query}.bias": drawn(WIDTH),
    }
    found = query_key_weights(state)
    assert list(found) == [prefix]
    assert found[prefix][0] is state[f"{prefix}.{query}.weight"]
    assert found[prefix][1] is state[f"{prefix}.{key}.weight"]


def test_one_attention_of_torch():
    module = nn.MultiheadAttention(WIDTH, 2)
    ((name, (query, _)),) = query_key_weights(module.state_dict()).items()
    assert name == ""
    assert torch.equal(query, module.in_proj_weight[:WIDTH])


def test_states_that_cannot_be_read():
    with pytest.raises(
        ValueError, match=r"no attention with names .* first names: fc.weight, fc.bias"
    ):
        query_key_weights(nn.Sequential().state_dict() | {"fc.weight": drawn(2, 2), "fc.bias": 0})
    with pytest.raises(
        ValueError, match=r"queries 'a.q_proj.weight' without the keys 'a.k_proj.weig"
    ):
        query_key_weights({"a.q_proj.weight": drawn(2, 2)})
    with pytest.raises(
        ValueError, match=r"has shape \(10, 4\), which are not queries, keys and val"
    ):
        query_key_weights({"a.qkv.weight": drawn(10, 4)})
