"""Lightning's callbacks: as attached by hand, continued from checkpoints, measured without a trace."""

import json

import pytest
import torch
from torch import nn

from plasticity.mitigations import ReDo, Syre
from plasticity.mitigations.attach import attach

lightning = pytest.importorskip("lightning", reason="Lightning is in the extra `lightning`")

from plasticity.integrations.lightning import MitigationCallback, TrackingCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
]

METHOD = ReDo(every=4, tau=0.6), Syre(strength=0.1, sigma=0.5)


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)).double()


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    data = torch.utils.data.TensorDataset(inputs, inputs.prod(dim=1, keepdim=True))
    return torch.utils.data.DataLoader(data, batch_size=8)  # three per epoch, in order


class Regression(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = make_network()

    def training_step(self, batch, _index):
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(module, folder, *callbacks, epochs, ckpt_path=None):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches(), ckpt_path=ckpt_path)
    return trainer


def assert_same(module, network):
    for name, each in network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], each), name


class Counts(lightning.Callback):
    """What was counted at the end of training, before the mitigations are detached."""

    def __init__(self, callback):
        self.callback = callback

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self.found = self.callback.attached.take_counts()


def test_equals_a_loop_by_hand(tmp_path):
    """Lightning gives each step a closure."""
    network = make_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    attached = attach(network, optimizer, *METHOD, seed=3)
    for _ in range(4):
        for inputs, targets in batches():
            optimizer.zero_grad()
            nn.functional.mse_loss(network(inputs), targets).backward()
            optimizer.step()
    module = Regression()
    callback = MitigationCallback(*METHOD, network="network", seed=3)
    counts = Counts(callback)
    fit(module, tmp_path, callback, counts, epochs=4)
    assert sum(counts.found.values()) > 0
    assert counts.found == attached.take_counts()
    assert_same(module, network)
    assert not any(each._forward_pre_hooks for each in module.modules())


def test_continues_exactly_from_a_checkpoint(tmp_path):
    """The checkpoint is after 6 steps, in the middle of the cadence of 4."""
    whole, callback = Regression(), MitigationCallback(*METHOD, network="network")
    fit(whole, tmp_path, callback, epochs=4)

    half, path = Regression(), tmp_path / "half.ckpt"
    callback = MitigationCallback(*METHOD, network="network")
    fit(half, tmp_path, callback, epochs=2).save_checkpoint(path, weights_only=False)
    resumed = Regression()
    with torch.no_grad():
        for each in resumed.parameters():
            each.mul_(0.5)
    callback = MitigationCallback(*METHOD, network="network")
    fit(resumed, tmp_path, callback, epochs=4, ckpt_path=path)
    assert_same(resumed, whole.network)


def test_tracking_does_not_change_training(tmp_path):
    plain, tracked = Regression(), Regression()
    fit(plain, tmp_path, epochs=4)
    probe = next(iter(batches()))[0]
    callback = TrackingCallback(probe, network="network", every=2, path=tmp_path / "rows.jsonl")
    fit(tracked, tmp_path, callback, epochs=4)
    assert_same(tracked, plain.network)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == [1, 3]
    with torch.no_grad():
        hidden = tracked.network[:2](probe)
    assert rows[-1]["dead_fraction/1"] == (hidden == 0).all(0).double().mean().item()


def test_module_without_calls_says_what_to_give(tmp_path):
    """The step of this module calls a part of it, and never itself."""
    with pytest.raises(RuntimeError, match=r"give attach\(…, inputs=…\)"):
        fit(Regression(), tmp_path, MitigationCallback(ReDo()), epochs=1)
