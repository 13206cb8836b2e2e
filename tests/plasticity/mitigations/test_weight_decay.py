import pytest
import torch

from plasticity import regularized
from plasticity.mitigations import WeightDecay, regularizer_settings


@pytest.mark.parametrize("decoupled", [None, True, False])
def test_it_is_torchs_weight_decay(decoupled):
    """Adam decays jointly with the gradient, AdamW apart from it; None is Adam's own way."""
    settings = regularizer_settings((WeightDecay(strength=0.1, decoupled=decoupled),), 0)
    base = torch.optim.AdamW if decoupled else torch.optim.Adam
    weights = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizers = [
        regularized(torch.optim.Adam)([weights[0]], lr=0.1, **vars(settings)),
        base([weights[1]], lr=0.1, weight_decay=0.1),
    ]
    for weight, optimizer in zip(weights, optimizers, strict=True):
        weight.grad = torch.tensor([1.0, -1.0, 0.5])
        optimizer.step()
    torch.testing.assert_close(*weights, rtol=0, atol=1e-7)


def test_a_wrong_strength_is_refused():
    with pytest.raises(ValueError, match="strength"):
        WeightDecay(strength=-1.0)
