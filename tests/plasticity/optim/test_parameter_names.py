"""Tests of the names of tied and wrapped parameters, and of patterns without a match."""

import pytest
import torch
from torch import nn

from plasticity.optim.parameter_names import matching_parameters, parameter_names, pattern_list


def tied():
    model = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3, bias=False)})
    model["decoder"].weight = model["encoder"].weight
    return model


def test_a_tied_parameter_has_all_its_names():
    assert list(parameter_names(tied()).values()) == [
        ["encoder.weight", "decoder.weight"],
        ["encoder.bias"],
    ]


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: nn.DataParallel(nn.DataParallel(model)),
        compiled,
        lambda model: compiled(nn.DataParallel(model)),
    ],
)
def test_names_inside_a_wrapped_model_come_first(wrap):
    model = nn.Sequential(nn.Linear(2, 2))
    wrapped = wrap(model)
    (weight, bias) = parameter_names(wrapped).values()
    assert (weight[0], bias[0]) == ("0.weight", "0.bias")
    assert weight[-1] == next(iter(dict(wrapped.named_parameters())))


def test_a_compiled_layer_inside_a_data_parallel_model():
    model = nn.DataParallel(nn.Sequential(compiled(nn.Linear(2, 2))))
    assert parameter_names(model)[model.module[0].weight][0] == "0.weight"


def test_a_submodule_called_module_is_not_a_wrapper():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    assert next(iter(parameter_names(Net()).values())) == ["module.weight"]


def test_patterns_match_whole_names():
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "heads": nn.Linear(2, 2)})
    names = parameter_names(model)

    def found(pattern):
        return [names[p][0] for p in matching_parameters("exclude", pattern, names)]

    assert found("head.*") == ["head.weight", "head.bias"]
    assert found("*.bias") == ["head.bias", "heads.bias"]
    assert found("head*") == ["head.weight", "head.bias", "heads.weight", "heads.bias"]


def test_a_pattern_without_a_match_names_the_nearest():
    with pytest.raises(ValueError, match=r"exclude: 'encodr\.weight' .*'encoder\.weight'"):
        matching_parameters("exclude", "encodr.weight", parameter_names(tied()))
    with pytest.raises(ValueError, match=r"'zzz' matches no parameter.*'encoder\.weight'"):
        matching_parameters("exclude", "zzz", parameter_names(tied()))


def test_one_string_is_one_pattern():
    assert pattern_list("exclude", "*.bias") == ["*.bias"]
    assert pattern_list("exclude", ("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError, match=r"exclude takes patterns of parameter names.*not 3"):
        pattern_list("exclude", ["a", 3])
