"""timm's parameter groups, learning-rate scales and schedulers."""

import pytest
import torch
from torch import nn

from plasticity import regularized

timm = pytest.importorskip("timm")
timm_optim = pytest.importorskip("timm.optim")
timm_scheduler = pytest.importorskip("timm.scheduler")

LR, STRENGTH = 1e-2, 0.1
SYRE = {"lr": LR, "regularizer": "syre", "strength": STRENGTH, "sigma": 0.3, "anchor_seed": 3}


def vision_transformer():
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3
    ).double()


def take_steps(model, optimizer, each_step=lambda number: None, steps=3):
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(6) % 3).backward()
        optimizer.step()
        each_step(number)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("base", ["SGD", "Adam", "AdamW"])
def test_groups_without_weight_decay_are_left_alone(base):
    """Check that sigma 0 equals the base with timm's groups bit for bit; syre decays the same parameters."""
    ours, theirs = vision_transformer(), vision_transformer()
    groups = timm_optim.param_groups_weight_decay(theirs, weight_decay=STRENGTH)
    plain = getattr(torch.optim, base)(groups, lr=LR)
    groups = timm_optim.param_groups_weight_decay(ours, weight_decay=STRENGTH)
    optimizer = regularized(getattr(torch.optim, base))(groups, **SYRE | {"sigma": 0.0})
    for model, each in ((theirs, plain), (ours, optimizer)):
        take_steps(model, each)
    assert all(map(torch.equal, weights(ours), weights(theirs)))

    model = vision_transformer()
    groups = timm_optim.param_groups_weight_decay(model, weight_decay=STRENGTH)
    optimizer = regularized(getattr(torch.optim, base))(groups, **SYRE)
    for parameter in model.parameters():
        assert (optimizer.anchor(parameter) is None) == (parameter.dim() < 2)


def test_layer_decay_and_a_scheduler_of_timm():
    """Use groups with `lr_scale`, by which the scheduler sets each group's learning rate."""
    ours, theirs = vision_transformer(), vision_transformer()
    made = []
    for model, make in (
        (theirs, lambda groups: torch.optim.AdamW(groups, lr=LR)),
        (ours, lambda groups: regularized(torch.optim.AdamW)(groups, **SYRE | {"sigma": 0.0})),
    ):
        groups = timm_optim.param_groups_layer_decay(model, weight_decay=STRENGTH, layer_decay=0.5)
        optimizer = make(groups)
        schedule = timm_scheduler.CosineLRScheduler(optimizer, t_initial=4)
        take_steps(model, optimizer, lambda number, s=schedule: s.step(number + 1))
        made.append(optimizer)
    scales = [group["lr_scale"] for group in made[1].param_groups]
    assert len(set(scales)) == 4  # embedding, two blocks, head: 1/8 to 1
    after = LR * 0.5 * (1 + torch.cos(torch.tensor(0.75 * torch.pi)).item())
    for group, scale in zip(made[1].param_groups, scales, strict=True):
        assert group["lr"] == pytest.approx(after * scale, rel=1e-6)
    assert all(map(torch.equal, weights(ours), weights(theirs)))


def test_fallback_groups():
    """Use `use_fallback` of timm's Muon, an unknown key that is passed on."""
    model = vision_transformer()
    groups = timm_optim.param_groups_weight_decay(
        model, weight_decay=STRENGTH, fallback_list=["head*"]
    )
    optimizer = regularized(torch.optim.AdamW)(groups, **SYRE)
    take_steps(model, optimizer)
    flags = [group.get("use_fallback", False) for group in optimizer.param_groups]
    assert flags == [False, False, True, True]
    optimizer.load_state_dict(optimizer.state_dict())
    assert [g.get("use_fallback", False) for g in optimizer.param_groups] == flags
