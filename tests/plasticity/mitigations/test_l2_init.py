import pytest
import torch

from plasticity import regularized
from plasticity.mitigations import L2Init, regularizer_settings


def test_it_decays_toward_the_initial_weights():
    settings = regularizer_settings((L2Init(strength=0.5),), 0)
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = regularized(torch.optim.SGD)([weight], lr=0.1, **vars(settings))
    with torch.no_grad():
        weight += 1
    weight.grad = torch.zeros(2)
    optimizer.step()
    # 1 above its anchor: a step of 0.1 * 0.5 * 1 back
    torch.testing.assert_close(weight.detach(), torch.tensor([1.95, 2.95]))


def test_a_wrong_strength_is_refused():
    with pytest.raises(ValueError, match="strength"):
        L2Init(strength=-1.0)
