import json
import math
import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.networks.layers import ACTIVATIONS
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.sb3 import DQNConfig, SACConfig, SB3PPOConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.metrics.registry import METRICS
from plasticity.mitigations import DASH, L2Init, LayerNorm, ReDo, Shift, Syre, WeightDecay
from plasticity.scripts.config.nested import flattened, with_values
from plasticity.scripts.config.run_config import (
    ControlRunConfig,
    ControlTracking,
    SupervisedRunConfig,
    SupervisedTracking,
    differences,
    method_from_plain,
)
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.streams.base import SupervisedStreamConfig
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

CONFIG = SupervisedRunConfig(
    benchmark="permuted-digits",
    method=(Syre(strength=0.01, sigma=0.5),),
    seed=3,
    stream=PermutedImagesConfig(dataset="digits", num_tasks=5),
)
ANT = ControlRunConfig(
    benchmark="slippery-ant",
    method=(Syre(),),
    seed=3,
    stream=SlipperyAntConfig(engine="bullet", num_steps=4096, change_every=1024),
)

widths = st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple)
positive = st.floats(1e-9, 1e3)
activations = st.sampled_from(sorted(ACTIVATIONS))
networks = st.one_of(
    st.builds(
        CNN,
        channels=widths,
        downsampling=st.sampled_from(["stride", "max-pool"]),
        kernel_sizes=st.sampled_from([(1,), (3,), (5,)]),
        hidden=widths,
        activation=activations,
    ),
    st.builds(MLP, hidden=widths, activation=activations),
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
    ),
    st.builds(
        ClassifierConfig, optimizer=st.sampled_from(["adam", "adamw"]), learning_rate=positive
    ),
)
decoupled = st.sampled_from([None, True, False])
decays = st.one_of(
    st.builds(WeightDecay, strength=st.floats(0, 10), decoupled=decoupled),
    st.builds(L2Init, strength=st.floats(0, 10), decoupled=decoupled),
    st.builds(
        Syre,
        strength=st.floats(0, 10),
        sigma=st.floats(0, 10),
        anisotropy=st.floats(0, 0.5),
        decoupled=decoupled,
    ),
)
shifts = st.builds(Shift, sigma=st.floats(0, 10))
methods = st.one_of(
    st.just(()),
    st.tuples(decays),
    st.tuples(shifts),
    st.tuples(decays, shifts),
    st.tuples(shifts, decays),
)
metrics = st.lists(st.sampled_from(sorted(METRICS)), unique=True).map(tuple)
policy_metrics = metrics.map(
    lambda names: tuple(n for n in names if METRICS[n].kind not in ("step", "loss"))
)
configs = st.one_of(
    st.builds(
        SupervisedRunConfig,
        benchmark=st.text(max_size=20),
        method=methods,
        seed=st.integers(0, 2**64 - 1),
        device=st.sampled_from(["cpu", "cuda:1", "mps"]),
        stream=st.builds(
            PermutedImagesConfig,
            dataset=st.text(max_size=20),
            num_tasks=st.integers(1, 10**9),
            data_dir=st.none() | st.text(max_size=20),
        ),
        tracking=st.builds(
            SupervisedTracking,
            metrics=metrics,
            probe_size=st.integers(2, 10**6),
            reference_every=st.none() | st.integers(1, 50),
        ),
        network=networks,
        agent=classifiers,
    ),
    st.builds(
        ControlRunConfig,
        benchmark=st.text(max_size=20),
        method=st.one_of(st.just(()), st.tuples(decays)),
        critic_method=st.one_of(st.none(), st.just(()), st.tuples(decays)),
        seed=st.integers(0, 2**64 - 1),
        stream=st.builds(
            SlipperyAntConfig,
            engine=st.sampled_from(["bullet", "mujoco", "warp"]),
            num_steps=st.integers(1, 10**9),
            change_every=st.integers(1, 1000).map(lambda n: 8 * n),
            cores=st.none() | st.integers(1, 64),
        ),
        tracking=st.builds(ControlTracking, metrics=policy_metrics),
        agent=st.builds(PPOConfig, learning_rate=positive, hidden=widths),
    ),
)


@given(configs)
@settings(max_examples=150, deadline=None)
def test_what_is_saved_is_read_back(config):
    saved = json.loads(json.dumps(config.to_json()))
    assert config.read(saved) == config
    assert differences(saved, config) == []


def test_the_saved_form_is_nested():
    saved = CONFIG.to_json()
    assert saved["method"] == {
        "syre": {"strength": 0.01, "decoupled": None, "sigma": 0.5, "anisotropy": 0.0}
    }
    assert saved["agent"]["learning_rate"] == 0.01
    assert saved["network"]["hidden"] == [64]
    assert saved["stream"] == vars(CONFIG.stream)
    assert (saved["stream"]["dataset"], saved["stream"]["num_tasks"]) == ("digits", 5)
    assert replace(CONFIG, method=()).to_json()["method"] == {}
    assert ANT.to_json()["critic_method"] is None


def test_what_a_run_folder_adds_is_no_setting():
    saved = {**CONFIG.to_json(), "versions": {"torch": "2"}, "git_commit": None}
    assert CONFIG.read(saved) == CONFIG
    assert differences(saved, CONFIG) == []


def test_a_misspelt_key_is_reported_with_the_nearest():
    saved = CONFIG.to_json()
    saved["agent"]["learning_rat"] = saved["agent"].pop("learning_rate")
    named = r"key of agent 'learning_rat'\. Did you mean 'learning_rate'"
    with pytest.raises(ValueError, match=named):
        CONFIG.read(saved)


def test_a_missing_key_has_the_default_of_its_dataclass():
    saved = json.loads(json.dumps(CONFIG.to_json()))
    del (
        saved["seed"],
        saved["network"],
        saved["agent"]["batch_size"],
        saved["method"]["syre"]["sigma"],
    )
    expected = replace(CONFIG, seed=0, method=(Syre(strength=0.01),))
    assert CONFIG.read(saved) == expected
    del saved["stream"]["num_tasks"]
    with pytest.raises(ValueError, match=r"stream lacks num_tasks"):
        CONFIG.read(saved)


@dataclass(frozen=True, kw_only=True)
class RotatedConfig(SupervisedStreamConfig):
    angle: float = 0.0


def test_a_stream_is_read_as_the_kind_of_its_benchmark():
    config = replace(CONFIG, stream=RotatedConfig(num_tasks=3))
    saved = json.loads(json.dumps(config.to_json()))
    saved["stream"]["angle"] = 30
    assert config.read(saved) == replace(config, stream=RotatedConfig(num_tasks=3, angle=30.0))
    assert not config.is_like(CONFIG)
    with pytest.raises(ValueError, match="key of stream 'angle'"):
        CONFIG.read(saved)


def test_a_missing_key_is_taken_from_a_fallback():
    fallback = with_values(CONFIG, {"agent.batch_size": 7, "stream.num_tasks": 9})
    saved = {"agent": {"learning_rate": 0.5}, "stream": {"dataset": "mnist"}, "method": "none"}
    found = CONFIG.read(saved, fallback)
    changes = {"agent.learning_rate": 0.5, "stream.dataset": "mnist", "method": ()}
    assert found == with_values(fallback, changes)


def test_a_method_by_its_name_or_with_its_settings():
    assert method_from_plain("none") == ()
    assert method_from_plain("shift+syre") == (Shift(), Syre())
    assert method_from_plain({"syre": {"sigma": 3}}) == (Syre(sigma=3),)
    assert method_from_plain({"syre": None, "shift": {}}) == (Syre(), Shift())
    tuned = {"syre": Syre(strength=9.0, sigma=8.0)}
    assert method_from_plain({"syre": {"sigma": 3}}, defaults=tuned) == (
        Syre(strength=9.0, sigma=3),
    )
    assert method_from_plain("syre", defaults=tuned) == (tuned["syre"],)


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("sire", ValueError, "Unknown method 'sire'. Did you mean 'syre'?"),
        ({"sire": {}}, ValueError, "Unknown method 'sire'. Did you mean 'syre'?"),
        ({"none": {}}, ValueError, "Unknown method 'none'."),
        ({"syre": {"sigm": 1}}, ValueError, "key of method.syre 'sigm'. Did you mean 'sigma'?"),
        ({"syre": 3}, TypeError, "method.syre must be an object of names and values, not 3."),
        (["syre"], TypeError, "method must be an object of names and values, not ['syre']."),
        (3, TypeError, "method must be an object of names and values, not 3."),
        ({"syre": {}, "l2-init": {}}, ValueError, "syre and l2-init both set the decay"),
    ],
)
def test_a_wrong_method_is_refused(method, error, message):
    with pytest.raises(error, match=re.escape(message)):
        CONFIG.read({**CONFIG.to_json(), "method": method})


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("seed", "1", "seed"),
        ("seed", -1, "seed"),
        ("seed", 2**64, "seed"),
        ("device", 3, "device"),
        ("benchmark", None, "benchmark"),
        ("stream.num_tasks", 0, "tasks"),
        ("stream.num_tasks", 2.5, "tasks"),
        ("stream.data_dir", 3, "data_dir"),
        ("method.syre.strength", -0.1, "strength"),
        ("method.syre.strength", math.nan, "strength"),
        ("method.syre.strength", math.inf, "strength"),
        ("method.syre.sigma", -1, "sigma"),
        ("method.syre.sigma", math.nan, "sigma"),
        ("method.syre.anisotropy", 0.6, "anisotropy"),
        ("method.syre.decoupled", "yes", "decoupled"),
        ("agent.learning_rate", 0, "learning_rate"),
        ("agent.learning_rate", -1.0, "learning_rate"),
        ("agent.learning_rate", math.nan, "learning_rate"),
        ("agent.learning_rate", "fast", "learning_rate"),
        ("agent.batch_size", [64], "batch_size"),
        ("agent.optimizer", "sdg", "Did you mean 'sgd'"),
        ("agent.precision", "bf61", "Did you mean 'bf16'"),
        ("agent.compile", "no", "compile"),
        ("network.hidden", 64, "hidden"),
        ("network.hidden", [6.5], "width"),
        ("tracking.probe_size", 1, "probe_size"),
        ("tracking.metrics", "srank", "metrics"),
        ("tracking.metrics", [3], "metrics"),
        ("tracking.metrics", ["sranc"], "Did you mean 'srank'"),
        ("tracking.metrics", ["srank", "srank"], "twice"),
    ],
)
def test_a_wrong_value_is_refused_by_name(path, value, named):
    saved = json.loads(json.dumps(CONFIG.to_json()))
    *sections, name = path.split(".")
    part = saved
    for section in sections:
        part = part[section]
    part[name] = value
    with pytest.raises((ValueError, TypeError), match=named):
        CONFIG.read(saved)


def test_differences_names_every_changed_setting_with_both_values():
    other = with_values(
        replace(CONFIG, method=(Syre(strength=0.01, sigma=0.1),)),
        {"agent.batch_size": 32, "tracking.metrics": ("srank",)},
    )
    named = differences(CONFIG.to_json(), other)
    changed = ["method.syre.sigma", "agent.batch_size", "tracking.metrics"]
    assert sorted(entry.split(" ")[0] for entry in named) == sorted(changed)
    assert "method.syre.sigma (there 0.5, now 0.1)" in named
    other = replace(CONFIG, method=(WeightDecay(strength=0.01),))
    assert "method.syre.sigma (there 0.5, now None)" in differences(CONFIG.to_json(), other)


def test_length_device_compilation_kernel_and_the_folder_of_the_data_may_change():
    values = {"stream.num_tasks": 9, "stream.data_dir": "elsewhere", "agent.compile": True}
    values["agent.kernel"] = "triton"
    other = replace(with_values(CONFIG, values), device="cuda")
    assert differences(CONFIG.to_json(), other) == []
    other = with_values(ANT, {"stream.num_steps": 9, "stream.cores": 2})
    assert differences(ANT.to_json(), other) == []


def test_lengths():
    assert CONFIG.length == 5
    assert ANT.length == 20_480  # up to the first row at or past 4096
    assert with_values(ANT, {"stream.num_steps": 20_481}).length == 40_960


def test_the_critics_method_is_the_actors_unless_given():
    assert ANT.method_of_critic == ANT.method
    assert replace(ANT, critic_method=()).method_of_critic == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"critic_method": (Syre(), L2Init())}, "syre and l2-init both set the decay"),
        ({"agent.compile": True}, "--compile works on cuda, and --device is cpu: leave it out."),
        ({"agent.rollout_steps": 2044}, "rollout_steps 2044 cannot be shared by 8 environments"),
        (
            {"tracking.measure_every": 3000},
            "measure_every 3000 must be a multiple of rollout_steps 2048",
        ),
        (
            {"agent.compile": True, "device": "cuda", "method": (ReDo(),)},
            "--compile makes one CUDA graph of all steps of an update, and redo acts between them",
        ),
        ({"critic_method": (DASH(),)}, "dash needs the examples of the task that begins"),
        (
            {"agent.target_kl": 0.1, "stream.engine": "warp", "method": (Syre(), ReDo())},
            "--target-kl 0.1 ends the updates of stacked agents at different steps, and redo counts",
        ),
        ({"stream.change_every": 1023}, "change_every must be a multiple of num_envs, 8"),
        ({"track": ("wandbb",)}, "Unknown tracker 'wandbb'. Did you mean 'wandb'?"),
        ({"stream.engine": "mujocco"}, "Unknown engine 'mujocco'. Did you mean 'mujoco'?"),
    ],
)
def test_what_does_not_go_together_is_refused(values, message):
    values = {"agent.minibatch_size": 4, **values} if "agent.rollout_steps" in values else values
    with pytest.raises(ValueError, match=re.escape(message)):
        with_values(ANT, values)


def test_compilation_is_refused_where_it_does_not_work():
    with pytest.raises(ValueError, match="--compile works on cpu and cuda, and --device is mps"):
        replace(with_values(CONFIG, {"agent.compile": True}), device="mps")


def test_every_setting_of_the_saved_form_is_one_of_the_dataclasses():
    assert set(flattened(ANT.to_json())) == {
        *("benchmark", "seed", "device", "imports", "track", "tuned_on", "critic_method"),
        *(f"method.syre.{name}" for name in vars(Syre())),
        *(f"stream.{name}" for name in vars(ANT.stream)),
        *(f"agent.{name}" for name in vars(ANT.agent)),
        *(f"tracking.{name}" for name in vars(ANT.tracking)),
    }


@pytest.mark.parametrize("metric", ["churn", "hessian_rank"])
def test_policies_have_no_metric_of_a_single_step_or_of_labels(metric):
    with pytest.raises(ValueError, match=f"'{metric}' is not measured for policies"):
        ControlTracking(metrics=(metric,))


# ---- algorithms of Stable-Baselines3 -------------------------------------------------------------


def sac(**changes):
    shared = {"agent": SACConfig(tau=0.01), "stream.num_envs": 1}
    return with_values(ANT, {**shared, **changes})


def test_a_saved_algorithm_is_read_back():
    saved = json.loads(json.dumps(sac().to_json()))
    assert saved["agent"]["algorithm"] == "sb3:sac"
    assert ANT.read(saved) == sac()
    assert ANT.read({**saved, "agent": {"algorithm": "sb3:dqn"}}).agent == DQNConfig()
    # without a name, it is the agent of the configuration that reads it
    assert ANT.read({**saved, "agent": {"learning_rate": 0.5}}).agent == PPOConfig(
        learning_rate=0.5
    )
    with pytest.raises(ValueError, match=re.escape("Unknown algorithm 'sb3:sax'. Did you mean")):
        ANT.read({**saved, "agent": {"algorithm": "sb3:sax"}})
    with pytest.raises(ValueError, match=re.escape("Unknown key of agent 'rollout_steps'")):
        ANT.read({**saved, "agent": {"algorithm": "sb3:sac", "rollout_steps": 8}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": (LayerNorm(),)}, "layer-norm changes the architecture, and Stable-Baselines3"),
        ({"critic_method": ()}, "sb3:sac has the same mitigations for all its networks"),
        ({"method": (DASH(),)}, "dash needs the examples of the task that begins"),
        ({"stream.engine": "warp"}, "those of sb3:sac learn one by one on the host"),
        (
            {"agent": SACConfig(train_freq=3)},
            "measure_every 20480 must be a multiple of train_freq * num_envs 3",
        ),
        (
            {
                "agent": SB3PPOConfig(rollout_steps=2048),
                "stream.num_envs": 3,
                "stream.change_every": 3,
            },
            "rollout_steps 2048 cannot be shared by 3 environments",
        ),
        (
            {"agent": SB3PPOConfig(rollout_steps=1000)},
            "measure_every 20480 must be a multiple of rollout_steps 1000",
        ),
    ],
)
def test_what_an_algorithm_cannot_be_combined_with(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sac(**changes)


def test_an_algorithm_is_not_compiled():
    assert not sac().compiles
    assert sac(device="cpu").compiles is False
