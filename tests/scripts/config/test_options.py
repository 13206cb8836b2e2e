import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from plasticity.mitigations import L2Init, Shift, Syre, WeightDecay
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.options import (
    chosen_device,
    default_options,
    options_from_config,
    parse_options,
    parse_value,
    require_meaning,
    run_settings,
)

DIGITS, ANT = default_options("permuted-digits"), default_options("slippery-ant")


def parse(words, defaults=DIGITS, program="plasticity run"):
    options, grid = parse_options(defaults, words.split(), program=program, description="")
    assert grid == ()
    return options


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_words_nothing_changes(name):
    defaults = default_options(name)
    assert parse("", defaults) == replace(
        defaults, critic={n: {} for n in parse("", defaults).critic}
    )


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
    assert options.mitigations == {
        "weight-decay": WeightDecay(strength=3e-5),
        "syre": Syre(strength=3e-3, sigma=2.0, decoupled=True),
        "l2-init": L2Init(strength=1e-2),
        "shift": Shift(sigma=0.5),
    }


def test_the_critics_settings_are_the_actors_unless_given():
    options = parse("--syre.strength 0.1 --critic.syre.sigma 2", ANT)
    assert options.run_config("weight-decay", 0).critic_method is None
    found = options.run_config("syre", 4)
    assert found.method == (Syre(strength=0.1, sigma=0.3),)
    assert found.critic_method == (Syre(strength=0.1, sigma=2.0),)
    assert found.seed == 4


def test_settings_of_one_run():
    options = parse("--syre.sigma 2 --device cpu --methods syre+shift")
    found = options.run_config("syre+shift", 3)
    assert found.method == (Syre(strength=3e-3, sigma=2.0), Shift(sigma=0.5))
    assert replace(found, method=(), seed=0) == replace(DIGITS.config, device="cpu")
    with pytest.raises(ValueError, match=re.escape("Unknown method 'sire'. Did you mean 'syre'")):
        options.run_config("sire", 0)


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


def test_two_settings_of_one_option_are_refused():
    @dataclass(frozen=True)
    class Agent:
        num_tasks: int = field(default=1, metadata={"option": "tasks"})
        compile: bool = False

    with pytest.raises(
        ValueError, match=re.escape("have the option --tasks (agent.num_tasks is one)")
    ):
        run_settings(replace(DIGITS.config, agent=Agent()))

    @dataclass(frozen=True)
    class OfTheCommand:
        out: str = ""
        compile: bool = False

    with pytest.raises(ValueError, match=re.escape("have the option --out (agent.out is one)")):
        run_settings(replace(DIGITS.config, agent=OfTheCommand()))


def test_one_value_as_its_field_has_it():
    assert parse_value(DIGITS, "hidden", "64 32") == (64, 32)
    assert parse_value(DIGITS, "syre.sigma", "1") == 1.0
    assert parse_value(ANT, "critic.syre.sigma", "1") == 1.0
    assert parse_value(DIGITS, "compile", "True") is True
    assert parse_value(DIGITS, "data-dir", "my data/mnist") == "my data/mnist"


# ---- files ------------------------------------------------------------------------------------------


def test_a_runs_configuration_repeats_the_run():
    config = parse("--syre.sigma 2 --tasks 3 --device cpu").run_config("syre", 5)
    saved = json.loads(json.dumps({**config.to_json(), "git_commit": None}))
    options = options_from_config("permuted-digits", saved)
    assert options.methods == ("syre",)
    assert options.seeds == (5,)
    assert options.run_config("syre", 5) == config
    # Other mitigations keep their tuned settings: a method can be set beside it.
    assert options.mitigations["weight-decay"] == DIGITS.mitigations["weight-decay"]


def test_the_critics_method_is_repeated():
    config = parse("--critic.syre.sigma 2 --device cpu", ANT).run_config("syre", 5)
    options = options_from_config("slippery-ant", json.loads(json.dumps(config.to_json())))
    assert options.run_config("syre", 5) == config


def test_missing_keys_have_the_values_of_the_benchmark():
    saved = {"agent": {"learning_rate": 0.5}, "method": {"syre": {"sigma": 9}}}
    options = options_from_config("permuted-digits", saved)
    assert options.config == with_values(DIGITS.config, {"agent.learning_rate": 0.5})
    assert options.mitigations["syre"] == Syre(strength=3e-3, sigma=9)
    assert options.methods == ("syre",)
    assert options.seeds == DIGITS.seeds
    assert options_from_config("permuted-digits", {}) == DIGITS


def test_a_whole_number_in_a_file_is_a_float_where_the_setting_is_one():
    saved = {"agent": {"betas": [0, 0], "target_kl": 1}, "method": {"syre": {"sigma": 3}}}
    config = options_from_config("slippery-ant", saved).run_config("syre", 0)
    plain = config.to_json()
    found = (plain["agent"]["betas"], plain["agent"]["target_kl"], plain["method"]["syre"]["sigma"])
    # Of runs whose settings differ in text, a report makes two arms.
    assert json.dumps(found) == "[[0.0, 0.0], 1.0, 3.0]"
    assert plain["agent"]["epochs"] == 10


def test_what_a_file_does_not_give_the_critic_is_the_actors():
    saved = {"method": {"syre": {"sigma": 3}}, "critic_method": {"syre": {"strength": 0.5}}}
    options = options_from_config("slippery-ant", saved)
    assert options.run_config("syre", 0).critic_method == (Syre(strength=0.5, sigma=3),)
    changed = parse("--syre.sigma 4", options).run_config("syre", 0)
    assert changed.critic_method == (Syre(strength=0.5, sigma=4),)
    for plain in ("syre", {"syre": None}, {"syre": {}}):
        options = options_from_config("slippery-ant", {**saved, "critic_method": plain})
        assert options.run_config("syre", 0).method_of_critic == (Syre(strength=1e-3, sigma=3),)


@pytest.mark.parametrize(
    ("saved", "methods"),
    [
        ({"critic_method": "l2-init"}, "none or weight-decay or syre"),
        ({"critic_method": {"l2-init": {}}, "method": "syre"}, "syre"),
        ({"critic_method": {}, "method": "syre"}, "syre"),
    ],
)
def test_a_critic_whose_method_no_run_has_is_refused(saved, methods):
    message = f"must have the mitigations of method, which is {methods}: give the same"
    with pytest.raises(ValueError, match=message):
        options_from_config("slippery-ant", saved)


def test_another_benchmark_of_the_same_kind_takes_the_settings():
    saved = DIGITS.config.to_json()
    options = options_from_config("permuted-fashion", saved)
    assert options.config.stream.dataset == "fashion-mnist"
    assert options.config.agent == DIGITS.config.agent
    assert options.config.benchmark == "permuted-fashion"


@pytest.mark.parametrize(
    ("saved", "error", "message"),
    [
        (
            {"agnet": {}},
            ValueError,
            "Unknown key of the configuration 'agnet'. Did you mean 'agent'?",
        ),
        ({"agent": {"batch": 1}}, ValueError, "Unknown key of agent 'batch'."),
        ({"agent": {"batch_size": 0}}, ValueError, "batch_size must be at least 1"),
        ({"benchmark": "mnist"}, ValueError, "Unknown benchmark 'mnist'."),
        ({"benchmark": 3}, TypeError, "benchmark must be a name, not 3."),
        (
            {"benchmark": "slippery-ant"},
            ValueError,
            "it is of slippery-ant, whose settings mean nothing to permuted-digits.",
        ),
        (
            {"stream": {"dataset": "mnist"}},
            ValueError,
            "stream.dataset must be 'digits', that of permuted-digits, not 'mnist'.",
        ),
    ],
)
def test_wrong_files_are_refused(saved, error, message):
    with pytest.raises(error, match=re.escape(message)):
        options_from_config("permuted-digits", saved)


# ---- checks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "defaults", "message"),
    [
        (
            "--methods none syre --l2-init.strength 0.5",
            DIGITS,
            "--l2-init.strength 0.5 means nothing to none, syre: leave it out, or add l2-init to --methods.",
        ),
        (
            "--methods weight-decay --critic.syre.sigma 0.5",
            ANT,
            "--critic.syre.sigma 0.5 means nothing to weight-decay: leave it out",
        ),
    ],
)
def test_settings_that_no_method_uses_are_refused(words, defaults, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        require_meaning(parse(words, defaults), defaults)


def test_settings_that_a_method_uses_are_accepted():
    require_meaning(parse("--methods syre+shift --shift.sigma 3 --syre.sigma 3"), DIGITS)
    require_meaning(parse(""), DIGITS)
    require_meaning(parse("--methods none"), DIGITS)


def test_devices():
    assert chosen_device("cpu") == "cpu"
    assert chosen_device("auto") in ("cpu", "cuda")
    with pytest.raises(ValueError, match=re.escape("Unknown --device 'cpuu'. Did you mean 'cpu'")):
        chosen_device("cpuu")
    with pytest.raises(ValueError, match="--device cuda:99 cannot be used here"):
        chosen_device("cuda:99")
