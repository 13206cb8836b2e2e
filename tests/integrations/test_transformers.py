"""Hugging Face's Trainer: groups, clipping and checkpoints, with a BERT of 20,000 parameters."""

import copy
import itertools

import pytest
import torch

from plasticity import RegularizedOptimizer, Tracker, parameter_groups, regularized

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="Trainer needs it")

LR, STRENGTH, SIGMA, CLIP = 1e-2, 0.1, 0.3, 0.5
SETTINGS = {"lr": LR, "regularizer": "syre", "strength": STRENGTH, "sigma": SIGMA, "anchor_seed": 3}


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    # In float64, the order of the examples in a batch does not matter.
    return transformers.BertForSequenceClassification(config).double()


def examples():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 30, (8, 6), generator=generator)
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": torch.tensor(k % 3)}
        for k, row in enumerate(tokens)
    ]


def trainer(folder, model, *, max_steps, weight_decay=STRENGTH, **arguments):
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(folder),
            max_steps=max_steps,
            per_device_train_batch_size=8,  # all of them
            learning_rate=LR,
            weight_decay=weight_decay,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            save_strategy="steps",
            save_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=examples(),
        **arguments,
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def by_hand(model, anchors, steps):
    """Train with AdamW, with decay * (weight - anchor) written out for parameters that have an anchor."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    batch = {key: torch.stack([each[key] for each in examples()]) for key in examples()[0]}
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if anchors[name] is not None:
                    parameter.sub_(LR * STRENGTH * (parameter - anchors[name]))
        optimizer.step()
    return weights(model)


def anchors_of(model, optimizer):
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    assert isinstance(optimizer, RegularizedOptimizer)
    return {name: optimizer.anchor(p) for name, p in model.named_parameters()}


def test_class_given_to_the_trainer(tmp_path):
    """Use Trainer's two groups, of which biases and LayerNorms (`weight_decay` 0) are not regularized."""
    classes = (regularized(torch.optim.AdamW), SETTINGS)
    ours = trainer(tmp_path, bert(), max_steps=4, optimizer_cls_and_kwargs=classes)
    ours.train()
    anchors = anchors_of(ours.model, ours.optimizer)
    alone = {name for name, anchor in anchors.items() if anchor is None}
    assert alone == {name for name in anchors if name.endswith("bias") or "LayerNorm" in name}
    assert_same(weights(ours.model), by_hand(bert(), anchors, 4), rtol=0, atol=1e-9)


def test_optimizer_given_to_the_trainer(tmp_path):
    model = bert()
    settings = {name: value for name, value in SETTINGS.items() if name != "lr"}
    optimizer = regularized(torch.optim.AdamW)(parameter_groups(model, **settings), lr=LR)
    anchors = anchors_of(model, optimizer)
    # BERT's pooler, embeddings and biases, but not its LayerNorms.
    assert {name for name, anchor in anchors.items() if anchor is None} == {
        name for name in anchors if "LayerNorm" in name
    }
    ours = trainer(tmp_path, model, max_steps=4, optimizers=(optimizer, None))
    ours.train()
    assert_same(weights(model), by_hand(bert(), anchors, 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("regularizer", ["syre", "l2-init"])
def test_resuming_gives_the_same_weights(tmp_path, regularizer):
    classes = (regularized(torch.optim.AdamW), SETTINGS | {"regularizer": regularizer})
    whole = trainer(tmp_path / "whole", bert(), max_steps=4, optimizer_cls_and_kwargs=classes)
    whole.train()
    trainer(tmp_path / "half", bert(), max_steps=2, optimizer_cls_and_kwargs=classes).train()
    # As in another process: different initial weights, and a different seed for the class.
    other = bert()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    settings = classes[1] | {"anchor_seed": None}
    resumed = trainer(
        tmp_path / "half", other, max_steps=4, optimizer_cls_and_kwargs=(classes[0], settings)
    )
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert_same(weights(resumed.model), weights(whole.model), rtol=0, atol=0)


def test_a_strength_that_no_group_uses_is_an_error(tmp_path):
    """Leave TrainingArguments.weight_decay at its default, so that both of Trainer's groups have 0."""
    classes = (regularized(torch.optim.AdamW), SETTINGS)
    ours = trainer(
        tmp_path, bert(), max_steps=1, weight_decay=0.0, optimizer_cls_and_kwargs=classes
    )
    with pytest.raises(ValueError, match="weight_decay"):
        ours.train()


def test_decay_by_the_arguments_alone_equals_the_bases_own(tmp_path):
    """Check that a group's weight decay is its strength, and sigma 0 equals Trainer with AdamW."""
    kwargs = {"lr": LR, "regularizer": "syre", "sigma": 0.0, "strength": STRENGTH}
    ours = trainer(
        tmp_path / "ours",
        bert(),
        max_steps=3,
        optimizer_cls_and_kwargs=(regularized(torch.optim.AdamW), kwargs),
    )
    theirs = trainer(
        tmp_path / "theirs",
        bert(),
        max_steps=3,
        optimizer_cls_and_kwargs=(torch.optim.AdamW, {"lr": LR}),
    )
    ours.train()
    theirs.train()
    assert_same(weights(ours.model), weights(theirs.model), rtol=0, atol=0)


def test_fan_in_of_gpt2():
    """Check GPT-2's Conv1D, whose weight is (inputs, units), the reverse of torch's convention."""
    config = transformers.GPT2Config(vocab_size=40, n_positions=12, n_embd=16, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    groups = parameter_groups(model, regularizer="syre", strength=0.1, sigma=SIGMA)
    names = {p: name for name, p in model.named_parameters()}
    fan_in = {
        names[p].removeprefix("transformer.h.0."): inputs
        for group in groups
        if group["regularizer"] == "syre"
        for p, inputs in zip(group["params"], group["fan_in"], strict=True)
    }
    assert fan_in["attn.c_attn.weight"] == 16  # (16, 48)
    assert fan_in["attn.c_attn.bias"] == 16
    assert fan_in["mlp.c_fc.weight"] == 16  # (16, 64)
    assert fan_in["mlp.c_proj.weight"] == fan_in["mlp.c_proj.bias"] == 64  # (64, 16)


def test_measuring_a_model_with_keyword_arguments():
    model = bert().train()
    batch = {key: torch.stack([each[key] for each in examples()]) for key in examples()[0]}
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    with Tracker(model, batch) as tracker:
        row = tracker.boundary(task=0)
    activations = {key.split("/", 1)[1] for key in row if key.startswith("effective_rank/")}
    # One activation in each block's feed-forward part, of width 32, and the pooler's tanh, of width 16.
    ranks = {name: row[f"effective_rank/{name}"] for name in activations}
    assert len(ranks) == 3
    assert all(1 <= rank <= 32 for rank in ranks.values())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_measuring_in_a_callback_does_not_change_training(tmp_path):
    class Measure(transformers.TrainerCallback):
        def __init__(self):
            self.tracker = None

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if self.tracker is None:
                batch = {k: torch.stack([e[k] for e in examples()]) for k in examples()[0]}
                self.tracker = Tracker(model, batch)
            self.tracker.boundary(task=state.global_step)

    measure = Measure()
    classes = (regularized(torch.optim.AdamW), SETTINGS)
    runs = [
        trainer(
            tmp_path / str(k),
            bert(),
            max_steps=3,
            optimizer_cls_and_kwargs=classes,
            callbacks=calls,
        )
        for k, calls in enumerate(([], [measure]))
    ]
    for run in runs:
        run.train()
    assert [row["task"] for row in measure.tracker.rows] == [1, 2, 3]
    first, second = itertools.starmap(weights, [(run.model,) for run in runs])
    assert_same(second, first, rtol=0, atol=0)
