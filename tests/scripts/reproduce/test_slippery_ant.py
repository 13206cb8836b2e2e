"""Figure slippery-ant: its runs are those of the benchmark, and the verdict on made-up results."""

import pytest
from made_figures import failed_claims, made_results

from plasticity.agents.ppo.config import PRESETS
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.options import default_options
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.slippery_ant import RANK, RETURN, SYMMETRY, quarter
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY, Verdict

FIGURE = FIGURES["slippery-ant"]
STEPS = tuple(20_480 * row for row in range(1, 9))


def as_claimed(arm, step):
    """Values as the paper has them: they rise in the first quarter, and fall from the second on."""
    row = step / 20_480
    loss = {"weight-decay": 2.0, "syre": 0.5}[arm.method]
    rank = 10 * row if row < 3 else 30 - loss * row
    returns = 100 * row if row < 3 else 700 - 40 * loss * row
    others = {SYMMETRY: row, "dead_fraction/actor.fc2": 0.1}
    return {RANK: rank, RETURN: returns, **others}


def verdict(values):
    found = made_results(FIGURE, values, steps=STEPS)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_the_runs_are_those_of_the_benchmark():
    own, other = (
        flattened(default_options(name).config.to_json())
        for name in (FIGURE.config.benchmark, "slippery-ant")
    )
    changed = {path for path in own if own[path] != other[path]}
    lengths = {"stream.num_steps", "stream.change_every"}
    assert changed == {"benchmark", "tracking.metrics", *lengths}
    assert BENCHMARKS["slippery-ant-figure"].mitigation("syre").sigma == 0.3


@pytest.mark.parametrize(("scale", "strength"), [("small", 0.004), ("full", 0.001)])
def test_both_decays_have_the_same_strength(scale, strength):
    settings = [arm.settings for arm in FIGURE.arms(scale)]
    assert settings == [{"weight-decay.strength": strength}, {"syre.strength": strength}]


def test_the_full_scale_is_the_published_one():
    full = default_options("slippery-ant-figure", {"scale": "full"}).config
    assert (full.stream.num_steps, full.stream.change_every) == (20_000_000, 5_000_000)
    assert full.stream.num_envs == 1
    assert full.agent == PRESETS["non-stationary"]


def test_quarters_of_the_rows():
    found = made_results(FIGURE, as_claimed, steps=STEPS)
    assert [quarter(found, number) for number in (1, 3)] == [slice(2, 4), slice(6, 8)]


def test_it_holds_if_all_is_as_claimed():
    found = verdict(as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


@pytest.mark.parametrize(
    ("failed", "method", "metric", "value"),
    [
        ([0], "weight-decay", RANK, lambda row: 10 + row),  # rises, and stays below syre's 26
        ([1], "weight-decay", RETURN, lambda row: 300 + row),
        ([2], "syre", RANK, lambda row: 30 - 2 * row),  # as weight decay
        ([3], "syre", RETURN, lambda row: 700 - 80 * row),
    ],
)
def test_it_holds_in_part_if_a_part_is_otherwise(failed, method, metric, value):
    def values(arm, step):
        changed = {metric: value(step / 20_480)} if arm.method == method else {}
        return as_claimed(arm, step) | changed

    found = verdict(values)
    assert found.outcome == PARTLY
    assert failed_claims(found) == failed


def test_an_agent_that_does_not_learn_means_nothing():
    def values(arm, step):
        return as_claimed(arm, step) | {RETURN: 400 - step / 20_480}

    assert verdict(values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=STEPS)
    # Rows 3 and 4: 30 - 7; rows 7 and 8: 30 - 15.
    assert "weight-decay: rank 23.0 [23.0, 23.0] to 15.0 [15.0, 15.0]" in FIGURE.sentence(found)
    assert "symmetric pairs 3.5 [3.5, 3.5] to 7.5" in FIGURE.sentence(found)
    (returns, rank), _ = FIGURE.panels(found)
    assert [line.label for line in returns.lines] == ["weight-decay", "syre"]
    assert rank.lines[0].positions.tolist() == list(STEPS)
    FIGURE.draw(found, "caption")
