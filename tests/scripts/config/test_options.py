import json
import re
from dataclasses import replace

import pytest

from plasticity.mitigations import Shift, Syre
from plasticity.scripts.config.command_line import parse_options
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.options import (
    chosen_device,
    default_options,
    options_from_config,
)

DIGITS, ANT = default_options("permuted-digits"), default_options("slippery-ant")


def parse(words, defaults=DIGITS, program="plasticity run"):
    options, extra, _ = parse_options(defaults, words.split(), program=program, description="")
    assert extra is None
    return options


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
        (
            {"learning_rate": 0.1},
            ValueError,
            "Unknown key of the configuration 'learning_rate': it is a setting of agent. Write"
            " agent: {learning_rate: 0.1}.",
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


def test_devices():
    assert chosen_device("cpu") == "cpu"
    assert chosen_device("auto") in ("cpu", "cuda")
    with pytest.raises(ValueError, match=re.escape("Unknown --device 'cpuu'. Did you mean 'cpu'")):
        chosen_device("cpuu")
    with pytest.raises(ValueError, match="--device cuda:99 cannot be used here"):
        chosen_device("cuda:99")
