"""Widths, units and outputs by hand."""

import pytest
import torch

from plasticity.network_spec import LayerSpec, NetworkSpec

TWO = (torch.sin, torch.cos)


@pytest.mark.parametrize(
    ("spec", "width", "units", "outputs"),
    [
        (LayerSpec(), 5, 5, 5),
        (LayerSpec(activations=TWO), 6, 3, 6),  # the width counts outputs: half the units
        (LayerSpec(activations=TWO, keep_units=True), 5, 5, 10),
    ],
)
def test_units_and_outputs_of_a_width(spec, width, units, outputs):
    assert (spec.units(width), spec.outputs(width)) == (units, outputs)


def test_an_odd_width_cannot_be_shared():
    with pytest.raises(ValueError, match="width 7 cannot be shared by 2 activations: give a mult"):
        LayerSpec(activations=TWO).units(7)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LayerSpec(activations=()), ValueError, "at least one activation"),
        (lambda: LayerSpec(activations=("relu",)), TypeError, "'relu' cannot be called"),
        (lambda: LayerSpec(normalization="layer"), TypeError, "'layer' cannot be called"),
        (lambda: LayerSpec(noise=0.5), TypeError, "0.5 cannot be called"),
        (lambda: NetworkSpec(input_shape=(0,), output_size=1), ValueError, "input_shape must be"),
        (lambda: NetworkSpec(input_shape=(3,), output_size=0), ValueError, "output_size must be"),
    ],
)
def test_wrong_specs(make, error, message):
    with pytest.raises(error, match=message):
        make()
