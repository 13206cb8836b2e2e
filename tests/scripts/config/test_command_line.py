import re
from dataclasses import replace
from pathlib import Path

import pytest

from plasticity.mitigations import MITIGATIONS, L2Init, Shift, Syre, WeightDecay
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.command_line import SweepOptions, parse_options, parse_value
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.options import (
    default_options,
    options_from_config,
)
from plasticity.scripts.config.settings_by_option import run_settings

DIGITS, ANT = default_options("permuted-digits"), default_options("slippery-ant")


def parse(words, defaults=DIGITS, program="plasticity run"):
    options, extra, _ = parse_options(defaults, words.split(), program=program, description="")
    assert extra is None
    return options


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_words_nothing_changes(name):
    defaults = default_options(name)
    assert parse("", defaults) == defaults


def test_words_change_settings():
    options = parse(
        "--methods none syre --seeds 0..2 7 --out o --device cpu --jobs 2 --stack 3 --tasks 9 --hidden 5 6"
        " --optimizer adam --momentum 0 --learning-rate 1e-3 --compile False --metrics srank --data-dir d"
        " --syre.sigma 2 --syre.decoupled True --weight-decay.strength 3e-5"
    )
    assert options.methods == ("none", "syre")
    assert options.seeds == (0, 1, 2, 7)
    assert (options.out, options.device, options.jobs, options.stack) == (Path("o"), "cpu", 2, 3)
    values = {
        **{"stream.num_tasks": 9, "stream.data_dir": "d", "network.hidden": (5, 6)},
        **{"agent.optimizer": "adam", "agent.momentum": 0.0, "agent.learning_rate": 1e-3},
        "tracking.metrics": ("srank",),
    }
    assert options.config == with_values(DIGITS.config, values)
    tuned = {
        "weight-decay": WeightDecay(strength=3e-5),
        "syre": Syre(strength=3e-3, sigma=2.0, decoupled=True),
        "l2-init": L2Init(strength=1e-2),
        "shift": Shift(sigma=0.5),
    }
    defaults = {name: kind() for name, kind in MITIGATIONS.items()}
    assert options.mitigations == defaults | tuned


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--syre.sigm 1", "--syre.sigma"),
        ("--strength 1", "Unrecognized options: --strength"),
        ("--learning-rate fast", "--learning-rate"),
        ("--dataset mnist", "Unrecognized options: --dataset"),
        ("--stack some", "--stack"),
    ],
)
def test_wrong_words_end_with_a_message(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_wrong_values_are_refused_by_their_dataclasses():
    with pytest.raises(ValueError, match="sigma must be a finite number of at least 0"):
        parse("--syre.sigma -1")
    with pytest.raises(
        ValueError,
        match=re.escape("momentum=0.9 applies to sgd only, not to adam: set it to 0."),
    ):
        parse("--optimizer adam")


@pytest.mark.parametrize("name", ["permuted-mnist", "slippery-ant"])
def test_help_has_every_setting_with_its_docstring_and_default(name, capsys):
    defaults = default_options(name)
    with pytest.raises(SystemExit):
        parse("--help", defaults)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for option, each in run_settings(defaults.config).items():
        assert f"--{option} " in text
        assert each.help, f"{each.path} has no docstring"
        assert " ".join(each.help.split()) in text
    for prefix in ("", "critic.") if name == "slippery-ant" else ("",):
        assert f"--{prefix}syre.sigma" in text
        assert f"--{prefix}weight-decay.strength" in text
    assert "engine" not in dict.fromkeys(run_settings(defaults.config))
    assert ("--preset {nature,syre,small}" in text) == (name == "slippery-ant")


def test_presets_are_no_options_beside_a_file(capsys):
    with pytest.raises(SystemExit):
        parse("--help", options_from_config("slippery-ant", {"stream": {"change_every": 800}}))
    text = capsys.readouterr().out
    assert "--preset" not in text  # its default would not be what the runs have
    assert "--agent" not in text


def test_the_settings_that_were_typed_are_given_also_at_their_defaults():
    words = "--methods none --weight-decay.strength 1e-3 --learning_rate=0.01 --grid momentum=0"
    options, extra, given = parse_options(
        DIGITS, words.split(), program="plasticity sweep", description="", extra=SweepOptions()
    )
    assert given == ["learning-rate", "weight-decay.strength"]
    assert extra == SweepOptions(grid=("momentum=0",))
    assert options == replace(DIGITS, methods=("none",))


def test_one_value_as_its_field_has_it():
    assert parse_value(DIGITS, "hidden", "64 32") == (64, 32)
    assert parse_value(DIGITS, "syre.sigma", "1") == 1.0
    assert parse_value(ANT, "critic.syre.sigma", "1") == 1.0
    assert parse_value(DIGITS, "compile", "True") is True
    assert parse_value(DIGITS, "data-dir", "my data/mnist") == "my data/mnist"
