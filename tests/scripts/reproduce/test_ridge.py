"""Figure ridge: its closed form against gradients and the library's optimizer, and the verdict."""

import json
import math

import pytest
import torch
from made_figures import rows_of_stopped_and_whole
from torch import nn

from plasticity.mitigations import ReDo, Syre, WeightDecay
from plasticity.optim.regularizers import regularized
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.ridge import METHODS, Regressions, minimizer
from plasticity.scripts.reproduce.verdict import FAILS, HOLDS, NOT_SEEN, PARTLY, Verdict
from plasticity.seeds import child_seed

FIGURE = FIGURES["ridge"]


def made(*method, seed=0, **stream):
    values = {f"stream.{name}": value for name, value in stream.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": seed})


def solved(*method, **settings):
    experiment = Regressions([made(*method, **settings)], stacked=False)
    experiment.step()
    return experiment


def rows64(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_the_solution_by_hand():
    """A = diag(2, 0.5) and b = (2, 1): (A + 1) theta = b + anchor."""
    inputs, labels = rows64([2.0, 0.0], [0.0, 1.0]), rows64([2.0, 2.0])[0]
    found = minimizer(inputs, labels, 1.0, rows64([1.0, -1.0])[0])
    assert found.tolist() == pytest.approx([3 / 3, 0 / 1.5], abs=1e-12)
    # Without decay and with a single example, what is not seen stays 0.
    assert minimizer(inputs[:1], labels[:1], 0.0, rows64([1.0, -1.0])[0]).tolist() == pytest.approx(
        [1.0, 0.0], abs=1e-12
    )


@pytest.mark.parametrize("count", [3, 12])
@pytest.mark.parametrize(
    "method", [(), (WeightDecay(strength=0.1),), (Syre(strength=0.1, sigma=2.0),)]
)
def test_the_solution_is_where_the_gradient_is_0(method, count):
    experiment = solved(*method, input_dim=6, num_examples=count)
    theta = experiment.solution.clone().requires_grad_()
    errors = experiment.inputs @ theta - experiment.labels
    strength = method[0].strength if method else 0.0
    penalty = strength / 2 * (theta - experiment.anchor).square().sum()
    (errors.square().mean() / 2 + penalty).backward()
    assert theta.grad.abs().max() < 1e-12
    assert (experiment.anchor == 0).all() == (not method or isinstance(method[0], WeightDecay))


def test_the_librarys_optimizer_arrives_there():
    """SGD with syre's decay, from another start, with the figure's own anchor."""
    method = Syre(strength=0.5, sigma=1.0)
    experiment = solved(method, input_dim=4, num_examples=3)
    layer = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    optimizer = regularized(torch.optim.SGD)(
        layer.parameters(),
        lr=0.2,
        regularizer="syre",
        strength=0.5,
        sigma=1.0,
        anchor_seed=child_seed(0, "anchor"),
    )
    for _ in range(600):
        optimizer.zero_grad()
        errors = layer(experiment.inputs).flatten() - experiment.labels
        (errors.square().mean() / 2).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.detach().flatten(), experiment.solution)


def test_the_distance_from_ridge_is_that_of_the_closed_form():
    """γ (A + γ)⁻¹ anchor: linear in sigma, and with few examples at least the anchor's unseen part."""
    found = {}
    for sigma in (0.1, 0.2):
        experiment = solved(Syre(strength=1e-6, sigma=sigma), input_dim=6, num_examples=3)
        found[sigma] = experiment.measure(0)["distance_from_ridge"]
    assert found[0.2] == pytest.approx(2 * found[0.1], rel=1e-6)
    seen = torch.linalg.pinv(experiment.inputs) @ experiment.inputs @ experiment.anchor
    unseen = (experiment.anchor - seen).norm().item()
    assert found[0.2] == pytest.approx(unseen, rel=1e-4)
    weak, strong = (
        solved(Syre(strength=strength), input_dim=6, num_examples=60).measure(0)
        for strength in (1e-6, 1e-5)
    )
    slope = strong["log10_distance_from_ridge"] - weak["log10_distance_from_ridge"]
    assert slope == pytest.approx(1.0, abs=1e-3)


def test_the_error_is_that_of_many_new_examples():
    experiment = solved(WeightDecay(strength=0.1), input_dim=3, num_examples=4)
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn(200_000, 3, generator=draws, dtype=torch.float64)
    labels = inputs @ experiment.teacher
    labels += 0.5 * torch.randn(200_000, generator=draws, dtype=torch.float64)
    errors = (inputs @ experiment.solution - labels).square()
    found = experiment.measure(0)
    expected = errors.mean().item()
    assert found["test_error"] == pytest.approx(
        expected, abs=4 * errors.std().item() / 200_000**0.5
    )
    assert found["log10_test_error"] == math.log10(found["test_error"])
    assert experiment.teacher.norm().item() == pytest.approx(1.0)
    assert found["log10_distance_from_ridge"] is None


def test_methods_without_a_closed_form_are_refused():
    for method in (ReDo(), Syre(anisotropy=0.2)):
        with pytest.raises(ValueError, match="closed forms of decays alone"):
            made(method)


def test_a_run_that_is_continued_has_the_same_row(tmp_path):
    config = with_values(made(Syre(), input_dim=4, num_examples=5), {"stream.num_steps": 3})
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 2)
    assert parts == whole
    rows = [json.loads(row) for row in whole.splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["test_error"] == rows[2]["test_error"]


# ---- the verdict ------------------------------------------------------------------------------------


def results(values):
    """Results whose values are a function of the line, the number of examples and syre's strength."""
    arms = []
    for arm in FIGURE.arms("small"):
        error, distance = values(
            arm.name, arm.settings["num-examples"], arm.settings.get("syre.strength")
        )
        runs = []
        for seed in range(3):
            row = {
                "step": 1,
                "diverged": False,
                "log10_test_error": error + 0.001 * seed,
                "distance_from_ridge": distance,
                "log10_distance_from_ridge": math.log10(distance) + 0.001 * seed,
            }
            runs.append(
                Run(
                    None,
                    {"benchmark": "ridge", "method": {}, "seed": seed},
                    (row,),
                    half_written=False,
                )
            )
        arms.append((arm, runs))
    return Results(arms)


def as_claimed(line, examples, strength):
    error = (1.0 if examples == 64 else 0.1) if line == "least squares" else 0.5 - examples / 1000
    return error, strength if strength and examples == 128 else 0.1


def verdict(values):
    found = results(values)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_it_holds_if_all_is_as_claimed():
    found = verdict(as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 5


@pytest.mark.parametrize(
    ("failed", "line", "change"),
    [
        ([0], "ridge", lambda n: 0.2 if n == 32 else 0.0),
        ([0, 1], "both", lambda n: 0.3 if n == 64 else 0.0),
        ([2], "syre", lambda n: 0.05),
        ([3], "syre", lambda n: -0.05),
    ],
)
def test_a_peak_or_a_difference_does_not_hold(failed, line, change):
    def values(name, examples, strength):
        error, distance = as_claimed(name, examples, strength)
        is_changed = name == line or (line == "both" and name in ("ridge", "syre"))
        if line == "ridge" and is_changed:
            return error - change(examples), distance
        return error + (change(examples) if is_changed else 0.0), distance

    found = verdict(values)
    assert found.outcome == PARTLY
    assert [index for index, each in enumerate(found.claims) if not each.passed] == failed


def test_a_distance_that_does_not_fall_does_not_hold():
    found = verdict(lambda *arm: (as_claimed(*arm)[0], 0.1))
    assert [each.passed for each in found.claims] == [True, True, True, True, False]
    assert verdict(lambda line, n, _: (0.9 if n == 64 else 0.1, 0.1)).outcome != HOLDS


def test_least_squares_without_a_peak_mean_nothing():
    assert verdict(lambda line, n, _: (0.0, 1.0)).outcome == NOT_SEEN
    assert verdict(lambda line, n, _: (1.0 if n == 64 else 0.0, 1.0)).outcome in (FAILS, PARTLY)


def test_the_sentence_and_the_panels():
    found = results(as_claimed)
    assert "least squares 1.00 [1.00, 1.00], ridge 0.44" in FIGURE.sentence(found)
    assert "by 10^0.00 [0.00, 0.00] at n = d / 2 and by 10^1.00 [1.00, 1.00]" in FIGURE.sentence(
        found
    )
    ((errors, distances),) = FIGURE.panels(found)
    assert [line.label for line in errors.lines] == list(METHODS)
    assert errors.lines[0].positions.tolist() == [16, 32, 48, 56, 64, 72, 96, 128, 256]
    assert distances.lines[1].mean.tolist() == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
    FIGURE.draw(found, "caption")
