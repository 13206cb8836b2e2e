"""PEFT's LoRA: frozen weights have no anchors, and those of adapters are scaled by their own fan-in."""

import copy
import gc

import pytest
import torch
from torch import nn

from plasticity import Tracker, parameter_groups, regularized

peft = pytest.importorskip("peft")

SETTINGS = {"regularizer": "syre", "strength": 0.1, "sigma": 0.3, "anchor_seed": 3}
WIDTH, RANK = 512, 4


class Network(nn.Module):
    """Network with two hidden layers, a million weights that LoRA freezes, and a fully trained head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.third = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs):
        hidden = torch.relu(self.second(torch.relu(self.first(inputs))))
        return self.head(torch.relu(self.third(hidden)))


def lora():
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=RANK,
        target_modules=["second", "third"],
        modules_to_save=["head"],
        init_lora_weights=False,  # B is not zero, so the adapters affect measurements
    )
    return peft.get_peft_model(Network(), config)


def take_steps(model, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(16, 8, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), torch.arange(16) % 3).backward()
        optimizer.step()


def bytes_of_tensors():
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, nn.Parameter):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("grouped", [False, True], ids=["flat", "grouped"])
@pytest.mark.parametrize("regularizer", ["syre", "l2-init"])
def test_frozen_weights_cost_no_memory_and_do_not_change(grouped, regularizer):
    """Pass all parameters, as is common: those that need no gradient get no anchor."""
    model = lora()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert sum(each.nbytes for each in frozen.values()) > 50 * trained
    before = bytes_of_tensors()
    settings = SETTINGS | {"regularizer": regularizer}
    if grouped:
        optimizer = regularized(torch.optim.SGD)(parameter_groups(model, **settings), lr=0.01)
    else:
        optimizer = regularized(torch.optim.SGD)(model.parameters(), lr=0.01, **settings)
    take_steps(model, optimizer)
    # Gradients and anchors of trained parameters, and memory left over from a step.
    assert bytes_of_tensors() - before < 4 * trained
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])


def test_fan_in_of_the_adapters():
    """Check that A (rank, inputs) has the layer's inputs as fan-in, and B (outputs, rank) the rank."""
    model = lora()
    groups = parameter_groups(model, **SETTINGS)
    fan_in = {
        p: inputs
        for group in groups
        if group["regularizer"] == "syre"
        for p, inputs in zip(group["params"], group["fan_in"], strict=True)
    }
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 6  # A and B twice, and the head
    for name, parameter in trained.items():
        assert fan_in[parameter] == (RANK if "lora_B" in name else WIDTH), name
    optimizer = regularized(torch.optim.Adam)(groups, lr=1e-2)
    second = model.base_model.model.second
    # sigma / sqrt(fan-in): 0.3 / sqrt(512) and 0.3 / 2; standard error of 2048 normals: 1 / 64
    anchor = optimizer.anchor(second.lora_A["default"].weight)
    assert anchor.std().item() == pytest.approx(0.3 / 512**0.5, rel=5 / 64)
    anchor = optimizer.anchor(second.lora_B["default"].weight)
    assert anchor.std().item() == pytest.approx(0.15, rel=5 / 64)


def test_measuring_changes_neither_training_nor_merging():
    probe = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    merged = []
    for measured in (False, True):
        model = lora().train()
        tracker = Tracker(model, probe) if measured else None
        optimizer = regularized(torch.optim.Adam)(parameter_groups(model, **SETTINGS), lr=1e-2)
        for task in range(2):
            take_steps(model, optimizer)
            if tracker is not None:
                tracker.boundary(task=task)
        layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
        assert not any(layer.merged for layer in layers)
        merged.append(model.merge_and_unload())
    plain, seen = merged
    assert plain.state_dict().keys() == Network().state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(seen.state_dict()[key], value), key


def test_the_adapted_network_is_measured():
    """Check that measurements equal those of the merged network up to rounding, not the frozen one's."""
    probe = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    model = lora()
    found = Tracker(model, probe).measure()
    expected = Tracker(copy.deepcopy(model).merge_and_unload(), probe).measure()
    frozen = Tracker(model.get_base_model(), probe)
    with model.disable_adapter():
        frozen = frozen.measure()
    ranks = [key for key in expected if key.startswith("effective_rank/")]
    assert len(ranks) == 3
    for key in ranks:
        assert found[key] == pytest.approx(expected[key], rel=1e-4)
    assert any(abs(found[key] - frozen[key]) > 0.01 * frozen[key] for key in ranks)
