"""Figure width-saturation: its examples and dimensions, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN
from plasticity.scripts.reproduce.width_saturation import (
    DECAY,
    FRESH,
    NOISE,
    PLAIN,
    WIDTHS,
    Identities,
    Identity,
    IdentityTraining,
    growth,
)

FIGURE = FIGURES["width-saturation"]
TINY = {
    "stream.num_steps": 9,
    "stream.input_dim": 3,
    "stream.num_examples": 10,
    "agent.width": 5,
    "tracking.measure_every": 3,
}


def made(method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": 3})


# ---- the networks -----------------------------------------------------------------------------------


def silence(experiment):
    with torch.no_grad():
        experiment.network[4].weight.zero_()


def test_a_silent_network_errs_by_the_inputs_and_the_noise():
    config = made(stream__fresh=True, stream__label_noise=2.0, stream__num_examples=20_000)
    experiment = Identities([config], stacked=False)
    silence(experiment)
    assert experiment.loss().item() == pytest.approx(3 * (1 + 4), rel=0.03)  # three dimensions
    assert experiment.measure(0)["error"] == pytest.approx(1.0, rel=0.06)


def test_examples_are_fixed_or_fresh():
    losses = {}
    for fresh in (False, True):
        experiment = Identities([made(stream__fresh=fresh, stream__label_noise=1.0)], stacked=False)
        losses[fresh] = []
        for experiment.steps in (0, 1, 0):
            losses[fresh].append(experiment.loss().item())
    assert len(set(losses[False])) == 1
    assert losses[True][0] == losses[True][2] != losses[True][1]


def test_dimensions_are_those_of_the_layers():
    experiment = Identities([made(agent__width=6)], stacked=False)
    with torch.no_grad():
        experiment.network[0].weight[2:] = 0.0  # SiLU(0) = 0: two neurons are left
        experiment.network[2].weight[1:] = experiment.network[2].weight[0]  # one is
    found = experiment.measure(0)
    assert (found["first_dimension"], found["latent_dimension"]) == (2, 1)
    assert found["latent_effective_rank"] == pytest.approx(1.0, abs=1e-3)
    assert 1.0 < found["first_effective_rank"] <= 2.0


def test_a_network_that_diverged_has_no_dimensions():
    experiment = Identities([made()], stacked=False)
    with torch.no_grad():
        experiment.network[0].weight.fill_(torch.nan)
    assert experiment.measure(0)["latent_dimension"] is None
    assert (
        experiment.measure(0)["error"] != experiment.measure(0)["error"]
    )  # NaN, which ends the run


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="input_dim must be at least 1"):
        Identity(input_dim=0)
    with pytest.raises(ValueError, match="width must be at least 1"):
        IdentityTraining(width=0)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_network_that_was_stopped_continues_exactly(tmp_path, fresh):
    config = made((WeightDecay(strength=0.1),), stream__fresh=fresh, stream__label_noise=1.0)
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 5)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    width = arm.settings["width"]
    saturated = 10 * min(width, 20) / 20
    dimension = saturated if arm.name in (DECAY, NOISE) else width / 2
    return {"error": 0.1, "latent_dimension": dimension, "first_dimension": width / 2}


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


def test_growth_is_that_of_the_last_two_doublings():
    found = made_results(FIGURE, as_claimed)
    assert growth(found, PLAIN)[0] == 4.0  # from 32 to 128
    assert growth(found, DECAY)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("failed", "line", "power"),
    [
        ([0], DECAY, 0.5),  # doubles, less than the plain fourfold
        ([1, 3], NOISE, 1.0),
    ],
)
def test_a_claim_fails_if_its_part_is_otherwise(failed, line, power):
    def values(arm, step):
        found = as_claimed(arm, step)
        if arm.name == line:
            found["latent_dimension"] = arm.settings["width"] ** power
        return found

    assert failed_claims(made_verdict(FIGURE, values)) == failed


@pytest.mark.parametrize(
    ("line", "metric", "value"), [(NOISE, "error", 0.3), (PLAIN, "latent_dimension", 9.0)]
)
def test_networks_that_do_not_learn_or_do_not_grow_mean_nothing(line, metric, value):
    def values(arm, step):
        return as_claimed(arm, step) | ({metric: value} if arm.name == line else {})

    assert made_verdict(FIGURE, values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    assert f"widths 32 and 128: {PLAIN} 16 [16, 16] and 64" in FIGURE.sentence(found)
    ((latent, first, error),) = FIGURE.panels(found)
    assert [line.label for line in latent.lines] == [PLAIN, DECAY, NOISE, FRESH]
    assert latent.lines[1].positions.tolist() == list(WIDTHS["small"])
    assert first.lines[1].mean.tolist() == pytest.approx([w / 2 for w in WIDTHS["small"]], rel=1e-3)
    assert error.lines[0].mean.tolist() == pytest.approx([0.1] * 6, rel=1e-3)
    FIGURE.draw(found, "caption")
