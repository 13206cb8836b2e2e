from torch import nn

from plasticity.mitigations.parameter_roles import parameter_roles
from plasticity.mitigations.whole_layers import layer_groups


def groups_of(model, outputs):
    return [
        sorted({name.rpartition(".")[0] for name in group})
        for group in layer_groups(parameter_roles(model, outputs))
    ]


def test_normalizations_go_with_the_layer_before_them():
    model = nn.Sequential(
        nn.LayerNorm(4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 2)
    )
    assert groups_of(model, {"4"}) == [["0", "1", "2"], ["3"], ["4"]]


def test_output_layers_are_the_last_wherever_they_stand():
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("policy", "fc", "value")})
    assert groups_of(model, {"policy", "value"}) == [["fc"], ["policy", "value"]]


def test_a_network_may_be_its_output_alone():
    assert groups_of(nn.Sequential(nn.Linear(2, 2)), {"0"}) == [["0"]]


def test_without_any_layer_there_is_no_group():
    assert groups_of(nn.LayerNorm(3), set()) == []
