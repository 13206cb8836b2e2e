"""Figure symmetry-under-noise: its networks and data, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.symmetry_under_noise import (
    FULL_SIGNAL,
    IN_CONTEXT,
    SWEEPS,
    TEACHER,
    NoisyData,
    NoisyNetworks,
    NoisyTraining,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN

FIGURE = FIGURES["symmetry-under-noise"]
TINY = {
    "stream.num_steps": 9,
    "stream.input_dim": 3,
    "stream.batch_size": 8,
    "agent.width": 8,
    "tracking.measure_every": 3,
}


def made(problem, method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(
        FIGURE.config, {**values, "stream.problem": problem, "method": method, "seed": 3}
    )


def experiment(problem, **changes):
    return NoisyNetworks([made(problem, **changes)], stacked=False)


# ---- the networks and their data --------------------------------------------------------------------


@pytest.mark.parametrize("problem", [TEACHER, IN_CONTEXT])
def test_a_silent_network_errs_by_the_scaled_labels(problem):
    found = experiment(problem, stream__input_scale=0.5, stream__batch_size=20_000)
    output = found.network[2] if problem == TEACHER else found.network.output
    with torch.no_grad():
        output.weight.zero_()
    assert found.measure(0)["error"] == pytest.approx(1.0, abs=1e-5)
    assert found.loss().item() == pytest.approx(0.25, rel=0.06)


def test_noise_is_on_the_examples_of_a_prompt_in_units_of_their_labels():
    clean = experiment(IN_CONTEXT, stream__input_scale=0.5)
    tokens, labels = clean._prompts("some", 2000, label_noise=0.0)
    noisy, same = clean._prompts("some", 2000, label_noise=2.0)
    assert torch.equal(labels, same)
    assert (noisy - tokens)[:, :-1, 3].std().item() == pytest.approx(1.0, rel=0.03)
    assert not (noisy - tokens)[:, -1].any()


def test_the_order_of_the_examples_does_not_matter_and_the_query_does():
    found = experiment(IN_CONTEXT)
    tokens, _ = found.probe_prompts
    with torch.no_grad():
        whole = found.network(tokens[:5])
        turned = torch.cat([tokens[:5, :-1].flip(1), tokens[:5, -1:]], dim=1)
        torch.testing.assert_close(found.network(turned), whole)
        assert not torch.allclose(found.network(tokens[:5].flip(1)), whole)


def test_directions_that_neither_queries_nor_keys_use_are_symmetric():
    found = experiment(IN_CONTEXT)  # two layers of two heads of four directions
    before = found.measure(0)["symmetric_share"]
    assert before == 0.0
    weight = found.network.layers[1].in_proj_weight
    with torch.no_grad():
        weight[0] = weight[8] = 0.0  # the first direction of the first head: queries, then keys
        weight[5] = 0.0  # queries alone
    assert found.measure(0)["symmetric_share"] == pytest.approx(1 / 16)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"[Uu]nknown problem"):
        NoisyData(problem="regression")
    with pytest.raises(ValueError, match="num_examples must be at least 1"):
        NoisyData(num_examples=0)
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=32"):
        NoisyTraining(num_heads=3)


@pytest.mark.parametrize("problem", [TEACHER, IN_CONTEXT])
def test_a_network_that_was_stopped_continues_exactly(tmp_path, problem):
    config = made(problem, (WeightDecay(strength=0.1),), stream__label_noise=0.5)
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 5)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    chosen = arm.settings
    share = 0.5 - 0.2 * chosen["input-scale"] + 0.1 * chosen["label-noise"]
    return {"error": 0.01, "symmetric_share": share - 0.01 * chosen["teacher-width"]}


def test_arms_share_the_full_signal():
    arms = FIGURE.arms("small")
    assert len(arms) == 8 + 5  # 3 + 3 + 4 values of students, less 2; 3 + 3, less 1
    assert sum(FULL_SIGNAL.items() <= arm.settings.items() for arm in arms) == 2


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 5


@pytest.mark.parametrize(
    ("failed", "problem", "option", "value"),
    [
        (0, TEACHER, "input-scale", 0.1),
        (1, TEACHER, "label-noise", 2.0),
        (2, TEACHER, "teacher-width", 1),
        (3, IN_CONTEXT, "input-scale", 0.1),
        (4, IN_CONTEXT, "label-noise", 2.0),
    ],
)
def test_a_claim_fails_if_there_is_less_symmetry(failed, problem, option, value):
    def values(arm, step):
        found = as_claimed(arm, step)
        if arm.name == problem and arm.settings[option] == value:
            found["symmetric_share"] = 0.1
        return found

    assert failed_claims(made_verdict(FIGURE, values)) == [failed]


@pytest.mark.parametrize(("problem", "error"), [(TEACHER, 0.06), (IN_CONTEXT, 0.9)])
def test_networks_that_have_not_learnt_mean_nothing(problem, error):
    def values(arm, step):
        return as_claimed(arm, step) | ({"error": error} if arm.name == problem else {})

    assert made_verdict(FIGURE, values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    assert "teacher, input-scale 0.1 and 1: 0.40 [0.40, 0.40] and 0.22" in FIGURE.sentence(found)
    shares, errors = FIGURE.panels(found)
    assert [len(panel.lines) for panel in shares] == [2, 2, 1]
    assert shares[0].lines[1].positions.tolist() == list(SWEEPS["input-scale"])
    assert errors[2].lines[0].mean.tolist() == pytest.approx([0.01] * 4, rel=1e-3)
    FIGURE.draw(found, "caption")
