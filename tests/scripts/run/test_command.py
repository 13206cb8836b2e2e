import contextlib
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from dataclasses import make_dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from plasticity.agents.ppo.config import PRESETS
from plasticity.mitigations import MITIGATIONS, PLAIN, L2Init, Mitigation, Shift, Syre, WeightDecay
from plasticity.scripts.config import options as options_module
from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.scripts.config.command_line import parse_options
from plasticity.scripts.config.grid import parse_grid
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.options import default_options, options_from_config
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.config.settings_by_option import require_meaning
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.run import command as run_module
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.command import run, sweep
from plasticity.scripts.run.pool import Outcome
from plasticity.scripts.run.progress import Messages, TimeLeft, live_progress
from plasticity.scripts.run.saved_run import require_same_config
from plasticity.tasks import ENGINES, SCHEDULES
from plasticity.tasks.control.ant.config import SlipperyAntConfig

METHODS = ("none", *MITIGATIONS)
# Results of the recorded searches, by the benchmark whose settings were searched.
STRENGTHS = {
    "permuted-mnist": {"weight-decay": 1e-3, "syre": 3e-3, "l2-init": 3e-3},
    "permuted-digits": {"weight-decay": 1e-3, "syre": 3e-3, "l2-init": 1e-2},
    "slippery-ant": {"weight-decay": 1e-4, "syre": 1e-3, "l2-init": 1e-4},
}
SIGMAS = {
    "permuted-mnist": {"syre": 1.0, "shift": 1.0},
    "permuted-digits": {"syre": 0.5, "shift": 0.5},
    "slippery-ant": {"syre": 0.3},
}


@pytest.fixture
def started(monkeypatch):
    """Work and number of processes of each call, which runs nothing."""
    calls = []

    def note(given, processes, on_progress, on_note):
        calls.append((list(given), processes))
        return Outcome(finished=[job.path for job in jobs_of(given)])

    monkeypatch.setattr(run_module, "run_jobs", note)
    return calls


def jobs_of(work):
    return [job for each in work for job in each.jobs]


def options_of(benchmark="permuted-digits", settings=None, **changes):
    """Options with other settings of the runs, by path, and other options of the command."""
    defaults = default_options(benchmark)
    config = with_values(defaults.config, settings or {})
    return replace(defaults, config=config, **changes)


def swept(options, *grid, given=()):
    return sweep(options, parse_grid(grid, options, given))


def typed(defaults, line):
    """Options as they are typed after the name of the benchmark."""
    return typed_names(defaults, line)[0]


def typed_names(defaults, line):
    """The same, and the names of the options that were typed."""
    program = f"plasticity run {defaults.benchmark}"
    options, _, given = parse_options(defaults, shlex.split(line), program=program, description="")
    return options, given


def settings_of(config):
    """Settings of a run's mitigations, by name."""
    return {each.name: vars(each) for each in config.method}


OF_FIGURES = {each.config.benchmark for each in FIGURES.values()}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in OF_FIGURES])
def test_default_options_are_the_benchmarks(name):
    options, benchmark = default_options(name), BENCHMARKS[name]
    searched = benchmark.tuned_as
    assert options.methods == benchmark.methods
    assert options.out == Path("runs") / name
    is_control = isinstance(benchmark.config, ControlRunConfig)
    for method in METHODS:
        if is_control and method != PLAIN and MITIGATIONS[method].reads_batches:
            continue  # refused: an agent has no examples
        config = options.run_config(method, 4)
        assert config.seed == 4
        assert config.method_name == method
        assert config.stream == benchmark.config.stream
        assert config.agent == benchmark.config.agent
        if isinstance(config, ControlRunConfig):
            assert config.critic_method is None
        if isinstance(config.stream, SlipperyAntConfig):
            assert config.stream.change_every == SCHEDULES["small"]
            assert config.agent == PRESETS["standard"]
        is_decay = method != PLAIN and MITIGATIONS[method].kind == "decay"
        for own in settings_of(config).values() if searched in STRENGTHS and is_decay else ():
            assert own.get("strength") == STRENGTHS[searched].get(method)
            assert own.get("sigma") == SIGMAS[searched].get(method, own.get("sigma"))
            assert (own.get("anisotropy", 0.0), own.get("decoupled")) == (0.0, None)


def test_settings_of_a_mitigation_go_to_the_methods_that_use_it():
    mitigations = {
        "weight-decay": WeightDecay(strength=0.5),
        "syre": Syre(strength=0.25, sigma=0.125, anisotropy=0.1),
        "l2-init": L2Init(strength=2.0),
        "shift": Shift(sigma=0.75),
    }
    options = options_of(mitigations=mitigations)
    found = {m: options.run_config(m, 0).method for m in ("none", *mitigations, "syre+shift")}
    assert found == {
        "none": (),
        **{name: (each,) for name, each in mitigations.items()},
        "syre+shift": (mitigations["syre"], mitigations["shift"]),
    }


def test_a_dotted_option_changes_one_mitigation():
    defaults = default_options("permuted-digits")
    options = typed(
        defaults, "--syre.sigma 0.25 --syre.anisotropy 0.1 --l2-init.decoupled True --shift.sigma 2"
    )
    changed = {
        "syre": Syre(strength=3e-3, sigma=0.25, anisotropy=0.1),
        "l2-init": L2Init(strength=1e-2, decoupled=True),
        "shift": Shift(sigma=2.0),
    }
    assert options.mitigations == {**defaults.mitigations, **changed}
    assert options.run_config("syre", 0).method == (changed["syre"],)
    assert options.run_config("weight-decay", 0) == defaults.run_config("weight-decay", 0)


def test_a_critic_has_the_settings_of_the_actor_but_for_its_own():
    defaults = default_options("slippery-ant")
    options = typed(
        defaults, "--syre.strength 0.5 --critic.syre.sigma 0.25 --critic.weight-decay.strength 0"
    )
    syre = options.run_config("syre", 0)
    assert syre.method == (Syre(strength=0.5, sigma=0.3),)
    assert syre.critic_method == (Syre(strength=0.5, sigma=0.25),)
    decay = options.run_config("weight-decay", 0)
    assert (decay.method[0].strength, decay.critic_method[0].strength) == (1e-4, 0)
    for method in ("none", "l2-init"):
        assert options.run_config(method, 0).critic_method is None
    assert options.run_config("l2-init", 0).method_of_critic == (L2Init(strength=1e-4),)


def test_a_mitigation_without_docstrings_has_options(monkeypatch):
    kind = make_dataclass(
        "Other",
        [("rate", float, 1.0)],
        bases=(Mitigation,),
        namespace={"name": "other", "claims": "the rate"},
        frozen=True,
        kw_only=True,
    )
    monkeypatch.setitem(MITIGATIONS, "other", kind)
    options = typed(default_options("slippery-ant"), "--other.rate 2 --critic.other.rate 3")
    config = options.run_config("syre+other", 0)
    assert (config.method[1].rate, config.critic_method[1].rate) == (2, 3)


def with_others(mitigation):
    """The mitigation with other values of the settings that it has."""
    changes = {"decoupled": True, "sigma": 0.7}
    return replace(mitigation, **{k: v for k, v in changes.items() if hasattr(mitigation, k)})


@pytest.mark.parametrize("method", [*METHODS, "syre+shift"])
def test_a_saved_configuration_repeats_its_run(method):
    options = options_of(
        settings={"stream.num_tasks": 7, "tracking.metrics": ("srank",)},
        mitigations={
            name: with_others(each)
            for name, each in default_options("permuted-digits").mitigations.items()
        },
    )
    config = options.run_config(method, 11)
    repeated = options_from_config("permuted-digits", json.loads(json.dumps(config.to_json())))
    assert (repeated.methods, repeated.seeds) == ((method,), (11,))
    assert repeated.run_config(method, 11) == config
    assert typed(repeated, "").run_config(method, 11) == config


@pytest.mark.parametrize("method", ["none", "weight-decay", "syre", "l2-init"])
def test_a_saved_configuration_repeats_its_ants(method):
    defaults = default_options("slippery-ant", {"agent": "non-stationary", "preset": "nature"})
    settings = {"stream.num_steps": 10**7, "stream.cores": 3}
    own = {"strength": 0.5}
    options = replace(
        defaults,
        config=with_values(defaults.config, settings),
        critic={"weight-decay": own, "syre": {**own, "sigma": 0.25}, "l2-init": own},
    )
    config = options.run_config(method, 11)
    assert config.stream.change_every == 2_000_000
    critic = {each.name: vars(each) for each in config.critic_method or ()}
    assert critic == {
        name: {**vars(defaults.mitigations[name]), **options.critic[name]}
        for name in settings_of(config)
    }
    repeated = options_from_config("slippery-ant", json.loads(json.dumps(config.to_json())))
    assert repeated.run_config(method, 11) == config
    assert typed(repeated, "").run_config(method, 11) == config


def test_a_critic_without_the_decoupling_of_its_actor_is_repeated():
    actor, critic = Syre(decoupled=True), Syre(decoupled=None)
    ant = BENCHMARKS["slippery-ant"].config
    config = with_values(ant, {"method": (actor,), "critic_method": (critic,)})
    repeated = typed(options_from_config("slippery-ant", config.to_json()), "--device cpu")
    assert repeated.run_config("syre", 0) == config


def test_a_critic_with_other_mitigations_than_its_actor_is_refused():
    saved = default_options("slippery-ant").run_config("syre", 0).to_json()
    for critic in ({}, {"weight-decay": {}}):
        with pytest.raises(ValueError, match=r"must have the mitigations of method, which is syre"):
            options_from_config("slippery-ant", {**saved, "critic_method": critic})


@pytest.mark.parametrize(("name", "engine"), [("mujoco", "mujoco"), ("warp", "warp")])
def test_the_ants_of_other_engines_share_schedule_and_agent(name, engine):
    bullet = default_options("slippery-ant").run_config("syre", 4)
    benchmark = f"slippery-ant-{name}"
    other = default_options(benchmark).run_config("syre", 4)
    assert (bullet.stream.engine, other.stream.engine) == ("bullet", engine)
    same = {"benchmark": benchmark, "stream.engine": engine}
    same["stream.num_envs"] = other.stream.num_envs
    assert with_values(bullet, same) == other
    # The settings of one may go to another, but not the engine.
    options = options_from_config(benchmark, bullet.to_json())
    assert options.run_config("syre", 4).stream.engine == engine


def test_an_engine_that_is_not_its_benchmarks_is_refused():
    saved = default_options("slippery-ant").run_config("none", 0).to_json()
    saved["stream"]["engine"] = "warp"
    with pytest.raises(ValueError, match="engine must be 'bullet', that of slippery-ant, not 'wa"):
        options_from_config("slippery-ant", saved)


@pytest.mark.parametrize("engine", ["bullet", "mujoco", "warp"])
def test_without_its_engine_a_run_says_what_to_install(tmp_path, monkeypatch, engine):
    def missing(*_, **__):
        raise ModuleNotFoundError("install it", name=engine)

    name = "slippery-ant" if engine == "bullet" else f"slippery-ant-{engine}"
    if engine == "warp":  # its twin on the CPU may be there without it
        monkeypatch.setattr("plasticity.tasks.control.slippery.warp_physics.load_modules", missing)
        pytest.importorskip("mujoco")
    else:
        monkeypatch.setitem(ENGINES, engine, missing)
    with pytest.raises(RunError, match="install it"):
        run(replace(default_options(name), out=tmp_path, device="cpu"))


def test_a_saved_configuration_of_another_kind_is_refused():
    ant = default_options("slippery-ant").run_config("none", 0).to_json()
    with pytest.raises(ValueError, match="settings mean nothing to permuted-mnist"):
        options_from_config("permuted-mnist", ant)


def test_the_agent_has_published_settings_by_name():
    options = default_options("slippery-ant", {"agent": "non-stationary"})
    assert options.config.agent == PRESETS["non-stationary"]
    with pytest.raises(ValueError, match=r"Unknown agent 'standart'\. Did you mean 'standard'"):
        default_options("slippery-ant", {"agent": "standart"})
    with pytest.raises(ValueError, match="--agent standard means nothing to permuted-digits"):
        default_options("permuted-digits", {"agent": "standard"})


def test_the_schedule_of_frictions_has_names():
    for name, steps in SCHEDULES.items():
        options = default_options("slippery-ant", {"preset": name})
        expected = {"stream.change_every": steps}
        assert options.config == with_values(default_options("slippery-ant").config, expected)
    with pytest.raises(ValueError, match=r"Unknown preset 'natur'\. Did you mean 'nature'"):
        default_options("slippery-ant", {"preset": "natur"})
    with pytest.raises(ValueError, match="--preset small means nothing to permuted-digits"):
        default_options("permuted-digits", {"preset": "small"})


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            {"stream.num_envs": 7, "stream.change_every": 70_000},
            {},
            "rollout_steps 2048 cannot be shared by 7 environments",
        ),
        (
            {"stream.change_every": 4100},
            {},
            "change_every must be a multiple of num_envs, 8",
        ),
        (
            {"tracking.measure_every": 3000},
            {},
            "measure_every 3000 must be a multiple of rollout_steps 2048",
        ),
        ({"stream.num_steps": 0}, {}, "num_steps must be at least 1"),
        ({}, {"methods": ("syre",), "critic": {"syre": {"sigma": -1.0}}}, "sigma must be"),
    ],
)
def test_wrong_settings_of_the_ant_are_refused(tmp_path, started, settings, changes, message):
    with pytest.raises(ValueError, match=message):
        run(options_of("slippery-ant", settings, out=tmp_path, **changes))
    assert not started
    assert not list(tmp_path.iterdir())


def test_few_ants_share_the_cores(tmp_path, started, monkeypatch):
    pytest.importorskip("pybullet", reason="needs PyBullet")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7, 9, 11}, raising=False)
    common = {"out": tmp_path, "device": "cpu", "seeds": (0,)}
    for methods in (("none",), ("none", "syre")):
        run(options_of("slippery-ant", methods=methods, **common))
    run(options_of("slippery-ant", {"stream.cores": 2}, **common))
    cores = [[job.config.stream.cores for job in jobs_of(work)] for work, _ in started]
    assert cores == [[6], [3, 3], [2, 2, 2]]
    assert [processes for _, processes in started] == [6, 6, 3]


# ---- configurations from files ------------------------------------------------------------------


def test_a_saved_configuration_may_go_to_another_benchmark():
    config = default_options("permuted-mnist").run_config("syre", 0)
    options = options_from_config("permuted-fashion", config.to_json())
    assert options.out == Path("runs/permuted-fashion")
    assert options.run_config("syre", 0).stream.dataset == "fashion-mnist"


def test_a_saved_configuration_that_contradicts_itself_is_refused():
    config = default_options("permuted-mnist").run_config("syre", 0).to_json()
    other = {**config, "stream": {**config["stream"], "dataset": "kmnist"}}
    with pytest.raises(ValueError, match=r"dataset must be 'mnist'.*not 'kmnist'"):
        options_from_config("permuted-mnist", other)
    with pytest.raises(ValueError, match="Unknown benchmark 'permuted-mist'"):
        options_from_config("permuted-mnist", {**config, "benchmark": "permuted-mist"})


def test_keys_that_a_file_lacks_are_the_benchmarks():
    defaults = default_options("permuted-digits")
    assert replace(options_from_config("permuted-digits", {}), config=defaults.config) == defaults
    options = options_from_config(
        "permuted-digits",
        {"agent": {"learning_rate": 0.5}, "method": {"syre": {"sigma": 0.9}}, "seed": 4},
    )
    assert (options.methods, options.seeds, options.device) == (("syre",), (4,), defaults.device)
    expected = {"agent.learning_rate": 0.5}
    assert typed(options, "").run_config("none", 1) == with_values(
        defaults.run_config("none", 1), expected
    )
    assert options.run_config("syre", 1).method == (Syre(strength=3e-3, sigma=0.9),)
    named = options_from_config("permuted-digits", {"method": "syre+shift"})
    assert named.methods == ("syre+shift",)
    assert named.mitigations == defaults.mitigations


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"sead": 1}, "Unknown key of the configuration 'sead'. Did you mean 'seed'"),
        ({"agent": {"learning_rat": 1}}, "key of agent 'learning_rat'. Did you mean"),
        ({"learning_rate": 1}, "Unknown key of the configuration 'learning_rate'"),
        ({"method": {"sire": {}}}, "Unknown method 'sire'. Did you mean 'syre'"),
        ({"method": {"syre": {"strenght": 1}}}, "method.syre 'strenght'. Did you mean 'strength'"),
        ({"method": {"syre": {"strength": -1}}}, "strength must be"),
        ({"method": {"syre": {}, "l2-init": {}}}, "syre and l2-init both set the decay"),
        ({"stream": {"num_tasks": 0}}, "num_tasks must be at least 1"),
        ({"critic_method": {"syre": {}}}, "Unknown key of the configuration 'critic_method'"),
    ],
)
def test_wrong_keys_and_values_of_a_file_are_refused(saved, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        options_from_config("permuted-digits", saved)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"agent": 3}, "agent must be an object"),
        ({"network": {"hidden": 64}}, "network.hidden must be a list, not 64"),
        ({"stream": {"num_tasks": [3]}}, "stream.num_tasks must be a single value, not [3]"),
        ({"method": ["syre"]}, "method must be an object"),
        ({"benchmark": 3}, "benchmark must be a name, not 3"),
    ],
)
def test_wrong_types_of_a_file_are_refused(saved, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        options_from_config("permuted-digits", saved)


def test_keys_that_a_run_folder_lacks_are_the_defaults_of_their_classes(tmp_path):
    config = default_options("permuted-digits").run_config("syre", 0)
    saved = json.loads(json.dumps(config.to_json()))
    for key in ("compile", "precision"):  # as if they had come later
        del saved["agent"][key]
    del saved["critic_method" if "critic_method" in saved else "device"]
    assert read_config(saved) == config
    require_same_config(tmp_path, saved, config)
    other = with_values(config, {"agent.precision": "bf16"})
    message = r"agent\.precision \(there 'float32', now 'bf16'\)"
    with pytest.raises(RunError, match=message):
        require_same_config(tmp_path, saved, other)
    del saved["stream"]["num_tasks"]
    with pytest.raises(RunError, match=r"config\.json: .*stream lacks num_tasks: give it"):
        require_same_config(tmp_path, saved, config)
    with pytest.raises(RunError, match=r"Unknown key .* 'sigma'.* Restore the file"):
        require_same_config(tmp_path, {**config.to_json(), "sigma": 0.3}, config)


def test_settings_of_another_method_are_another_configuration(tmp_path):
    options = default_options("permuted-digits")
    syre, decay = (options.run_config(method, 0) for method in ("syre", "weight-decay"))
    with pytest.raises(RunError) as caught:
        require_same_config(tmp_path, syre.to_json(), decay)
    for part in (
        "method.weight-decay.strength (there None, now 0.001)",
        "method.syre.strength (there 0.003, now None)",
        "method.syre.sigma (there 0.5, now None)",
    ):
        assert part in str(caught.value)


# ---- runs ---------------------------------------------------------------------------------------


def test_runs_are_seeds_times_methods(tmp_path, started):
    options = options_of(out=tmp_path, seeds=(0, 5))
    assert run(options) == 0
    ((work, _),) = started
    assert [str(job.path.relative_to(tmp_path)) for job in jobs_of(work)] == [
        f"permuted-digits/{method}/seed_{seed}" for seed in (0, 5) for method in options.methods
    ]


def test_as_many_at_once_as_there_are_cores_unless_given(tmp_path, started, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7, 9}, raising=False)
    options = options_of(out=tmp_path, device="cpu")
    run(options)
    run(replace(options, jobs=3))
    assert [processes for _, processes in started] == [5, 3]


def test_runs_are_stacked_on_request(tmp_path, started):
    options = options_of(out=tmp_path, device="cpu", seeds=(0, 1))
    options = replace(options, methods=("none", "syre", "shift"))
    run(replace(options, stack=3))
    run(options)
    (work, _), (single, _) = started
    assert [[job.path.parent.name for job in each.jobs] for each in work] == [
        ["none", "syre", "shift"],
        ["none", "syre", "shift"],
    ]
    assert [len(each.jobs) for each in single] == [1] * 6


def test_the_rest_of_a_group_is_marked_as_such(tmp_path, started, monkeypatch):
    options = options_of(out=tmp_path, device="cpu", seeds=(0, 1), stack=3)
    monkeypatch.setattr(run_module, "is_finished", lambda path, config: path.parent.name != "syre")
    run(options)
    ((work, _),) = started
    assert [[str(job.path.relative_to(tmp_path)) for job in each.jobs] for each in work] == [
        ["permuted-digits/syre/seed_0"],
        ["permuted-digits/syre/seed_1"],
    ]
    assert all(each.had_more for each in work)


def test_a_sweep_is_stacked_across_its_settings(tmp_path, started):
    options = options_of(out=tmp_path, device="cpu", seeds=(0, 1), stack=100)
    grid = ("weight-decay.strength=0.01,0.1", "syre.strength=0.01,0.1", "syre.sigma=0.3")
    assert swept(options, *grid) == 0
    ((work, _),) = started
    assert [len(each.jobs) for each in work] == [10]  # 2 seeds of none, 2 strengths of two methods


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"jobs": 0}, "--jobs must be at least 1: 0"),
        ({}, {"stack": 0}, "--stack must be at least 1: 0"),
        ({}, {"jobs": -2}, "--jobs must be at least 1: -2"),
        ({}, {"methods": ()}, "Give at least one method and one seed"),
        ({}, {"seeds": ()}, "Give at least one method and one seed"),
        ({}, {"seeds": (1, 1)}, "named twice"),
        ({}, {"methods": ("none", "none")}, "named twice"),
        ({}, {"methods": ("sire",)}, "Did you mean 'syre'"),
        ({}, {"methods": ("syre+l2-init",)}, "syre and l2-init both set the decay: leave one out"),
        ({}, {"methods": ("none+syre",)}, "'none' stands alone"),
        ({}, {"device": "cudda"}, "Unknown --device 'cudda'. Did you mean 'cuda'"),
        ({}, {"device": "meta"}, "Unknown --device 'meta'"),
        ({}, {"device": "cuda:99"}, "--device cuda:99 cannot be used here"),
        ({"tracking.metrics": ("sranc",)}, {}, "Did you mean 'srank'"),
        (
            {"tracking.probe_size": 10**6},
            {},
            "--probe-size 1000000 is larger than the 355 test",
        ),
        ({"stream.data_dir": "/nowhere"}, {}, "leave out --data-dir"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    tmp_path, started, settings, changes, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(options_of(settings=settings, out=tmp_path / "out", **changes))
    assert not started
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("benchmark", "device", "message"),
    [
        ("permuted-digits", "mps", "--compile works on cpu and cuda, and --device is mps"),
        ("slippery-ant", "cpu", "--compile works on cuda, and --device is cpu: leave it out"),
    ],
)
def test_what_cannot_be_compiled_is_refused(monkeypatch, benchmark, device, message):
    monkeypatch.setattr(options_module, "chosen_device", lambda name: device)
    options = default_options(benchmark)
    options.run_config("syre", 0)
    with pytest.raises(ValueError, match=re.escape(message)):
        typed(options, "--compile True").run_config("syre", 0)
    from_file = options_from_config(benchmark, {"agent": {"compile": True}})
    with pytest.raises(ValueError, match=re.escape(message)):
        from_file.run_config("syre", 0)


@pytest.mark.parametrize(
    ("benchmark", "device"),
    [("permuted-digits", "cpu"), ("permuted-digits", "cuda:1"), ("slippery-ant", "cuda")],
)
def test_what_can_be_compiled_is(monkeypatch, benchmark, device):
    monkeypatch.setattr(options_module, "chosen_device", lambda name: device)
    from_file = options_from_config(benchmark, {"agent": {"compile": True}})
    for options in (
        typed(default_options(benchmark), "--compile True"),
        from_file,
        typed(from_file, f"--device {device}"),
    ):
        config = options.run_config("syre", 0)
        assert (config.device, config.agent.compile) == (device, True)
        repeated = options_from_config(benchmark, config.to_json())
        assert typed(repeated, "").run_config("syre", 0) == config


def test_images_too_small_for_the_network_are_refused_before_anything_runs(tmp_path, started):
    # 8 x 8 digits: pooled three times they are 1 x 1, a fourth leaves nothing
    network = {"network.channels": (2, 2, 2, 2), "network.downsampling": "max-pool"}
    with pytest.raises(ValueError, match="too small for 4"):
        run(options_of(settings=network, out=tmp_path / "out"))
    assert not started


def test_unknown_benchmark_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'permuted-digits'"):
        default_options("permuted-digit")
    with pytest.raises(ValueError, match="Did you mean 'permuted-digits'"):
        options_from_config("permuted-digit", {})


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, started):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunError, match=r"Cannot write to .*give an --out"):
        run(options_of(out=tmp_path / "out"))
    assert not started


# ---- sweeps -------------------------------------------------------------------------------------


def folders(started, out):
    """Runs of the one sweep that was started, by folder without seed_0."""
    ((work, _),) = started
    return {str(job.path.relative_to(out).parent): job.config for job in jobs_of(work)}


def test_a_sweep_has_a_folder_for_each_setting(tmp_path, started):
    methods = ("none", "weight-decay", "syre")
    options = options_of(out=tmp_path, methods=methods, seeds=(0,))
    grid = ("weight-decay.strength=0.01,0.1", "syre.strength=0.01,0.1", "syre.sigma=0.3,1.0")
    assert swept(options, *grid) == 0
    found = {
        path: tuple((each.strength, getattr(each, "sigma", 0)) for each in config.method)
        for path, config in folders(started, tmp_path).items()
    }
    assert found == {
        "permuted-digits/none": (),
        "weight-decay.strength=0.01/permuted-digits/weight-decay": ((0.01, 0),),
        "weight-decay.strength=0.1/permuted-digits/weight-decay": ((0.1, 0),),
        "syre.strength=0.01,syre.sigma=0.3/permuted-digits/syre": ((0.01, 0.3),),
        "syre.strength=0.01,syre.sigma=1/permuted-digits/syre": ((0.01, 1),),
        "syre.strength=0.1,syre.sigma=0.3/permuted-digits/syre": ((0.1, 0.3),),
        "syre.strength=0.1,syre.sigma=1/permuted-digits/syre": ((0.1, 1),),
    }


def test_without_a_grid_each_mitigation_has_its_own_search(tmp_path, started):
    options = options_of(
        out=tmp_path, methods=("none", "weight-decay", "syre", "shift"), seeds=(0,)
    )
    assert swept(options) == 0
    found = folders(started, tmp_path)
    strengths = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    sigmas = (0.01, 0.1, 0.3, 0.5, 1.0)
    assert len(found) == 1 + 5 + 25 + 5
    by_method = {name: set() for name in options.methods}
    for config in found.values():
        own = settings_of(config).get(config.method_name, {})
        by_method[config.method_name].add((own.get("strength"), own.get("sigma")))
    assert by_method == {
        "none": {(None, None)},
        "weight-decay": {(strength, None) for strength in strengths},
        "syre": {(strength, sigma) for strength in strengths for sigma in sigmas},
        "shift": {(None, sigma) for sigma in sigmas},
    }


def test_any_setting_can_be_in_a_grid(tmp_path, started):
    options = options_of(out=tmp_path, methods=("none", "syre"), seeds=(0,))
    assert swept(options, "learning-rate=0.001,0.01", "hidden=64,32 16", "syre.decoupled=True") == 0
    found = folders(started, tmp_path)
    assert {
        path: (config.agent.learning_rate, config.network.hidden)
        for path, config in found.items()
        if config.method == ()
    } == {
        "learning-rate=0.001,hidden=64/permuted-digits/none": (0.001, (64,)),
        "learning-rate=0.001,hidden=32-16/permuted-digits/none": (0.001, (32, 16)),
        "learning-rate=0.01,hidden=64/permuted-digits/none": (0.01, (64,)),
        "learning-rate=0.01,hidden=32-16/permuted-digits/none": (0.01, (32, 16)),
    }
    path = "learning-rate=0.01,hidden=32-16,syre.decoupled=True/permuted-digits/syre"
    assert found[path].method == (Syre(strength=3e-3, sigma=0.5, decoupled=True),)
    assert len(found) == 8


def test_settings_of_the_critic_can_be_in_a_grid(tmp_path, started):
    pytest.importorskip("pybullet", reason="needs PyBullet")
    options = options_of("slippery-ant", out=tmp_path, device="cpu", seeds=(0,))
    assert swept(options, "critic.syre.sigma=0.1,1", "num-envs=4") == 0
    found = folders(started, tmp_path)
    critics = {
        path: config.critic_method and config.critic_method[0].sigma
        for path, config in found.items()
    }
    assert critics == {
        "num-envs=4/slippery-ant/none": None,
        "num-envs=4/slippery-ant/weight-decay": None,
        "critic.syre.sigma=0.1,num-envs=4/slippery-ant/syre": 0.1,
        "critic.syre.sigma=1,num-envs=4/slippery-ant/syre": 1.0,
    }
    assert {config.stream.num_envs for config in found.values()} == {4}
    assert {each.sigma for config in found.values() for each in config.method[1:]} == set()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["learning-rate"], "--grid 'learning-rate': give an option and its values"),
        (["learning-rate="], "--grid 'learning-rate=': give an option and its values"),
        (["learning-rate=0.1,,1"], "give an option and its values"),
        (
            ["learning-rat=0.1"],
            "Unknown setting of a grid 'learning-rat'. Did you mean 'learning-r",
        ),
        (["syre.sigm=0.1"], "Unknown setting of a grid 'syre.sigm'. Did you mean 'syre.sigma'"),
        (["critic.syre.sigma=0.1"], "Unknown setting of a grid 'critic.syre.sigma'"),
        (["seeds=0,1"], "Unknown setting of a grid 'seeds'"),
        (["learning-rate=0.1,0.10"], "--grid learning-rate names 0.10 twice"),
        (["hidden=8", "hidden=16"], "--grid names hidden twice"),
        (["shift.sigma=0.1,1"], "--grid shift.sigma means nothing to none, weight-decay, syre"),
        (["syre.strength=0.1,-0.1"], "strength must be"),
        (["syre.sigma=0.1,nan"], "sigma must be"),
        (["batch-size=32,5000"], "--batch-size 5000 is larger than the 1442 training"),
        (["probe-size=32,5000"], "--probe-size 5000 is larger than the 355 test"),
    ],
)
def test_what_a_grid_refuses(tmp_path, started, grid, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        swept(options_of(out=tmp_path / "out"), *grid)
    assert not started
    assert not (tmp_path / "out").exists()


def test_a_sweep_refuses_unknown_methods_and_options_of_its_grid(started):
    with pytest.raises(ValueError, match="Did you mean 'syre'"):
        swept(options_of(methods=("sire",)))
    line = "--learning-rate 0.5 --syre.sigma 3"
    options, given = typed_names(default_options("permuted-digits"), line)
    for word, name in (("learning-rate=0.1", "learning-rate"), ("--syre.sigma=0.1", "syre.sigma")):
        with pytest.raises(ValueError, match=f"--{name} is in the grid: leave out the option"):
            swept(options, word, given=given)
    assert not started


# ---- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "code", "parts"),
    [
        (Outcome(finished=[Path("a")]), 0, ["1 runs finished."]),
        (
            Outcome(finished=[Path("[b]a")], diverged=[Path("[b]a")]),
            0,
            ["1 runs finished.", "diverged: [b]a (its loss became NaN or infinite"],
        ),
        (
            Outcome(finished=[Path("a")], failed={Path("[b]c" * 60): "[no] space"}),
            1,
            ["failed: " + "[b]c" * 60 + ": [no] space", "\n  plasticity run 'a b'\n"],
        ),
        (
            Outcome(failed={Path(name): "no space" for name in "abcde"} | {Path("f"): "gone"}),
            1,
            ["failed: a, b, c and 2 more: no space\n", "failed: f: gone\n"],
        ),
        (
            Outcome(stopped=[Path("a")]),  # by a signal to the run's own process
            1,
            ["1 runs stopped, their checkpoints are written. Continue:"],
        ),
        (
            Outcome(stopped=[Path("a")], interrupted_by=signal.SIGTERM),
            143,
            ["1 runs stopped, their checkpoints are written. Continue:\n  plasticity run 'a b'\n"],
        ),
    ],
)
def test_the_closing_messages(capsys, outcome, code, parts):
    assert run_module._conclude(Messages(), outcome, "plasticity run 'a b'") == code
    said = capsys.readouterr().err
    for part in parts:
        assert part in said


# ---- progress -----------------------------------------------------------------------------------


def test_time_left_counts_the_work_of_this_call_only():
    a, b = Path("a"), Path("b")
    left = TimeLeft(20, {a: 9.0, b: 4.0})
    assert left.completed == 13
    assert left.seconds(100.0) is None
    left.note(a, 9.5, 100.0)  # it was in the middle of a task: half of it is no work of ours
    left.note(b, 4.0, 101.0)
    assert left.seconds(101.0) is None
    left.note(a, 10.0, 110.0)
    left.note(b, 4.5, 110.0)
    # one task in ten seconds; 20 - 14.5 are left
    assert left.seconds(110.0) == pytest.approx(55.0)
    assert left.completed == 14.5


def test_off_a_terminal_progress_is_one_line():
    stream = io.StringIO()
    console = Console(file=stream)
    totals = {Path("a"): 5, Path("b"): 5}
    with live_progress(console, totals, {Path("a"): 2.0, Path("b"): 0.0}) as on_progress:
        for value in (3.0, 4.0, 5.0):
            on_progress(Path("a"), value)
    assert stream.getvalue() == "2 runs, 10 tasks, 2 of them done before.\n"


def test_messages_that_nobody_reads_do_not_end_the_program():
    code = (
        "import sys; from plasticity.scripts.run.progress import Messages\n"
        "sys.stdin.readline(); m = Messages()\n"
        "for _ in range(3): m.print('word')\n"
        "print('went on')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stderr.close()
    assert process.communicate(b"\n")[0] == b"went on\n"
    assert process.returncode == 0


def test_on_a_terminal_there_is_a_live_bar_with_an_estimate(tmp_path):
    arguments = ["run", "permuted-digits", "--methods", "none", "--seeds", "0", "--tasks", "12"]
    arguments += ["--channels", "4", "--epochs-per-task", "3", "--out", str(tmp_path)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "plasticity.scripts.main", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "TTY_COMPATIBLE": "1"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while select.select([ours], [], [], 60)[0] and (part := os.read(ours, 4096)):
            shown += part
    os.close(ours)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "1 runs, 12 tasks" in text
    assert re.search(r"\? left", text)  # before anything is known
    assert re.search(r"\d:\d\d:\d\d left", text)
    assert "12.0 done" in text
    assert "1 runs finished." in text
    assert shown.count(b"\r") > 2  # drawn over itself


@pytest.mark.parametrize(
    ("methods", "line", "message"),
    [
        (["none"], "--syre.strength 0.1", "--syre.strength 0.1 means nothing to none"),
        (["none"], "--syre.sigma 0.1", "--syre.sigma 0.1 means nothing to none: leave it out"),
        (
            ["none", "l2-init"],
            "--shift.sigma 0.1",
            "nothing to none, l2-init: leave it out, or add",
        ),
        (
            ["l2-init"],
            "--weight-decay.decoupled True",
            "--weight-decay.decoupled True means nothing",
        ),
        (
            ["none"],
            "--critic.syre.strength 0.1",
            "--critic.syre.strength 0.1 means nothing to none",
        ),
        (["none"], "--critic.syre.sigma 0", "--critic.syre.sigma 0.0 means nothing to none"),
    ],
)
def test_an_option_that_means_nothing_is_refused(methods, line, message):
    defaults = default_options("slippery-ant" if "critic" in line else "permuted-digits")
    require_meaning(*typed_names(defaults, f"{line} --methods {' '.join(MITIGATIONS)}"))
    options, given = typed_names(defaults, f"{line} --methods {' '.join(methods)}")
    with pytest.raises(ValueError, match=re.escape(message)):
        require_meaning(options, given)


def test_settings_of_a_file_may_go_unused():
    saved = default_options("slippery-ant").run_config("syre", 0)
    critic = (replace(saved.method[0], sigma=0.7),)
    saved = with_values(saved, {"critic_method": critic})
    defaults = options_from_config("slippery-ant", saved.to_json())
    options, given = typed_names(defaults, "--methods none")
    require_meaning(options, given)
    assert options.run_config("none", 0).critic_method is None


def test_runs_that_another_launcher_works_on_meanwhile(tmp_path, monkeypatch, capsys):
    """Of three that it was working on, it has finished two when ours are done; one of them diverged."""
    names = ("finished", "diverged", "unfinished")
    paths = {
        name: tmp_path / "permuted-digits" / "none" / f"seed_{n}" for n, name in enumerate(names)
    }

    def elsewhere(given, processes, on_progress, on_note):
        monkeypatch.setattr(
            run_module, "is_finished", lambda path, config: path != paths["unfinished"]
        )
        monkeypatch.setattr(
            run_module,
            "load_checkpoint",
            lambda path: SimpleNamespace(diverged=path == paths["diverged"]),
        )
        return Outcome(in_use=list(paths.values()))

    monkeypatch.setattr(run_module, "run_jobs", elsewhere)
    options = options_of(methods=("none",), seeds=(0, 1, 2), out=tmp_path)
    assert run(options, "the command") == 1
    said = capsys.readouterr().err
    assert "2 runs finished." in said
    assert f"diverged: {paths['diverged']}" in said
    assert f"in use by another process, which goes on with them: {paths['unfinished']}\n" in said
    assert said.endswith("once it has ended:\n  the command\n")
    assert "failed" not in said
