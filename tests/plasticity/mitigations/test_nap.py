import copy

import pytest
import torch
from networks_in_training import images
from torch import nn
from training_by_hooks import alone, learn

from plasticity.agents.networks import CNN, MLP
from plasticity.mitigations import NaP, SeededMethod, mitigation_names
from plasticity.mitigations.attach import attach

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = ("fc1.weight", "fc2.weight", "fc3.weight")


def network(method, settings=CNN(channels=(3,), hidden=(5,)), shape=(1, 8, 8)):  # noqa: B008
    torch.manual_seed(0)
    made = settings.make(shape, 3, (method,))
    SeededMethod((method,)).prepare(made)
    return made


def test_sums_are_normalized_and_have_no_biases():
    made = network(NaP())
    names = {name for name, _ in made.named_parameters()}
    assert "conv1.bias" not in names
    assert "fc1.bias" not in names
    assert {"fc2.bias", "conv1.normalization.weight", "fc1.normalization.bias"} <= names
    plain = {name for name, _ in network(NaP(affine=False)).named_parameters()}
    assert plain == {"conv1.weight", "fc1.weight", "fc2.weight", "fc2.bias"}
    assert made.initialization().keys() >= names


@pytest.mark.parametrize("settings", [CNN(channels=(3,), hidden=(5,)), MLP(hidden=(6, 5))])
def test_the_scale_of_hidden_weights_does_not_matter(settings):
    """So that a projection leaves the outputs alone, but for the epsilon of the normalizations."""
    made = network(NaP(epsilon=1e-12), settings)
    scaled = copy.deepcopy(made)
    with torch.no_grad():
        for name in made.hidden_layers:
            scaled.get_submodule(name).weight.mul_(3)
    torch.testing.assert_close(made(IMAGES), scaled(IMAGES), rtol=1e-4, atol=1e-5)


def test_weights_keep_their_norms_in_training():
    made = network(NaP(), MLP(hidden=(6, 5)), shape=(1, 3, 3)).double()
    first = {name: made.get_parameter(name).detach().clone() for name in WEIGHTS}
    learn(*alone(made, (NaP(),)), [images(seed=step).double() for step in range(3)])
    for name, before in first.items():
        now = made.get_parameter(name).detach()
        assert (now - before).norm() > 1e-3
        torch.testing.assert_close(now.norm(), before.norm())


def test_it_goes_with_no_other_normalization_or_projection():
    for other in ("layer-norm", "weight-clipping", "norm-projection"):
        with pytest.raises(ValueError, match=r"both set the (normalization|projection)"):
            mitigation_names(f"{other}+nap")


def test_it_cannot_be_attached():
    layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="nap changes the architecture"):
        attach(layer, torch.optim.SGD(layer.parameters(), lr=0.1), NaP())


@pytest.mark.parametrize(("field", "value"), [("every", 0), ("affine", 1), ("epsilon", 0.0)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        NaP(**{field: value})


def test_stacked_as_alone(stacked_as_alone):
    stacked_as_alone((NaP(),), (NaP(),))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    continues_exactly((NaP(every=2, rescale_affine=True),), stacked=stacked)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    ppo_continues_exactly((NaP(),))
