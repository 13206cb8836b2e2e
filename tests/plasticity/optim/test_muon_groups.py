"""Tests of the split between Muon and AdamW, and of distinct anchors for all parameters."""

import logging

import pytest
import torch
from torch import nn

from plasticity import muon_parameter_groups, regularized

SYRE = {"regularizer": "syre", "strength": 0.1, "sigma": 0.3}


class Network(nn.Module):
    """Network with many kinds of layers; its output layer is neither the last one nor named like one."""

    def __init__(self):
        super().__init__()
        self.answer = nn.Linear(8, 3)
        self.embedding = nn.Embedding(20, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.convolution = nn.Conv1d(8, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.hidden = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)


def split_names(model, **settings):
    names = {p: n for n, p in model.named_parameters()}
    lists = muon_parameter_groups(model, **(SYRE | settings))
    every = [p for groups in lists for group in groups for p in group["params"]]
    assert sorted(map(id, every)) == sorted(map(id, model.parameters()))  # each exactly once
    return [[[names[p] for p in group["params"]] for group in groups] for groups in lists]


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    (muon,), (regularized_rest, alone) = split_names(Network(), adamw="answer.*")
    assert muon == [
        *("attention.in_proj_weight", "attention.out_proj.weight"),
        *("hidden.weight", "down.weight"),
    ]
    # in the order of named_parameters: a module's own parameters first
    assert regularized_rest == [
        *("pos_embed", "answer.weight", "answer.bias", "embedding.weight"),
        *("convolution.weight", "convolution.bias"),
        *("attention.in_proj_bias", "attention.out_proj.bias", "hidden.bias", "down.bias"),
    ]
    assert alone == ["norm.weight", "norm.bias"]


def test_muon_of_torch_takes_its_groups():
    matrices, _ = muon_parameter_groups(Network(), **SYRE)
    assert torch.optim.Muon([{"params": g["params"]} for g in matrices]).param_groups
    optimizer = regularized(torch.optim.Muon)(matrices, lr=0.02)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def test_positions_of_the_second_list_follow_those_of_the_first():
    muon, adamw = muon_parameter_groups(
        Network(), **SYRE, exclude=["hidden.weight"], adamw="answer.*"
    )
    counts = [len(group["params"]) for group in (*muon, *adamw)]
    assert counts == [3, 1, 10, 2]  # four matrices, one of them not regularized; then the others
    assert [group["anchor_position"] for group in adamw] == [4, 14]
    assert all("anchor_position" not in group for group in muon)  # they begin at 0, as usual


@pytest.mark.parametrize("last", ["head", "lm_head", "classifier", "score", "whatever"])
def test_the_output_layer_is_the_last_one_and_is_logged(last, caplog):
    model = nn.Sequential()
    for name in ("first", "second", last):
        model.add_module(name, nn.Linear(4, 4))
    with caplog.at_level(logging.INFO, logger="plasticity"):
        (muon,), (rest,) = split_names(model)
    assert muon == ["first.weight", "second.weight"]
    assert f"{last}.weight" in rest
    assert f"Output layers, for AdamW: {last}.weight." in caplog.text


def test_layers_named_like_an_output_are_found_at_any_position():
    model = nn.ModuleDict({"action_net": nn.Linear(4, 2), "a": nn.Linear(4, 4)})
    model["value_net"] = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))  # a trunk, and an output
    (muon,), _ = split_names(model)
    assert muon == ["a.weight", "value_net.0.weight"]


def test_a_tied_output_layer_leaves_all_hidden_ones_to_muon():
    model = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "hidden": nn.Linear(4, 4)})
    model["out"] = nn.Linear(4, 9, bias=False)
    model["out"].weight = model["embedding"].weight
    (muon,), (rest,) = split_names(model)
    assert muon == ["hidden.weight"]
    assert rest == ["embedding.weight", "hidden.bias"]


def test_a_final_embedding_is_not_an_output_layer():
    model = nn.ModuleDict({"hidden": nn.Linear(4, 4), "out": nn.Linear(4, 9)})
    model["positions"] = nn.Embedding(9, 4)
    (muon,), _ = split_names(model)
    assert muon == ["hidden.weight"]


def test_an_empty_list_means_no_output_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    (muon,), _ = split_names(model, adamw=[])
    assert muon == ["0.weight", "1.weight"]
    (muon,), _ = split_names(model, adamw="0.weight")
    assert muon == ["1.weight"]


def test_matrices_of_unknown_layout_go_to_adamw_unless_fan_in_is_given():
    model = nn.ModuleDict({"hidden": nn.Linear(4, 4), "out": nn.Linear(4, 4)})
    model["mix"] = nn.ParameterList([torch.zeros(4, 4)])
    (muon,), (rest,) = split_names(model)
    assert muon == ["hidden.weight"]
    assert "mix.0" in rest
    (muon,), _ = split_names(model, fan_in={"mix.0": 4}, adamw="out.*")
    assert muon == ["hidden.weight", "mix.0"]


def test_excluded_parameters_are_trained_by_the_matching_optimizer():
    muon, adamw = split_names(Network(), adamw="answer.*", exclude="hidden.*")
    assert muon[1] == ["hidden.weight"]
    assert "hidden.bias" in adamw[1]


def test_nothing_for_muon_is_an_error():
    with pytest.raises(ValueError, match=r"Linear has no hidden matrix for Muon, but 1 in output"):
        muon_parameter_groups(nn.Linear(4, 4), **SYRE)
    with pytest.raises(ValueError, match=r"adamw: 'heads\.\*' matches no parameter"):
        muon_parameter_groups(Network(), **SYRE, adamw="heads.*")


def test_the_two_optimizers_draw_no_anchor_twice():
    """Compare with one optimizer over the four layers in this order."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4)))
    matrices, others = muon_parameter_groups(model, **SYRE, anchor_seed=3, adamw=["2.*", "3.*"])
    muon = regularized(torch.optim.Muon)(matrices, lr=0.02)
    adamw = regularized(torch.optim.AdamW)(others, lr=1e-3)
    anchors = [muon.anchor(model[k].weight) for k in (0, 1)]
    anchors += [adamw.anchor(model[k].weight) for k in (2, 3)]
    whole = regularized(torch.optim.SGD)(model.parameters(), lr=0.1, anchor_seed=3, **SYRE)
    for layer, anchor in zip(model, anchors, strict=True):
        torch.testing.assert_close(anchor, whole.anchor(layer.weight))
    assert len({anchor.sum().item() for anchor in anchors}) == 4
