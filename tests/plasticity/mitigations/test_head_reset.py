import pytest
import torch
from networks_in_training import Training

from plasticity.mitigations import HeadReset

HEAD = ("head.weight", "head.bias")


@pytest.mark.parametrize("values", ["fresh", "zero"])
def test_only_the_output_layer_is_reset_with_its_moments(values):
    run = Training((HeadReset(values=values),)).train(5)
    before = run.everything()
    run.hooks.boundary(1, [0])
    after = run.everything()
    for name, each in after.items():
        if name.split("/")[0] not in HEAD:
            assert torch.equal(each, before[name]), name
        elif "/" in name or values == "zero":
            assert not each.any()
        else:
            assert (each != before[name]).all()
            assert each.abs().max() <= 5**-0.5
    run.train(1)
    assert not torch.equal(run.everything()["head.weight"], after["head.weight"])  # it learns


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="Unknown values 'ones'"):
        HeadReset(values="ones")


@pytest.mark.parametrize("values", ["fresh", "zero"])
def test_all_forms_agree(trains_alike, values):
    trains_alike(*[(HeadReset(values=values, every=3),)] * 2)
