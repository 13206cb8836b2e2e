"""Figure feature-collapse: what it measures, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import Syre
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.feature_collapse import (
    Classifiers,
    ClassifierTraining,
    exponent,
)
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN

FIGURE = FIGURES["feature-collapse"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_steps": 6,
    "stream.num_train": 60,
    "stream.batch_size": 10,
    "tracking.measure_every": 2,
    "tracking.num_eigenvalues": 3,
    "tracking.probe_examples": 50,
    "agent.hidden": (6, 5, 4),
}


def made(method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": 3})


# ---- what it measures -------------------------------------------------------------------------------


def test_the_spectrum_is_that_of_the_last_hidden_layer():
    experiment = Classifiers([made()], stacked=False)
    layer = experiment.network.fc3
    with torch.no_grad():  # features of fc3: relu(b) = 1, 2, 0, 3 whatever the input
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([1.0, 2.0, -1.0, 3.0]))
    found = experiment.measure(0)
    assert found["rank"] == pytest.approx(1.0, abs=1e-3)
    assert [found[f"eigenvalue_{k}"] for k in (1, 2, 3)] == pytest.approx([0.0] * 3, abs=1e-6)
    assert "eigenvalue_4" not in found
    assert found["accuracy"] == pytest.approx(0.1, abs=0.02)  # one class for all
    with torch.no_grad():  # the first unit adds what it reads: its variance is the only one
        layer.weight[0] = 1.0
        network, images = experiment.network, experiment.data.test_inputs[:50].flatten(1)
        unit = 1.0 + network.fc2(network.fc1(images)).sum(dim=1)
    found = experiment.measure(0)
    variance = unit.var(correction=0).item()
    assert found["eigenvalue_1"] == pytest.approx(variance, rel=1e-4)
    assert variance > 1e-4
    assert found["eigenvalue_2"] == pytest.approx(0.0, abs=1e-6 * variance)


def test_inputs_are_scaled():
    one, half = (
        Classifiers([made(stream__input_scale=scale)], stacked=False).data.train_inputs
        for scale in (1.0, 0.5)
    )
    assert torch.equal(half, one / 2)


def test_the_exponent_of_a_power_law():
    assert exponent((0.25, 0.5, 1.0), [3 * 0.25**2, 3 * 0.5**2, 3.0]) == pytest.approx(2.0)
    assert exponent((1.0, 10.0), [5.0, 5.0]) == pytest.approx(0.0, abs=1e-12)
    assert exponent((1.0, 10.0), [0.0, 5.0]) is None
    assert exponent((1.0, 10.0), [None, 5.0]) is None


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="hidden"):
        ClassifierTraining(hidden=())
    with pytest.raises(ValueError, match="num_eigenvalues"):
        made(tracking__num_eigenvalues=0)


@pytest.mark.parametrize("method", [(), (Syre(strength=0.1),)])
def test_a_network_that_was_stopped_continues_exactly(tmp_path, method):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made(method), 3)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    """Values as the paper has them: weight decay collapses at either end, eigenvalues are sigma / k."""
    settings = arm.settings
    strength, scale = settings[f"{arm.method}.strength"], settings["input-scale"]
    collapsed = arm.method == "weight-decay" and (strength == 3e-2 or scale == 0.1)
    sigma = settings.get("syre.sigma", 0.01)
    spectrum = {f"eigenvalue_{k}": sigma / k for k in range(1, 41)}
    return {"rank": 4 if collapsed else 12, "accuracy": 0.5 if collapsed else 0.95, **spectrum}


def changed(change):
    """Return a verdict on values that a function of the arm and of them has changed."""

    def values(arm, step):
        found = as_claimed(arm, step)
        change(arm, found)
        return found

    return made_verdict(FIGURE, values)


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert (
        len(found.claims) == 13
    )  # 2 methods x 2 ends x 2 metrics, 3 steps of sigma, 2 of the exponent


@pytest.mark.parametrize(
    ("failed", "method", "option", "extreme", "metric", "value"),
    [
        ([0], "weight-decay", "weight-decay.strength", 3e-2, "rank", 7),
        ([1], "weight-decay", "weight-decay.strength", 3e-2, "accuracy", 0.9),
        ([2], "weight-decay", "input-scale", 0.1, "rank", 7),
        ([3], "weight-decay", "input-scale", 0.1, "accuracy", 0.9),
        ([4], "syre", "syre.strength", 3e-2, "rank", 5),
        ([5], "syre", "syre.strength", 3e-2, "accuracy", 0.8),
        ([6], "syre", "input-scale", 0.1, "rank", 5),
        ([7], "syre", "input-scale", 0.1, "accuracy", 0.8),
    ],
)
def test_each_collapse_is_looked_at(failed, method, option, extreme, metric, value):
    def change(arm, found):
        if arm.method == method and arm.settings[option] == extreme:
            found[metric] = value

    assert failed_claims(changed(change)) == failed


@pytest.mark.parametrize(
    ("failed", "eigenvalue"),
    [
        ([8, 9, 10, 11], lambda sigma: 1.0),  # the same for all
        ([12], lambda sigma: sigma**2),
        ([11], lambda sigma: sigma**0.3),
    ],
)
def test_the_growth_of_the_eigenvalue_is_looked_at(failed, eigenvalue):
    def change(arm, found):
        if arm.method == "syre":
            found["eigenvalue_20"] = eigenvalue(arm.settings["syre.sigma"])

    assert failed_claims(changed(change)) == failed


def test_a_plain_network_that_learns_nothing_means_nothing():
    def change(arm, found):
        if arm.settings.get("weight-decay.strength") == 1e-3:
            found["accuracy"] = 0.89

    assert changed(change).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    sentence = FIGURE.sentence(found)
    begin = "weight-decay, decay 0.001 to 0.03: rank "
    (part,) = (part for part in sentence.split("; ") if part.startswith(begin))
    assert " to 4.0 [4.0, 4.0], accuracy " in part
    assert " to 0.50 [0.50, 0.50]" in part
    assert "the 20th eigenvalue grows as sigma to the power of 1.00 [1.00, 1.00]" in sentence
    (decay, inputs, spectra), (_, _, over_sigma) = FIGURE.panels(found)
    assert decay.lines[0].positions.tolist() == [1e-3, 3e-3, 1e-2, 3e-2]
    assert decay.lines[0].mean.tolist() == pytest.approx([12, 12, 12, 4], rel=1e-3)
    assert inputs.lines[0].positions.tolist() == [0.1, 0.3, 1.0]
    assert inputs.lines[1].mean.tolist() == pytest.approx([12, 12, 12], rel=1e-3)
    assert [line.label for line in spectra.lines][:2] == ["weight-decay", "syre, sigma 0.25"]
    assert spectra.lines[4].mean[19] == pytest.approx(2.0 / 20, rel=1e-3)
    assert over_sigma.lines[0].positions.tolist() == [0.25, 0.5, 1.0, 2.0]
    FIGURE.draw(found, "caption")


def test_arms_that_lines_share_are_run_once():
    for scale, count in (("small", 6 + 9), ("full", 8 + 11)):
        arms = FIGURE.arms(scale)
        assert len(arms) == count
        assert len({(arm.method, *arm.settings.items()) for arm in arms}) == count
