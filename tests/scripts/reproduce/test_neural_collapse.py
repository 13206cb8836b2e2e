"""Figure neural-collapse: correlations by hand, exact resume, and the verdict on made-up results."""

import numpy as np
import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.neural_collapse import Collapses, class_correlations
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["neural-collapse"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_steps": 4,
    "stream.num_train": 120,
    "stream.num_test": 20,
    "stream.batch_size": 20,
    "stream.pool": 1,
    "agent.width": 2,
    "agent.anneal_steps": 4,
    "tracking.measure_every": 2,
    "method": (MITIGATIONS["syre"](strength=0.1, sigma=1.0),),
    "seed": 3,
}


def test_correlations_are_numpys():
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0, 1, 0, 0, 2, 2])
    pairs = np.corrcoef(features.numpy())
    found = class_correlations(features, labels, 3)
    for i in range(3):
        for j in range(3):
            expected = [
                pairs[a, b]
                for a in range(7)
                for b in range(7)
                if a != b and labels[a] == i and labels[b] == j
            ]
            assert found[i, j].item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_collapsed_features_have_a_correlation_of_1_within_classes():
    # Classes (1, 0, 0, 0) and (0, 1, 0, 0), with a mean of 1/4: correlation -1/3.
    features = torch.eye(4)[torch.tensor([0, 0, 1, 1])] * 3 + 2
    found = class_correlations(features, torch.tensor([0, 0, 1, 1]), 2)
    expected = torch.tensor([[1.0, -1 / 3], [-1 / 3, 1.0]])
    torch.testing.assert_close(found, expected.double())


def test_rows_tell_the_spectrum_and_the_correlations(monkeypatch):
    experiment = Collapses([with_values(FIGURE.config, TINY)], stacked=False)
    labels, classes = experiment.data.train_labels, torch.eye(10)
    # Features of each image: the vector of its class, and one of its own, a tenth as long.
    own = torch.arange(120) % 3
    features = torch.cat([classes[labels], 0.1 * torch.eye(3)[own]], 1)
    monkeypatch.setattr(experiment, "features", lambda images: features)
    monkeypatch.setattr(experiment, "fit", dict)
    row = experiment.measure(0)
    assert row["within_classes"] > 0.98
    assert row["between_classes"] < 0
    # Ten classes have nine directions about their mean, three parts of the own vectors have two.
    spectrum = np.linalg.eigvalsh(np.cov(features.numpy().T, ddof=0))[::-1]
    shares = spectrum / spectrum.sum()
    assert row["eigenvalue_1"] == pytest.approx(shares[0], rel=1e-4)
    assert row["outside"] == pytest.approx(shares[10:].sum(), abs=1e-5)
    assert 0 < row["outside"] < 0.01
    assert len(experiment.chosen) == 100
    assert sum(name.startswith("correlation_") for name in row) == 55


def test_a_run_that_was_stopped_continues_exactly(tmp_path):
    parts, whole = rows_of_stopped_and_whole(tmp_path, with_values(FIGURE.config, TINY), 3)
    assert parts == whole
    assert whole.count(b"\n") == 2


def as_claimed(arm, step):
    syre = arm.method == "syre"
    return {
        "train_accuracy": 1.0,
        "outside": 0.1 if syre else 0.01,
        "within_classes": 0.7 if syre else 0.98,
        "effective_rank": 15.0 if syre else 9.0,
        **{f"eigenvalue_{i}": 0.1 / i for i in range(1, 41)},
        **{f"correlation_{i}_{j}": float(i == j) for i in range(10) for j in range(i, 10)},
    }


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


@pytest.mark.parametrize(
    ("failed", "line", "metric", "value"),
    [
        (0, "syre 0.005", "outside", 0.009),
        (1, "syre 0.005", "within_classes", 0.99),
        (2, "syre 0.02", "outside", 0.009),
        (3, "syre 0.02", "within_classes", 0.99),
    ],
)
def test_it_holds_in_part_if_one_arm_is_otherwise(failed, line, metric, value):
    def values(arm, step):
        return as_claimed(arm, step) | ({metric: value} if arm.name == line else {})

    found = made_verdict(FIGURE, values)
    assert found.outcome == PARTLY
    assert failed_claims(found) == [failed]


@pytest.mark.parametrize(
    ("line", "metric", "value"),
    [
        ("weight-decay 0.005", "train_accuracy", 0.9),
        ("weight-decay 0.02", "train_accuracy", 0.9),
        ("weight-decay 0.02", "outside", 0.06),
    ],
)
def test_a_plain_arm_that_has_not_collapsed_means_nothing(line, metric, value):
    def values(arm, step):
        return as_claimed(arm, step) | ({metric: value} if arm.name == line else {})

    assert made_verdict(FIGURE, values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(450, 900))
    assert FIGURE.sentence(found).startswith(
        "weight-decay 0.005: 0.01 [0.01, 0.01] of the variance"
    )
    (spectrum, outside), maps = FIGURE.panels(found)
    assert spectrum.lines[0].positions.tolist() == list(range(1, 41))
    assert [line.label for line in outside.lines] == [arm.name for arm in FIGURE.arms("small")]
    assert [each.title for each in maps] == ["weight-decay 0.02", "syre 0.02"]
    np.testing.assert_allclose(maps[0].values, np.eye(10), atol=1e-3)
    FIGURE.draw(found, "caption")
