"""The Trainer's callbacks: as attached by hand, continued from checkpoints, measured without a trace."""

import json

import pytest
import torch
from torch import nn

from plasticity.mitigations import ReDo, Syre
from plasticity.mitigations.attach import attach

transformers = pytest.importorskip(
    "transformers", reason="transformers is in the extra `transformers`"
)
pytest.importorskip("accelerate", reason="Trainer needs it")

from plasticity.integrations.hugging_face import MitigationCallback, TrackingCallback  # noqa: E402

METHOD = ReDo(every=2, tau=0.6), Syre(strength=0.1, sigma=0.5)


class Network(nn.Module):
    """Model with the Trainer's calling convention: inputs by name, and the loss among its outputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, inputs, labels=None):
        outputs = self.body(inputs)
        if labels is None:
            return {"outputs": outputs}
        return {"loss": nn.functional.mse_loss(outputs, labels), "outputs": outputs}


def make_network():
    torch.manual_seed(0)
    return Network().double()


def examples():
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [{"inputs": each, "labels": each.prod().view(1)} for each in inputs]


def batch():
    return {key: torch.stack([each[key] for each in examples()]) for key in ("inputs", "labels")}


def train(folder, model, *callbacks, steps, **arguments):
    settings = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,  # all of them: in float64, their order does not matter
        learning_rate=1e-2,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        save_strategy="steps",
        save_steps=3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(
        model, settings, train_dataset=examples(), callbacks=list(callbacks)
    )
    trainer.train(**arguments)
    return model


def assert_same(model, other, **tolerance):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), **tolerance)


def test_equals_a_loop_by_hand(tmp_path):
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    attached = attach(network, optimizer, *METHOD, seed=3)
    for _ in range(5):
        optimizer.zero_grad()
        network(**batch())["loss"].backward()
        optimizer.step()
    assert sum(attached.take_counts().values()) > 0
    callback = MitigationCallback(*METHOD, seed=3)
    own = train(tmp_path, make_network(), callback, steps=5)
    assert_same(own, network, rtol=0, atol=1e-9)
    assert not any(each._forward_pre_hooks for each in own.modules())


def test_continues_exactly_from_a_checkpoint(tmp_path):
    """The checkpoint is after 3 steps, in the middle of the cadence of 2."""
    whole = train(tmp_path / "whole", make_network(), MitigationCallback(*METHOD), steps=6)
    train(tmp_path / "half", make_network(), MitigationCallback(*METHOD), steps=3)
    other = make_network()
    with torch.no_grad():
        for each in other.parameters():
            each.mul_(0.5)
    callback = MitigationCallback(*METHOD)
    train(tmp_path / "half", other, callback, steps=6, resume_from_checkpoint=True)
    assert_same(other, whole, rtol=0, atol=0)


def test_checkpoint_of_another_folder_and_without_a_state(tmp_path):
    whole = train(tmp_path / "whole", make_network(), MitigationCallback(*METHOD), steps=6)
    train(tmp_path / "half", make_network(), MitigationCallback(*METHOD), steps=3)
    folder = tmp_path / "half" / "checkpoint-3"
    resumed = {"steps": 6, "resume_from_checkpoint": str(folder)}
    callback, model = MitigationCallback(*METHOD), make_network()
    with pytest.raises(FileNotFoundError, match=r"give checkpoint=, its folder"):
        train(tmp_path / "a", model, callback, **resumed)
    callback = MitigationCallback(*METHOD, checkpoint=folder)
    own = make_network()
    train(tmp_path / "b", own, callback, **resumed)
    assert_same(own, whole, rtol=0, atol=0)


def test_tracking_does_not_change_training(tmp_path):
    plain = train(tmp_path / "plain", make_network(), steps=6)
    path = tmp_path / "rows.jsonl"

    def tracking():
        metrics = ["dead_fraction", "update_norm"]
        return TrackingCallback(batch()["inputs"], every=2, metrics=metrics, path=path)

    tracked = train(tmp_path / "own", make_network(), tracking(), steps=6)
    assert_same(tracked, plain, rtol=0, atol=0)
    whole = path.read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["task"] for row in rows] == [2, 4, 6]
    with torch.no_grad():
        hidden = tracked.body[:2](batch()["inputs"])
    assert rows[-1]["dead_fraction/body.1"] == (hidden == 0).all(0).double().mean().item()
    # from the checkpoint after 3 steps, with the weights that the row of step 2 measured
    again = train(
        tmp_path / "own",
        make_network(),
        tracking(),
        steps=6,
        resume_from_checkpoint=str(tmp_path / "own" / "checkpoint-3"),
    )
    assert_same(again, plain, rtol=0, atol=0)
    assert path.read_text() == whole
