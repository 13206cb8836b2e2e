"""Log-probabilities, entropies and their gradients compared with torch.distributions and autograd."""

import pytest
import torch
from torch import distributions

from plasticity.agents.ppo.distributions import Categorical, Gaussian, distribution_of

LEADS = [(), (3,)]


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def both(lead, *, discrete):
    """Return outputs, actions, log_std, our distribution, and a function that makes torch's."""
    outputs = normal(*lead, 6, 4)
    if discrete:
        actions = torch.randint(4, (*lead, 6), generator=torch.Generator().manual_seed(1))
        return (
            outputs,
            actions,
            None,
            Categorical(),
            lambda o, _: distributions.Categorical(logits=o),
        )
    log_std = normal(*lead, 4, seed=2).requires_grad_()

    def make(outputs, log_std):
        scale = log_std.exp().unsqueeze(-2).expand_as(outputs)
        return distributions.Independent(distributions.Normal(outputs, scale), 1)

    return outputs, normal(*lead, 6, 4, seed=1), log_std, Gaussian(log_std), make


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("discrete", [False, True])
def test_log_probabilities_and_entropy(lead, discrete):
    outputs, actions, log_std, ours, make = both(lead, discrete=discrete)
    theirs = make(outputs, log_std)
    found = ours.log_probabilities(outputs, actions)
    torch.testing.assert_close(found, theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(outputs), theirs.entropy().mean(-1))


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("discrete", [False, True])
def test_gradient_equals_autograd(lead, discrete, entropy_coefficient):
    outputs, actions, log_std, ours, make = both(lead, discrete=discrete)
    old, weights = normal(*lead, 6, seed=3), normal(*lead, 6, seed=4)
    out = torch.empty_like(old)
    with torch.no_grad():
        assert ours.log_ratios(outputs, actions, old, out) is out
        found = ours.gradient(weights.clone(), entropy_coefficient)
    outputs.requires_grad_()
    theirs = make(outputs, log_std)
    log_probabilities = theirs.log_prob(actions)
    torch.testing.assert_close(out, (log_probabilities - old).detach())
    entropies = theirs.entropy().mean(-1)
    loss = (weights * log_probabilities).sum() - entropy_coefficient * entropies.sum()
    wanted = torch.autograd.grad(
        loss, [outputs, *([] if discrete else [log_std])], allow_unused=True
    )
    torch.testing.assert_close(found, wanted[0])
    if not discrete:
        torch.testing.assert_close(log_std.grad, wanted[1])


def test_a_policy_without_log_std_is_discrete():
    assert isinstance(distribution_of(None), Categorical)
    assert isinstance(distribution_of(torch.zeros(2)), Gaussian)
