"""Files of tuned settings: what `plasticity run --tuned` reads, and refuses."""

import json
import re
from dataclasses import replace

import pytest

from plasticity.scripts.config.options import default_options
from plasticity.scripts.config.tuned import Tuned, read_tuned, require_tuned, with_tuned

OPTIONS = replace(default_options("permuted-digits"), methods=("none", "syre"), seeds=(0, 1))
CONTENT = {
    "benchmark": "permuted-digits",
    "seeds": [1000, 1001],
    "methods": {
        "none": {"settings": {"learning-rate": 0.5}},
        "syre": {"settings": {"learning-rate": 0.25, "syre.sigma": 2.0}},
        "layer-norm+syre": {
            "settings": {"syre.sigma": 4.0, "betas": [0.5, 0.75], "optimizer": "adam"}
        },
    },
}


def written(tmp_path, **changes):
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({**CONTENT, **changes}))
    return replace(OPTIONS, tuned=file)


def test_each_method_has_its_own_settings(tmp_path):
    options = written(tmp_path)
    require_tuned(options)
    assert with_tuned(options, "none").config.agent.learning_rate == 0.5
    chosen = with_tuned(options, "syre")
    assert chosen.config.agent.learning_rate == 0.25
    assert chosen.mitigations["syre"] == replace(OPTIONS.mitigations["syre"], sigma=2.0)
    run = chosen.run_config("syre", 3)
    assert run.tuned_on == (1000, 1001)
    assert run.read(json.loads(json.dumps(run.to_json()))) == run
    assert read_tuned(options.tuned) == Tuned(
        benchmark="permuted-digits",
        seeds=(1000, 1001),
        methods={
            "none": {"learning-rate": 0.5},
            "syre": {"learning-rate": 0.25, "syre.sigma": 2.0},
            "layer-norm+syre": {"syre.sigma": 4.0, "betas": (0.5, 0.75), "optimizer": "adam"},
        },
    )


def test_without_a_file_nothing_changes():
    require_tuned(OPTIONS)
    assert with_tuned(OPTIONS, "syre") == OPTIONS


@pytest.mark.parametrize(
    ("changes", "options", "given", "message"),
    [
        (
            {"benchmark": "permuted-mnist"},
            {},
            (),
            "was searched on permuted-mnist, not on permuted-digits",
        ),
        ({"seeds": [1, 5]}, {}, (), "--seeds 1 chose the settings of --tuned"),
        (
            {},
            {"methods": ("none", "redo")},
            (),
            "has no settings of redo, only of none, syre, layer-norm",
        ),
        ({}, {}, ("learning-rate",), "--learning-rate is given, and --tuned"),
        (
            {"methods": {"none": {"settings": {"learning-rat": 1}}}},
            {"methods": ("none",)},
            (),
            "'learning-rat'. Did you mean 'learning-rate'",
        ),
        ({"methods": [1]}, {}, (), "is not the file of a search"),
        ({"methods": {"none": {}}}, {}, (), "is not the file of a search (KeyError('settings'))"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, changes, options, given, message):
    chosen = replace(written(tmp_path, **changes), **options)
    with pytest.raises(ValueError, match=re.escape(message)):
        require_tuned(chosen, given)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    file = tmp_path / "no.json"
    with pytest.raises(
        ValueError, match=r"cannot be read \(No such file.*make it with plasticity tune"
    ):
        read_tuned(file)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"is not the file of a search"):
        read_tuned(file)
