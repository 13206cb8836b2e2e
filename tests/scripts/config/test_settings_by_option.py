import re
from dataclasses import dataclass, field, replace

import pytest

from plasticity.scripts.config.command_line import parse_options
from plasticity.scripts.config.options import default_options
from plasticity.scripts.config.settings_by_option import (
    concerns,
    require_meaning,
    run_settings,
    settings_by_option,
    with_options,
)

DIGITS, ANT = default_options("permuted-digits"), default_options("slippery-ant")


def parse(words, defaults=DIGITS):
    options, _, given = parse_options(defaults, words.split(), program="", description="")
    return options, given


def test_values_by_option_and_back():
    def option_value(options, option):
        return settings_by_option(options)[option].value

    changed = with_options(ANT, {"critic.syre.sigma": 2.0, "syre.strength": 3.0, "gamma": 0.5})
    assert changed.critic == {"syre": {"sigma": 2.0}}
    assert option_value(changed, "critic.syre.sigma") == 2.0
    assert option_value(changed, "critic.syre.strength") is None
    assert option_value(changed, "syre.strength") == 3.0
    assert option_value(changed, "gamma") == 0.5
    assert ANT.critic == {}
    assert with_options(changed, {"critic.syre.sigma": None}).critic == {}


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


def test_a_mitigations_options_concern_the_methods_that_use_it():
    assert concerns("learning-rate", "none")
    assert concerns("syre.sigma", "syre+shift")
    assert concerns("critic.syre.sigma", "syre")
    assert not concerns("syre.sigma", "weight-decay")


@pytest.mark.parametrize(
    ("words", "defaults", "message"),
    [
        (
            "--methods none syre --l2-init.strength 0.5",
            DIGITS,
            "--l2-init.strength 0.5 means nothing to none, syre: leave it out, or add l2-init to --methods.",
        ),
        (
            "--methods none --syre.sigma 0.5",  # the default, but given all the same
            DIGITS,
            "--syre.sigma 0.5 means nothing to none: leave it out, or add syre to --methods.",
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
        require_meaning(*parse(words, defaults))


@pytest.mark.parametrize(
    "words", ["--methods syre+shift --shift.sigma 3 --syre.sigma 3", "", "--methods none"]
)
def test_settings_that_a_method_uses_are_accepted(words):
    require_meaning(*parse(words))
