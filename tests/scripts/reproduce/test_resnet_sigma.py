"""Figure resnet-sigma: exact resume, equality with weight decay, and the verdict on made-up results."""

import pytest
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.resnet_sigma import BITWISE, ResNets
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["resnet-sigma"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_steps": 4,
    "stream.num_train": 40,
    "stream.num_test": 20,
    "stream.batch_size": 20,
    "agent.width": 2,
    "agent.anneal_steps": 4,
    "tracking.measure_every": 2,
    "seed": 3,
}


def made(name, **settings):
    method = (MITIGATIONS[name](strength=0.1, **settings),)
    return with_values(FIGURE.config, {**TINY, "method": method})


def rows(config):
    experiment = ResNets([config], stacked=False)
    return [experiment.next_rows(lambda: False)[0] for _ in range(2)]


def test_a_run_that_was_stopped_continues_exactly(tmp_path):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made("syre", sigma=0.5), 3)
    assert parts == whole
    assert whole.count(b"\n") == 2


def test_without_a_spread_syre_is_weight_decay():
    plain, zero = rows(made("weight-decay")), rows(made("syre", sigma=0.0))
    assert plain == zero
    assert set(BITWISE) < set(plain[-1])
    assert rows(made("syre", sigma=0.5))[-1]["weight_norm"] != plain[-1]["weight_norm"]


def as_claimed(arm, step):
    sigma = arm.settings.get("syre.sigma", 0.0)
    return {
        "loss": 0.1,
        "train_accuracy": 0.95,
        "test_accuracy": 0.45 if sigma < 0.2 else 0.3,
        "weight_norm": 20.0,
    }


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 3


@pytest.mark.parametrize(
    ("failed", "sigma", "metric", "value"),
    [
        (0, 0.0, "weight_norm", 20.0001),
        (0, 0.0, "test_accuracy", None),
        (1, 0.05, "test_accuracy", 0.41),
        (2, 0.15, "test_accuracy", 0.41),
    ],
)
def test_it_holds_in_part_if_one_arm_is_otherwise(failed, sigma, metric, value):
    def values(arm, step):
        found = as_claimed(arm, step)
        return found | ({metric: value} if arm.settings.get("syre.sigma") == sigma else {})

    found = made_verdict(FIGURE, values)
    assert found.outcome == PARTLY
    assert failed_claims(found) == [failed]


@pytest.mark.parametrize(("metric", "value"), [("train_accuracy", 0.6), ("test_accuracy", 0.3)])
def test_networks_that_have_not_learnt_mean_nothing(metric, value):
    assert made_verdict(FIGURE, lambda *a: as_claimed(*a) | {metric: value}).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(300, 600))
    sentence = FIGURE.sentence(found)
    assert sentence.startswith("weight decay has a test accuracy of 0.45 [0.45, 0.45], syre 0.45")
    assert sentence.endswith("0.3 [0.3, 0.3] with 1")
    ((test, train, steps),) = FIGURE.panels(found)
    assert test.lines[0].positions.tolist() == [0.0, 0.05, 0.15, 0.5, 1.0]
    assert train.lines[0].mean.tolist() == pytest.approx([0.95] * 5, abs=1e-3)
    assert [line.label for line in steps.lines] == ["syre, sigma = 1", "syre, sigma = 0"]
    FIGURE.draw(found, "caption")


def test_the_full_scale_has_the_usual_strength():
    for arm in FIGURE.arms("full"):
        assert arm.settings[f"{arm.method}.strength"] == 5e-4
