"""Lightning: `configure_optimizers`, clipping, checkpoints, and measuring in a hook."""

import pytest
import torch
from torch import nn

from plasticity import Tracker, effective_rank, parameter_groups, regularized

lightning = pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
]

LR, STRENGTH, CLIP = 1e-2, 0.1, 0.5
SETTINGS = {"strength": STRENGTH, "sigma": 0.3}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1)).double()


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    data = torch.utils.data.TensorDataset(inputs, inputs.prod(dim=1, keepdim=True))
    return torch.utils.data.DataLoader(data, batch_size=8)  # three per pass, in order


class Regression(lightning.LightningModule):
    def __init__(self, regularizer="syre", probe=None):
        super().__init__()
        self.network = network()
        self.regularizer = regularizer
        self.probe = probe
        self.tracker = None

    def training_step(self, batch, _index):
        inputs, targets = batch
        return nn.functional.mse_loss(self.network(inputs), targets)

    def configure_optimizers(self):
        groups = parameter_groups(self.network, regularizer=self.regularizer, **SETTINGS)
        optimizer = regularized(torch.optim.Adam)(groups, lr=LR)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}  # at the end of each pass

    def on_train_epoch_end(self):
        if self.probe is None:
            return
        if self.tracker is None:
            self.tracker = Tracker(self.network, self.probe)
        self.tracker.boundary(task=self.current_epoch)


def fit(module, folder, *, epochs, ckpt_path=None, callbacks=(), precision="64-true"):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=CLIP,
        precision=precision,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches(), ckpt_path=ckpt_path)
    return trainer


def weights(module):
    return nn.utils.parameters_to_vector(module.network.parameters()).detach().clone()


def by_hand(anchors, strengths, clip):
    """Train with coupled Adam and the decay written out, with a strength for each pass."""
    model = network()
    base = torch.optim.Adam(model.parameters(), lr=LR)
    for epoch, strength in enumerate(strengths):
        base.param_groups[0]["lr"] = LR * 0.5**epoch
        for inputs, targets in batches():
            base.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            for parameter, anchor in zip(model.parameters(), anchors, strict=True):
                if anchor is not None:
                    parameter.grad += strength * (parameter.detach() - anchor)
            base.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_equals_a_loop_by_hand(tmp_path):
    """Check that clipping comes before the decay, which is coupled here and passes through Adam."""
    module = Regression()
    trainer = fit(module, tmp_path, epochs=2)
    (optimizer,) = trainer.optimizers
    anchors = [optimizer.anchor(p) for p in module.network.parameters()]
    assert [anchor is None for anchor in anchors] == [False, False, True, True, False, False]
    expected = by_hand(anchors, [STRENGTH, STRENGTH], CLIP)
    torch.testing.assert_close(weights(module), expected, rtol=0, atol=1e-12)


def test_a_callback_may_edit_the_strength(tmp_path):
    class Anneal(lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                for group in trainer.optimizers[0].param_groups:
                    group["strength"] = 0.0

    module = Regression()
    trainer = fit(module, tmp_path, epochs=2, callbacks=[Anneal()])
    (optimizer,) = trainer.optimizers
    anchors = [optimizer.anchor(p) for p in module.network.parameters()]
    expected = by_hand(anchors, [STRENGTH, 0.0], CLIP)
    torch.testing.assert_close(weights(module), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("regularizer", ["weight-decay", "syre", "l2-init"])
def test_resuming_from_a_checkpoint_is_exact(tmp_path, regularizer):
    whole = Regression(regularizer)
    fit(whole, tmp_path, epochs=4)

    half = Regression(regularizer)
    path = tmp_path / "half.ckpt"
    fit(half, tmp_path, epochs=2).save_checkpoint(path)

    resumed = Regression(regularizer)
    with torch.no_grad():  # start with different weights and a different seed
        for parameter in resumed.parameters():
            parameter.mul_(0.5)
    torch.manual_seed(5)
    fit(resumed, tmp_path, epochs=4, ckpt_path=path)
    assert torch.equal(weights(resumed), weights(whole))


def test_measuring_in_a_hook_does_not_change_training(tmp_path):
    plain = Regression()
    fit(plain, tmp_path, epochs=3)
    (inputs, _), *_ = batches()
    measured = Regression(probe=inputs)
    fit(measured, tmp_path, epochs=3)
    assert torch.equal(weights(measured), weights(plain))
    rows = measured.tracker.rows
    assert [row["task"] for row in rows] == [0, 1, 2]
    with torch.no_grad():  # the last row describes the present network
        hidden = measured.network[:3](inputs)
    assert rows[-1]["dead_fraction/2"] == (hidden == 0).all(dim=0).double().mean().item()
    assert rows[-1]["effective_rank/2"] == pytest.approx(effective_rank(hidden).item(), rel=1e-9)


def test_measuring_under_mixed_precision(tmp_path):
    """Run the forward pass in bfloat16, with anchors and measurements in the weights' float32."""

    class Mixed(Regression):
        def __init__(self, probe=None):
            super().__init__(probe=probe)
            self.network.float()

        def training_step(self, batch, index):
            return super().training_step([each.float() for each in batch], index)

    (inputs, _), *_ = batches()
    plain, measured = Mixed(), Mixed(probe=inputs.float())
    for module in (plain, measured):
        fit(module, tmp_path, epochs=2, precision="bf16-mixed")
    assert torch.equal(weights(measured), weights(plain))
    with torch.no_grad():
        hidden = measured.network[:3](inputs.float())
    found = measured.tracker.rows[-1]["effective_rank/2"]
    assert found == pytest.approx(effective_rank(hidden).item(), rel=1e-5)
