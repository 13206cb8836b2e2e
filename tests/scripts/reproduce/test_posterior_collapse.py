"""Figure posterior-collapse: what decays, what is measured and drawn, exact resume, and the verdict."""

import math

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.agents.networks.vae import beta_vae_loss
from plasticity.mitigations import Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.run_folders import read_run
from plasticity.scripts.reproduce import posterior_collapse
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.posterior_collapse import (
    Autoencoders,
    AutoencoderTraining,
    generated_images,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["posterior-collapse"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_train": 40,
    "stream.num_test": 20,
    "stream.batch_size": 10,
    "stream.num_steps": 6,
    "tracking.measure_every": 2,
    "agent.width": 6,
    "agent.latent_dim": 3,
}


def made(**changes):
    return with_values(FIGURE.config, TINY | changes)


def test_the_decay_acts_on_the_encoder_only():
    sgd = {"agent.optimizer": "sgd"}  # Adam's first step has the same size with a decay and without
    decayed = Autoencoders([made(method=(WeightDecay(strength=0.1),), **sgd)], stacked=False)
    plain = Autoencoders([made(**sgd)], stacked=False)
    for each in (decayed, plain):
        each.step()
    pairs = zip(decayed.network.named_parameters(), plain.network.named_parameters(), strict=True)
    for (name, found), (_, other) in pairs:
        assert torch.equal(found, other) == name.startswith("decoder.")


def test_the_loss_is_that_of_the_batch_with_beta():
    experiment = Autoencoders([made(**{"agent.beta": 3.0})], stacked=False)
    rows = experiment.epochs.rows(0)
    inputs = experiment.data.train_inputs[rows]
    noise = torch.randn(10, 3, generator=experiment.generator("noise/0"))
    expected = beta_vae_loss(inputs, *experiment.network(inputs, noise), 3.0)
    assert experiment.loss().item() == expected.item()


def test_the_rank_is_the_number_of_directions_that_tell_inputs_apart():
    experiment = Autoencoders([made()], stacked=False)
    last = experiment.network.encoder[3]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(2.0)  # means far from 0, but the same for all inputs
    found = experiment.measure(0)
    assert found["rank"] == 0
    # Means of 2 and variances of e² in 3 dimensions: 3 / 2 · (e² + 4 - 1 - 2).
    assert found["divergence"] == pytest.approx(1.5 * (math.e**2 + 1), rel=1e-5)
    with torch.no_grad():
        last.weight[:2] = 100 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    assert experiment.measure(0)["rank"] == 2


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="beta"):
        AutoencoderTraining(beta=-1.0)
    with pytest.raises(ValueError, match="latent_dim must be at least 1"):
        AutoencoderTraining(latent_dim=0)


def test_a_run_that_was_stopped_continues_exactly_and_generates_images(tmp_path):
    config = made(method=(Syre(strength=1.0, sigma=1.0),), seed=3)
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 3)
    assert parts == whole
    one, other = (generated_images(read_run(tmp_path / n), 5) for n in ("whole", "parts"))
    assert torch.equal(one, other)
    assert one.shape == (5, 8, 8)
    assert 0 <= one.min() < one.max() <= 1
    (tmp_path / "whole" / "checkpoint.pt").unlink()
    (tmp_path / "whole" / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="no checkpoint to draw images from"):
        generated_images(read_run(tmp_path / "whole"), 5)


# ---- the verdict ------------------------------------------------------------------------------------

CLAIMED = {  # rank and error at the smallest beta, and at 8
    "none": ((10.0, 8.0), (2.0, 26.0)),
    "weight-decay": ((2.0, 17.0), (1.0, 30.0)),
    "syre": ((12.0, 12.0), (3.0, 27.0)),
}


def values_of(claimed):
    def values(arm, step):
        first, last = claimed[arm.method]
        rank, error = last if arm.settings["beta"] == 8 else first
        return {"rank": rank, "reconstruction_error": error, "divergence": 1.0}

    return values


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, values_of(CLAIMED))
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


@pytest.mark.parametrize(
    ("failed", "method", "ends"),
    [
        ([0], "none", ((10.0, 8.0), (6.0, 26.0))),
        ([1], "weight-decay", ((2.0, 17.0), (2.5, 30.0))),
        ([2], "syre", ((12.0, 12.0), (1.0, 27.0))),
        ([3], "syre", ((12.0, 12.0), (3.0, 30.0))),
    ],
)
def test_it_holds_in_part_if_a_part_is_otherwise(failed, method, ends):
    found = made_verdict(FIGURE, values_of(CLAIMED | {method: ends}))
    assert found.outcome == PARTLY
    assert failed_claims(found) == failed


@pytest.mark.parametrize(
    ("method", "first"),
    [("none", (3.0, 8.0)), ("none", (10.0, 16.0)), ("weight-decay", (2.0, 22.0))],
)
def test_plain_arms_that_have_not_learnt_mean_nothing(method, first):
    claimed = CLAIMED | {method: (first, CLAIMED[method][1])}
    assert made_verdict(FIGURE, values_of(claimed)).outcome == NOT_SEEN


def test_the_sentence_and_the_panels(monkeypatch):
    shades = {"none": 0.2, "weight-decay": 0.4, "syre": 0.6}
    found = made_results(FIGURE, values_of(CLAIMED))
    methods = {id(run): arm.method for arm, runs in found.arms for run in runs}
    monkeypatch.setattr(
        posterior_collapse,
        "generated_images",
        lambda run, count: torch.full((count, 4, 4), shades[methods[id(run)]]),
    )
    sentence = FIGURE.sentence(found)
    assert sentence.startswith("at beta = 0.25 and 8, none: rank 10.0 [10.0, 10.0] and 2.0")
    assert "syre: rank 12.0 [12.0, 12.0] and 3.0 [3.0, 3.0], error 12.0" in sentence
    (rank, _), (_, pictures) = FIGURE.panels(found)
    assert rank.lines[2].positions.tolist() == [0.25, 1, 4, 8]
    assert pictures.row_labels == ("none", "weight-decay", "syre")
    assert pictures.images[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    FIGURE.draw(found, "caption")
