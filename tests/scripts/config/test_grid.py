import re
from dataclasses import replace

import pytest

from plasticity.mitigations import MITIGATIONS, Syre, WeightDecay
from plasticity.scripts.config.command_line import SweepOptions, parse_options
from plasticity.scripts.config.grid import Axis, parse_grid, points
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.options import default_options

DIGITS, ANT = default_options("permuted-digits"), default_options("slippery-ant")


def test_values_of_any_setting():
    words = ["learning_rate=1e-3,1e-2", "syre.sigma=1", "hidden=64,64 32", "--metrics=srank"]
    axes = parse_grid([*words, "optimizer=sgd,adam"], DIGITS, [])
    assert axes == [
        Axis("learning-rate", (1e-3, 1e-2)),
        Axis("syre.sigma", (1.0,)),
        Axis("hidden", ((64,), (64, 32))),
        Axis("metrics", (("srank",),)),
        Axis("optimizer", ("sgd", "adam")),
    ]
    (axis,) = parse_grid(["critic.syre.sigma=1,2"], ANT, [])
    assert axis == Axis("critic.syre.sigma", (1.0, 2.0))


def test_without_words_the_mitigations_searches():
    axes = parse_grid([], DIGITS, [])  # methods none, weight-decay, syre
    names = ["weight-decay.strength", "syre.strength", "syre.sigma"]
    assert [axis.option for axis in axes] == names
    assert axes[-1].values == Syre.search["sigma"]
    assert parse_grid([], replace(DIGITS, methods=("none",)), []) == []


def test_the_word_own_adds_the_mitigations_searches_of_what_is_not_named():
    axes = parse_grid(["own", "learning-rate=1e-3,1e-2", "syre.sigma=1"], DIGITS, [])
    assert axes == [
        Axis("learning-rate", (1e-3, 1e-2)),
        Axis("syre.sigma", (1.0,)),
        Axis("weight-decay.strength", WeightDecay.search["strength"]),
        Axis("syre.strength", Syre.search["strength"]),
    ]
    assert parse_grid(["own"], DIGITS, []) == parse_grid([], DIGITS, [])


@pytest.mark.parametrize("method", MITIGATIONS)
def test_runs_can_have_every_value_of_every_mitigations_search(method):
    for axis in parse_grid([], replace(DIGITS, methods=(method,)), []):
        name, _, field = axis.option.partition(".")
        for value, (_, chosen) in zip(axis.values, points([axis], method, DIGITS), strict=True):
            assert getattr(chosen.mitigations[name], field.replace("-", "_")) == value


def test_every_combination_of_what_a_method_uses():
    axes = parse_grid(["learning-rate=1,2", "syre.sigma=3,4", "hidden=5 6"], DIGITS, [])
    plain = dict(points(axes, "none", DIGITS))
    assert list(plain) == ["learning-rate=1,hidden=5-6", "learning-rate=2,hidden=5-6"]
    values = {"agent.learning_rate": 2.0, "network.hidden": (5, 6)}
    assert plain["learning-rate=2,hidden=5-6"].config == with_values(DIGITS.config, values)
    syre = dict(points(axes, "syre+shift", DIGITS))
    assert list(syre) == [
        f"learning-rate={rate},syre.sigma={sigma},hidden=5-6" for rate in (1, 2) for sigma in (3, 4)
    ]
    last = syre["learning-rate=2,syre.sigma=4,hidden=5-6"]
    assert last.mitigations["syre"].sigma == 4.0
    assert last.config == with_values(DIGITS.config, values)


def test_a_method_that_uses_nothing_of_the_grid_runs_once():
    axes = parse_grid(["syre.sigma=3,4"], DIGITS, [])
    assert list(points(axes, "none", DIGITS)) == [("", DIGITS)]


def test_close_values_have_folders_of_their_own():
    # The first six digits of the last two are the same.
    axes = parse_grid(["syre.sigma=0.1,1,0.1234567,0.1234568"], DIGITS, [])
    assert [name for name, _ in points(axes, "syre", DIGITS)] == [
        "syre.sigma=0.1",
        "syre.sigma=1",
        "syre.sigma=0.1234567",
        "syre.sigma=0.1234568",
    ]


def test_values_that_fit_only_together():
    # A rollout of 8192 and its minibatches of 4096; neither fits without the other.
    words = ["minibatch-size=4096", "rollout-steps=8192", "measure-every=8192"]
    ((_, options),) = points(parse_grid(words, ANT, []), "none", ANT)
    assert options.config.agent.minibatch_size == 4096
    with pytest.raises(ValueError, match="minibatch_size"):
        list(points(parse_grid(words[:1], ANT, []), "none", ANT))


def test_none_for_the_critic_is_the_actors():
    axes = parse_grid(["critic.syre.sigma=None,2"], ANT, [])
    found = [options.run_config("syre", 0) for _, options in points(axes, "syre", ANT)]
    assert [each.method_of_critic[0].sigma for each in found] == [0.3, 2.0]


def test_values_that_differ_in_their_last_digits_have_their_own_folders():
    axes = parse_grid(["learning-rate=0.1234567,0.12345671,1e-5,1.0,0.1"], DIGITS, [])
    assert [name for name, _ in points(axes, "none", DIGITS)] == [
        f"learning-rate={text}" for text in ("0.1234567", "0.12345671", "1e-05", "1", "0.1")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["learning-rat=1"],
            "Unknown setting of a grid 'learning-rat'. Did you mean 'learning-rate'?",
        ),
        (["syre.sigm=1"], "Unknown setting of a grid 'syre.sigm'. Did you mean 'syre.sigma'?"),
        (["critic.syre.sigma=1"], "Unknown setting of a grid 'critic.syre.sigma'."),
        (["seeds=1"], "Unknown setting of a grid 'seeds'."),
        (["dataset=mnist"], "Unknown setting of a grid 'dataset'."),
        (["syre.sigma"], "--grid 'syre.sigma': give an option and its values"),
        (["syre.sigma="], "--grid 'syre.sigma=': give an option and its values"),
        (["syre.sigma=1,"], "--grid 'syre.sigma=1,': give an option and its values"),
        (["syre.sigma=1,1.0"], "--grid syre.sigma names 1.0 twice: once is enough."),
        (["syre.sigma=1", "syre.sigma=2"], "--grid names syre.sigma twice: once is enough."),
        (
            ["l2-init.strength=1"],
            "--grid l2-init.strength means nothing to none, weight-decay, syre: leave it out, or add l2-init",
        ),
    ],
)
def test_wrong_grids_are_refused(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_grid(words, DIGITS, [])


@pytest.mark.parametrize(
    "words",
    [
        ["--syre.sigma", "2"],
        ["--syre.sigma=2"],
        ["--syre.sigma", "0.5"],  # the default, but given all the same
        ["--grid", "learning-rate=1", "--syre.sigma", "2"],
    ],
)
def test_a_setting_that_has_its_option_too_is_refused(words):
    options, _, given = parse_options(
        DIGITS, words, program="plasticity sweep", description="", extra=SweepOptions()
    )
    assert given == ["syre.sigma"]
    with pytest.raises(
        ValueError, match=re.escape("--syre.sigma is in the grid: leave out the option")
    ):
        parse_grid(["syre.sigma=1"], options, given)
    # Without --grid, the mitigation's own search would replace what the option says.
    with pytest.raises(ValueError, match="leave out the option, or name the settings to try with"):
        parse_grid([], options, given)
    with pytest.raises(ValueError, match="or name the settings to try instead of own"):
        parse_grid(["own"], options, given)


def test_a_preset_is_no_setting_of_a_grid():
    message = (
        "--grid preset=… is no setting of a run: it chooses the defaults of others. Sweep once for"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_grid(["preset=small,nature"], ANT, [])
    with pytest.raises(ValueError, match="Unknown setting of a grid 'preset'"):
        parse_grid(["preset=small,nature"], DIGITS, [])


def test_a_value_of_the_wrong_type_ends_with_a_message(capsys):
    with pytest.raises(SystemExit):
        parse_grid(["learning-rate=fast"], DIGITS, [])
    assert "--learning-rate" in capsys.readouterr().err
