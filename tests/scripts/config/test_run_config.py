import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity import tasks
from plasticity.agents.networks.image import ACTIVATIONS, NetworkConfig
from plasticity.agents.supervised.classifier import ClassifierConfig
from plasticity.checks import require_known
from plasticity.metrics.registry import METRICS
from plasticity.scripts.config.run_config import (
    ENGINES,
    AntRunConfig,
    ImageRunConfig,
    completed,
    differences,
)

CONFIG = ImageRunConfig(
    benchmark="permuted-digits",
    method="syre",
    seed=3,
    dataset="digits",
    num_tasks=5,
    strength=0.01,
    sigma=0.5,
)

widths = st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple)
positive = st.floats(1e-9, 1e3)
networks = st.builds(
    NetworkConfig,
    architecture=st.sampled_from(["cnn", "mlp"]),
    channels=widths,
    downsampling=st.sampled_from(["stride", "max-pool"]),
    kernel_size=st.sampled_from([1, 3, 5]),
    hidden=widths,
    activation=st.sampled_from(sorted(ACTIVATIONS)),
)
classifiers = st.one_of(
    st.builds(
        ClassifierConfig,
        learning_rate=positive,
        momentum=st.floats(0, 0.999),
        batch_size=st.integers(1, 10**6),
        epochs_per_task=st.integers(1, 100),
        loss=st.sampled_from(["cross-entropy", "squared-error"]),
        train_evaluation_size=st.integers(1, 10**6),
        precision=st.sampled_from(["float32", "bf16"]),
        compile=st.booleans(),
    ),
    st.builds(
        ClassifierConfig, optimizer=st.sampled_from(["adam", "adamw"]), learning_rate=positive
    ),
)
configs = st.builds(
    ImageRunConfig,
    benchmark=st.text(max_size=20),
    method=st.text(max_size=20),
    seed=st.integers(0, 2**64 - 1),
    dataset=st.text(max_size=20),
    num_tasks=st.integers(1, 10**9),
    strength=st.floats(0, 10),
    sigma=st.floats(0, 10),
    anisotropy=st.floats(0, 0.5),
    decoupled=st.sampled_from([None, True, False]),
    data_dir=st.none() | st.text(max_size=20),
    device=st.sampled_from(["cpu", "cuda:1", "mps"]),
    metrics=st.lists(st.sampled_from(sorted(METRICS)), unique=True).map(tuple),
    probe_size=st.integers(2, 10**6),
    network=networks,
    classifier=classifiers,
)


@given(configs)
@settings(max_examples=150, deadline=None)
def test_what_is_saved_is_read_back(config):
    saved = json.loads(json.dumps(config.to_json()))
    assert ImageRunConfig.from_json(saved) == config
    assert differences(saved, config.to_json()) == []


def test_saved_form_is_flat_and_has_every_option():
    saved = CONFIG.to_json()
    assert not any(isinstance(value, dict) for value in saved.values())
    # 13 own fields besides network and classifier, 6 and 9 of these, none of the same name
    assert len(saved) == 13 + 6 + 9
    assert saved["learning_rate"] == 0.01
    assert saved["hidden"] == [64]


def test_what_a_run_folder_adds_is_no_setting():
    saved = {**CONFIG.to_json(), "versions": {"torch": "2"}, "git_commit": None}
    assert ImageRunConfig.from_json(saved) == CONFIG


def test_misspelt_key_is_reported_with_the_nearest():
    saved = CONFIG.to_json()
    saved["learning_rat"] = saved.pop("learning_rate")
    with pytest.raises(ValueError, match=r"'learning_rat'\. Did you mean 'learning_rate'"):
        ImageRunConfig.from_json(saved)


@pytest.mark.parametrize("key", ["seed", "hidden", "batch_size", "strength"])
def test_missing_key_is_reported(key):
    saved = CONFIG.to_json()
    del saved[key]
    with pytest.raises(ValueError, match=f"lacks {key}"):
        ImageRunConfig.from_json(saved)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seed", "1", "seed"),
        ("seed", -1, "seed"),
        ("seed", 2**64, "seed"),
        ("num_tasks", 0, "tasks"),
        ("num_tasks", 2.5, "tasks"),
        ("strength", -0.1, "strength"),
        ("strength", math.nan, "strength"),
        ("strength", math.inf, "strength"),
        ("sigma", -1, "sigma"),
        ("sigma", math.nan, "sigma"),
        ("anisotropy", 0.6, "anisotropy"),
        ("learning_rate", 0, "learning_rate"),
        ("learning_rate", -1.0, "learning_rate"),
        ("learning_rate", math.nan, "learning_rate"),
        ("learning_rate", "fast", "learning_rate"),
        ("probe_size", 1, "probe_size"),
        ("hidden", 64, "hidden"),
        ("hidden", [6.5], "width"),
        ("batch_size", [64], "batch_size"),
        ("method", ["syre"], "method"),
        ("method", 3, "method"),
        ("data_dir", 3, "data_dir"),
        ("metrics", "srank", "metrics"),
        ("metrics", [3], "metrics"),
        ("metrics", ["sranc"], "Did you mean 'srank'"),
        ("metrics", ["srank", "srank"], "twice"),
        ("decoupled", "yes", "decoupled"),
        ("optimizer", "sdg", "Did you mean 'sgd'"),
        ("precision", "bf61", "Did you mean 'bf16'"),
        ("compile", "no", "compile"),
    ],
)
def test_wrong_value_is_refused_by_name(key, value, named):
    with pytest.raises((ValueError, TypeError), match=named):
        ImageRunConfig.from_json({**CONFIG.to_json(), key: value})


def test_strength_zero_is_a_control():
    assert replace(CONFIG, strength=0.0).strength == 0.0


def test_differences_names_every_changed_key_with_both_values():
    other = replace(
        CONFIG, sigma=0.1, classifier=ClassifierConfig(batch_size=32), metrics=("srank",)
    )
    named = differences(CONFIG.to_json(), other.to_json())
    assert [entry.split(" ")[0] for entry in named] == ["sigma", "metrics", "batch_size"]
    assert named[0] == "sigma (there 0.5, now 0.1)"


def test_length_device_and_place_of_the_data_may_change():
    other = replace(CONFIG, num_tasks=9, device="cuda", data_dir="elsewhere")
    assert differences(CONFIG.to_json(), other.to_json()) == []


ANT = AntRunConfig(
    benchmark="slippery-ant", method="syre", seed=3, num_steps=4096, change_every=1024
)


def test_ants_that_were_saved_before_there_was_a_choice_of_engine_are_bullets():
    saved = ANT.to_json()
    del saved["engine"]
    assert AntRunConfig.from_json(saved) == ANT
    assert differences(saved, ANT.to_json()) == []
    other = replace(ANT, engine="mujoco")
    assert differences(saved, other.to_json()) == ["engine (there 'bullet', now 'mujoco')"]
    # Images have none.
    assert "engine" not in completed(CONFIG.to_json())


def test_runs_that_were_saved_before_there_was_a_choice_of_precision_are_of_float32():
    saved = {
        name: value
        for name, value in CONFIG.to_json().items()
        if name not in ("precision", "compile")
    }
    assert ImageRunConfig.from_json(saved) == CONFIG
    assert differences(saved, CONFIG.to_json()) == []
    other = replace(CONFIG, classifier=ClassifierConfig(precision="bf16"))
    named = "precision (there 'float32', now 'bf16')"
    assert differences(saved, other.to_json()) == [named]
    # Which is how a step is run: a run that began on a GPU goes on without one.
    other = replace(CONFIG, classifier=ClassifierConfig(compile=True))
    assert differences(saved, other.to_json()) == []
    ants = ANT.to_json()
    del ants["compile"]
    assert AntRunConfig.from_json(ants) == ANT


def test_an_engine_that_is_saved_is_read():
    config = replace(ANT, engine="warp")
    assert AntRunConfig.from_json(config.to_json()) == config
    assert set(ENGINES) == set(tasks.ENGINES)
    with pytest.raises(ValueError, match=r"Unknown engine 'mujocco'\. Did you mean 'mujoco'\?"):
        replace(ANT, engine="mujocco")
    with pytest.raises(TypeError, match="engine must be a name"):
        replace(ANT, engine=3)


def test_require_known_suggests_the_nearest():
    require_known("method", "syre", {"syre": 1})
    with pytest.raises(ValueError, match=r"Unknown method 'sire'\. Did you mean 'syre'\?"):
        require_known("method", "sire", {"syre": 1, "none": 2})
