"""Accelerate: `prepare`, accumulation, mixed precision, saved states, different seeds in processes."""

import pytest
import torch
from torch import nn

import plasticity
from plasticity import parameter_groups, regularized

accelerate = pytest.importorskip("accelerate")

LR, STRENGTH, CLIP = 1e-2, 0.1, 0.5


@pytest.fixture(autouse=True)
def _fresh_state():
    """Reset the state of the process, which Accelerate keeps in a class."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1)).to(dtype)


def batches(dtype=torch.float64, size=4):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    targets = inputs.prod(dim=1, keepdim=True)
    data = torch.utils.data.TensorDataset(inputs.to(dtype), targets.to(dtype))
    return torch.utils.data.DataLoader(data, batch_size=size)


def make(model, base=torch.optim.Adam, **settings):
    settings = {"regularizer": "syre", "strength": STRENGTH, "sigma": 0.3} | settings
    return regularized(base)(parameter_groups(model, **settings), lr=LR)


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def train(accelerator, model, optimizer, loader, passes=2):
    for _ in range(passes):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()


def test_the_decay_is_added_once_to_accumulated_gradients():
    """Compare two batches of 4 per step with batches of 8 by hand: one clipping and one decay per step."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    start = network()
    model, optimizer, loader = accelerator.prepare(start, make(start), batches())
    train(accelerator, model, optimizer, loader)

    anchors = [plasticity.anchor(optimizer, p) for p in start.parameters()]
    assert [anchor is None for anchor in anchors] == [False, False, True, True, False, False]
    by_hand = network()
    base = torch.optim.Adam(by_hand.parameters(), lr=LR)
    for inputs, targets in [*batches(size=8)] * 2:
        base.zero_grad()
        nn.functional.mse_loss(by_hand(inputs), targets).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), CLIP)
        for parameter, anchor in zip(by_hand.parameters(), anchors, strict=True):
            if anchor is not None:
                parameter.grad += STRENGTH * (parameter.detach() - anchor)
        base.step()
    torch.testing.assert_close(weights(start), weights(by_hand), rtol=0, atol=1e-12)


def test_anchor_of_a_prepared_optimizer():
    """Check that the anchor is accessible although the wrapper hides the class."""
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = make(model)
    prepared = accelerator.prepare(optimizer)
    assert prepared is not optimizer
    for parameter in model.parameters():
        expected = optimizer.anchor(parameter)
        found = plasticity.anchor(prepared, parameter)
        assert (found is None) == (expected is None)
        assert found is None or torch.equal(found, expected)


def test_mixed_precision_on_the_cpu():
    """Run the forward pass in bfloat16, with weights, gradients, anchors and the step in float32."""
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    start = network(torch.float32)
    model, optimizer, loader = accelerator.prepare(start, make(start), batches(torch.float32))
    train(accelerator, model, optimizer, loader)
    anchors = [plasticity.anchor(optimizer, p) for p in start.parameters()]
    assert {anchor.dtype for anchor in anchors if anchor is not None} == {torch.float32}

    by_hand = network(torch.float32)
    base = torch.optim.Adam(by_hand.parameters(), lr=LR)
    for inputs, targets in [*batches(torch.float32)] * 2:
        base.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = by_hand(inputs)
        nn.functional.mse_loss(output.float(), targets).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), CLIP)
        for parameter, anchor in zip(by_hand.parameters(), anchors, strict=True):
            if anchor is not None:
                parameter.grad += STRENGTH * (parameter.detach() - anchor)
        base.step()
    # If the two roundings of the decay move a weight to the next bfloat16 number, it differs by 1/256 in
    # the forward pass, and so does a gradient; after eight steps of 0.01 the effect is less than 1e-3.
    torch.testing.assert_close(weights(start), weights(by_hand), rtol=0, atol=1e-3)
    assert (weights(start) - weights(network(torch.float32))).abs().max() > 0.02


@pytest.mark.parametrize("regularizer", ["weight-decay", "syre", "l2-init"])
def test_a_saved_state_resumes_exactly(tmp_path, regularizer):
    whole = network()
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(
        whole, make(whole, regularizer=regularizer), batches()
    )
    train(accelerator, model, optimizer, loader, passes=1)
    accelerator.save_state(tmp_path / "half")
    train(accelerator, model, optimizer, loader, passes=1)

    resumed = network()
    with torch.no_grad():  # start with different weights and a different seed
        for parameter in resumed.parameters():
            parameter.mul_(0.5)
    torch.manual_seed(5)
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(
        resumed, make(resumed, regularizer=regularizer), batches()
    )
    accelerator.load_state(tmp_path / "half")
    train(accelerator, model, optimizer, loader, passes=1)
    assert torch.equal(weights(resumed), weights(whole))


def device_specific_seeds(_rank):
    accelerator = accelerate.Accelerator(cpu=True)
    start = network()
    accelerate.utils.set_seed(10, device_specific=True)
    seed = torch.initial_seed()
    model, optimizer, loader = accelerator.prepare(start, make(start), batches())
    train(accelerator, model, optimizer, loader)
    anchors = [plasticity.anchor(optimizer, p) for p in start.parameters()]
    return {"seed": seed, "anchors": anchors, "weights": weights(start)}


def test_two_processes_with_different_seeds_have_the_same_anchors(two_ranks):
    first, second = two_ranks(device_specific_seeds)
    assert [first["seed"], second["seed"]] == [10, 11]
    for one, other in zip(first["anchors"], second["anchors"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert torch.equal(first["weights"], second["weights"])
