"""Figure universal-alignment: its networks and views, exact resume, and the verdict on made-up results."""

import itertools

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity import kernel_alignment
from plasticity.mitigations import Syre
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.universal_alignment import (
    Pairs,
    PairTraining,
    TwoViews,
    hidden_features,
    invertible_matrix,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN

FIGURE = FIGURES["universal-alignment"]
TINY = {
    "stream.num_steps": 9,
    "stream.input_dim": 3,
    "stream.batch_size": 4,
    "agent.width": 5,
    "agent.num_hidden": 2,
    "tracking.measure_every": 3,
}


def made(method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": 3})


# ---- the networks and their data --------------------------------------------------------------------


def test_a_view_can_be_inverted():
    matrix = invertible_matrix(20, 2.0, torch.Generator().manual_seed(0)).double()
    values = torch.linalg.svdvals(matrix)
    assert 1.0 < values.max() <= 2.0 + 1e-5
    assert 0.5 - 1e-5 <= values.min() < 1.0
    rotation = invertible_matrix(4, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(4))


def solve(experiment):
    """Give both networks of one hidden layer the map, balanced as the noise of SGD would have it."""
    with torch.no_grad():
        for network, view in zip(experiment.network, (torch.eye(3), experiment.view), strict=True):
            network[0][0].weight.copy_(torch.linalg.inv(view))
            network[1].weight.copy_(experiment.teacher.weights[0])


def test_two_solutions_with_equal_representations():
    experiment = Pairs([made(agent__num_hidden=1, agent__width=3)], stacked=False)
    before = experiment.measure(0)
    assert before["error"] > 0.3
    assert before["alignment"] == before["lowest_alignment"] == before["alignment_1"] < 0.99
    solve(experiment)
    found = experiment.measure(0)
    assert found["error"] == pytest.approx(0.0, abs=1e-9)
    assert found["alignment"] == pytest.approx(1.0)
    assert found["data_alignment_1"] == pytest.approx(1.0)
    # The labels' noise alone is left of the loss: a mean of 0.25 for each network.
    large = Pairs(
        [made(agent__num_hidden=1, agent__width=3, stream__batch_size=20_000)], stacked=False
    )
    solve(large)
    assert large.loss().item() == pytest.approx(0.5, rel=0.03)


def test_all_pairs_of_layers_are_compared():
    experiment = Pairs([made(agent__activation="tanh")], stacked=False)
    found = experiment.measure(0)
    first = hidden_features(experiment.network[0], experiment.probe)
    second = hidden_features(experiment.network[1], experiment.probe @ experiment.view.T)
    weight = experiment.network[0][1][0].weight
    assert torch.equal(first[1], torch.tanh(first[0] @ weight.T))
    pairs = [kernel_alignment(f, g).item() for f, g in itertools.product(first, second)]
    assert found["alignment"] == pytest.approx(sum(pairs) / 4)
    assert found["lowest_alignment"] == min(pairs)
    assert found["alignment_2"] == pairs[3]


def test_the_networks_do_not_teach_each_other():
    experiment = Pairs([made()], stacked=False)
    solo = Pairs([made()], stacked=False)
    with torch.no_grad():
        for weight in solo.network[1].parameters():
            weight.zero_()
    for each in (experiment, solo):
        each.step()
    for ours, theirs in zip(
        experiment.network[0].parameters(), solo.network[0].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="stretch"):
        TwoViews(stretch=0.5)
    with pytest.raises(ValueError, match=r"[Uu]nknown activation"):
        PairTraining(activation="relu")


def test_a_pair_that_was_stopped_continues_exactly(tmp_path):
    config = made((Syre(strength=0.1, sigma=1.0),))
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 5)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    alignment = {"none": 0.99, "weight-decay": 0.96, "syre": 0.7}[arm.method]
    layers = {f"{kind}alignment_{n}": alignment for kind in ("", "data_") for n in (1, 2)}
    return {"error": 0.05, "alignment": alignment, **layers}


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 6


@pytest.mark.parametrize(
    ("failed", "line", "alignment"),
    [
        ([0], "none, sgd", 0.94),
        ([3], "none, adam", 0.94),
        ([2], "syre, sgd", 0.97),  # below plain training, as weight decay is
        ([4, 5], "syre, adam", 0.995),
    ],
)
def test_a_claim_fails_if_its_part_is_otherwise(failed, line, alignment):
    def values(arm, step):
        other = {"alignment": alignment} if arm.name == line else {}
        return as_claimed(arm, step) | other

    assert failed_claims(made_verdict(FIGURE, values)) == failed


def test_networks_that_have_not_learnt_mean_nothing():
    def values(arm, step):
        return as_claimed(arm, step) | {"error": 0.11 if arm.name == "none, adam" else 0.05}

    assert made_verdict(FIGURE, values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(10, 20))
    sentence = FIGURE.sentence(found)
    assert "sgd: none 0.99 [0.99, 0.99], weight-decay 0.96" in sentence
    assert "adam: none 0.99" in sentence
    (linear, tanh), (layers, data) = FIGURE.panels(found)
    assert linear.lines[0].positions.tolist() == [10, 20]
    assert [line.label for line in tanh.lines] == ["none, sgd", "none, adam"]
    assert layers.lines[4].positions.tolist() == [1, 2]
    assert data.lines[4].mean.tolist() == pytest.approx([0.7, 0.7], rel=1e-3)
    FIGURE.draw(found, "caption")
