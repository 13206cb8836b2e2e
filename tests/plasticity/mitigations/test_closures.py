"""Steps with a closure equal those without one; a closure that is evaluated twice is refused."""

import pytest
import torch
from torch import nn

from plasticity.mitigations import ReDo, Syre
from plasticity.mitigations.attach import attach
from plasticity.optim import regularized

METHOD = ReDo(every=3, tau=0.5), Syre(strength=0.1, sigma=0.5)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))


def train(kind, give, method, steps=7):
    """Train with the gradients before the step (`give` is None), or in a closure."""
    model = make_model()
    optimizer = kind(model.parameters(), lr=0.01)
    handles = [attach(model, optimizer, each) for each in method]
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        inputs = torch.randn(8, 5, generator=generator)

        def closure(inputs=inputs):
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            return loss

        if give is None:
            losses.append(closure())
            optimizer.step()
        else:
            losses.append(give(optimizer, closure))
    return model, losses, [each.take_counts() for each in handles]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, regularized(torch.optim.Adam)])
@pytest.mark.parametrize(
    "give",
    [
        lambda optimizer, closure: optimizer.step(closure),
        lambda optimizer, closure: optimizer.step(closure=closure),
    ],
)
def test_closure_equals_gradients_before_the_step(kind, give):
    """Both mitigations have a handle of their own, of which each gets the closure."""
    plain, losses, counts = train(kind, None, METHOD)
    own, own_losses, own_counts = train(kind, give, METHOD)
    assert sum(counts[0].values()) > 0
    assert own_counts == counts
    for name, each in plain.state_dict().items():
        assert torch.equal(own.state_dict()[name], each), name
    torch.testing.assert_close(own_losses, losses, rtol=0, atol=0)


class Twice(torch.optim.SGD):
    """Optimizer that evaluates its closure twice, like those that look ahead."""

    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        return super().step(closure)


def test_optimizer_that_evaluates_it_twice_is_refused():
    with pytest.raises(RuntimeError, match=r"Twice evaluates its closure several times"):
        train(Twice, lambda optimizer, closure: optimizer.step(closure), METHOD[:1], steps=1)
