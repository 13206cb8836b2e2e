"""Figure simclr: the decayed parts, the views, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity import linear_probe_accuracy
from plasticity.agents.self_supervised.nt_xent import nt_xent
from plasticity.metrics.ranks import effective_rank
from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.images import Images
from plasticity.scripts.reproduce.simclr import (
    EVERYWHERE,
    HEAD,
    PLAIN,
    Contrasts,
    SimCLRTraining,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["simclr"]
TINY = {
    "stream.num_steps": 4,
    "stream.batch_size": 6,
    "agent.width": 2,
    "agent.anneal_steps": 4,
    "agent.output_size": 5,
    "tracking.measure_every": 2,
    "method": (MITIGATIONS["syre"](strength=0.1, sigma=1.0),),
    "seed": 3,
}


@pytest.fixture(autouse=True)
def _colours(monkeypatch):
    """Replace the images by small ones of three channels."""
    draws = torch.Generator().manual_seed(0)
    train, test = torch.rand(24, 3, 8, 8, generator=draws), torch.rand(12, 3, 8, 8, generator=draws)
    data = Images(train, torch.arange(24) % 3, test, torch.arange(12) % 3, num_classes=3)
    monkeypatch.setattr("plasticity.scripts.reproduce.images.ImageData.load", lambda *_: data)


def made(**changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return Contrasts([with_values(FIGURE.config, values)], stacked=False)


def test_the_head_is_decayed_by_syre_and_the_rest_by_weight_decay():
    experiment = made(agent__decayed="head")
    kinds = {}
    for group in experiment.optimizer.param_groups:
        for parameter in group["params"]:
            kinds[parameter] = group["regularizer"] if group.get("strength") else "none"
    named = dict(experiment.network.named_parameters())
    assert set(named.values()) == set(kinds)
    assert kinds[named["output.0.weight"]] == kinds[named["output.2.bias"]] == "syre"
    assert kinds[named["stem.weight"]] == kinds[named["stage4.1.conv2.weight"]] == "weight-decay"
    assert kinds[named["stem.normalization.weight"]] == "none"
    everywhere = made()
    stem = everywhere.network.stem.weight
    (group,) = [g for g in everywhere.optimizer.param_groups if any(p is stem for p in g["params"])]
    assert group["regularizer"] == "syre"


def test_the_loss_is_that_of_two_views_of_the_same_images():
    experiment = made()
    seen = []
    experiment.network.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0], output))
    )
    loss = experiment.loss()
    views, outputs = seen[0]
    assert views.shape == (12, 3, 8, 8)
    assert not torch.equal(views[:6], views[6:])
    assert outputs.shape == (12, 5)
    assert loss.item() == nt_xent(outputs[:6], outputs[6:], 0.5).item()
    experiment.loss()
    assert torch.equal(seen[1][0], views)  # a function of the step


def test_both_sides_of_the_head_are_measured():
    experiment = made()
    experiment.network.eval()
    row, data = experiment.measure(0), experiment.data
    with torch.no_grad():
        before = experiment.network.features(data.train_inputs)
        after, others = experiment.network(data.train_inputs), experiment.network(data.test_inputs)
    assert row["rank_before"] == pytest.approx(effective_rank(before).item(), rel=1e-4)
    assert row["rank_after"] == pytest.approx(effective_rank(after).item(), rel=1e-4)
    probe = linear_probe_accuracy(after, data.train_labels, others, data.test_labels)
    assert row["probe_after"] == probe.item()
    assert row["rank_after"] <= 5.001
    assert row["probe_gain"] == 0.0  # nothing is learnt yet
    with torch.no_grad():
        experiment.network.stage4[1].conv2.weight.normal_()
    trained = experiment.measure(0)
    assert trained["probe_gain"] == trained["probe_before"] - row["probe_before"]


def test_a_run_that_was_stopped_continues_exactly(tmp_path):
    config = with_values(FIGURE.config, TINY | {"agent.decayed": "head"})
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 3)
    assert parts == whole
    assert whole.count(b"\n") == 2


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="Unknown decayed 'haed'"):
        SimCLRTraining(decayed="haed")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        SimCLRTraining(temperature=0.0)


def as_claimed(arm, step):
    removed = arm.name != PLAIN
    return {
        "rank_before": 30.0,
        "rank_after": 20.0 if removed else 10.0,
        "probe_before": 0.12,
        "probe_gain": 0.03,
        "probe_after": 0.1 if removed else 0.06,
    }


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


@pytest.mark.parametrize(
    ("failed", "metric", "value"),
    [
        (0, "rank_after", 10.0),
        (1, "probe_after", 0.05),
        (2, "rank_before", 26.0),
        (3, "probe_before", 0.09),
    ],
)
def test_it_holds_in_part_if_the_head_is_otherwise(failed, metric, value):
    def values(arm, step):
        return as_claimed(arm, step) | ({metric: value} if arm.name == HEAD else {})

    found = made_verdict(FIGURE, values)
    assert found.outcome == PARTLY
    assert failed_claims(found) == [failed]


@pytest.mark.parametrize(("metric", "value"), [("probe_gain", 0.005), ("rank_after", 31.0)])
def test_a_plain_arm_that_has_not_learnt_or_keeps_its_rank_means_nothing(metric, value):
    assert made_verdict(FIGURE, lambda *a: as_claimed(*a) | {metric: value}).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(350, 700))
    assert FIGURE.sentence(found).startswith(
        "weight decay: rank 30 [30, 30] before and 10 [10, 10]"
    )
    rows = FIGURE.panels(found)
    assert [[panel.title for panel in row] for row in rows] == [
        ["before the head", "after the head"]
    ] * 2
    assert [line.label for line in rows[1][1].lines] == [PLAIN, HEAD, EVERYWHERE]
    assert rows[0][1].lines[1].mean.tolist() == pytest.approx([20, 20], rel=1e-3)
    FIGURE.draw(found, "caption")
