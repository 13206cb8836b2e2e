import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from plasticity.agents.ppo.config import PRESETS
from plasticity.scripts.config import options as options_module
from plasticity.scripts.config.benchmarks import BENCHMARKS, METHODS, ImageBenchmark
from plasticity.scripts.config.options import default_options, options_from_config
from plasticity.scripts.config.options import sweep_options as as_sweep
from plasticity.scripts.run import command as run_module
from plasticity.scripts.run.command import run, sweep
from plasticity.scripts.run.experiments import require_runnable
from plasticity.scripts.run.folder import RunError
from plasticity.scripts.run.pool import Outcome
from plasticity.scripts.run.progress import Messages, TimeLeft, live_progress
from plasticity.tasks import ENGINES, SCHEDULES


@pytest.fixture
def started(monkeypatch):
    """Jobs that would run, instead of running them."""
    jobs = []

    def note(given, processes, on_progress, on_note):
        jobs.append((list(given), processes))
        return Outcome(finished=[job.path for each in given for job in each.jobs])

    monkeypatch.setattr(run_module, "run_jobs", note)
    return jobs


def sweep_options(**changes):
    options = default_options("permuted-digits")
    return replace(as_sweep(options, Path("runs/sweep")), **changes)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_default_options_are_the_benchmarks(name):
    options, benchmark = default_options(name), BENCHMARKS[name]
    is_image = isinstance(benchmark, ImageBenchmark)
    assert options.methods == benchmark.methods
    assert options.out == Path("runs") / name
    for method in METHODS if is_image else [m for m in METHODS if not METHODS[m].shifts]:
        config = options.config(name, method, 4)
        assert config.seed == 4
        assert (config.num_tasks if is_image else config.num_steps) == (
            benchmark.num_tasks if is_image else benchmark.num_steps
        )
        if is_image:
            assert config.dataset == benchmark.dataset
        else:
            assert config.change_every == SCHEDULES[benchmark.preset]
            assert config.agent == PRESETS[benchmark.agent]
        assert config.strength == (
            benchmark.strengths[method] if METHODS[method].uses_strength else 0
        )
        assert config.sigma == (benchmark.sigma if METHODS[method].uses_sigma else 0)


def test_a_strength_goes_to_the_methods_that_have_one():
    options = replace(default_options("permuted-digits"), strength=0.5, sigma=0.25, anisotropy=0.1)
    found = {method: options.config("permuted-digits", method, 0) for method in METHODS}
    assert {m: c.strength for m, c in found.items()} == {
        "none": 0,
        "weight-decay": 0.5,
        "syre": 0.5,
        "l2-init": 0.5,
        "shift": 0,
    }
    assert {m: c.sigma for m, c in found.items() if c.sigma} == {"syre": 0.25, "shift": 0.25}
    assert {m for m, c in found.items() if c.anisotropy} == {"syre", "shift"}


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_configuration_repeats_its_run(method):
    options = replace(
        default_options("permuted-digits"), tasks=7, decoupled=True, metrics=("srank",), sigma=0.7
    )
    config = options.config("permuted-digits", method, 11)
    repeated = options_from_config("permuted-digits", config.to_json())
    assert (repeated.methods, repeated.seeds) == ((method,), (11,))
    assert repeated.config("permuted-digits", method, 11) == config


@pytest.mark.parametrize("method", ["none", "weight-decay", "syre", "l2-init"])
def test_a_saved_configuration_repeats_its_ants(method):
    options = replace(
        default_options("slippery-ant", agent="non-stationary"),
        preset="nature",
        steps=10**7,
        critic_strength=0.5,
        critic_sigma=0.25,
        cores=3,
    )
    config = options.config("slippery-ant", method, 11)
    assert config.change_every == 2_000_000
    assert config.critic_strength == (None if method == "none" else 0.5)
    assert config.critic_sigma == (0.25 if method == "syre" else None)
    repeated = options_from_config("slippery-ant", config.to_json())
    assert repeated.config("slippery-ant", method, 11) == config


@pytest.mark.parametrize(("name", "engine"), [("mujoco", "mujoco"), ("warp", "warp")])
def test_the_ants_of_other_engines_share_schedule_and_agent(name, engine):
    bullet = default_options("slippery-ant").config("slippery-ant", "syre", 4)
    benchmark = f"slippery-ant-{name}"
    other = default_options(benchmark).config(benchmark, "syre", 4)
    assert (bullet.engine, other.engine) == ("bullet", engine)
    same = {"benchmark": benchmark, "engine": engine, "num_envs": other.num_envs}
    assert replace(bullet, **same) == other
    # The settings of one may go to another, but not the engine.
    options = options_from_config(benchmark, bullet.to_json())
    assert options.config(benchmark, "syre", 4).engine == engine


def test_an_engine_that_is_not_its_benchmarks_is_refused():
    saved = default_options("slippery-ant").config("slippery-ant", "none", 0).to_json()
    with pytest.raises(ValueError, match="engine must be 'bullet', that of slippery-ant, not 'wa"):
        options_from_config("slippery-ant", {**saved, "engine": "warp"})


@pytest.mark.parametrize("engine", ["bullet", "mujoco", "warp"])
def test_without_its_engine_a_run_says_what_to_install(monkeypatch, engine):
    def missing(*_):
        raise ModuleNotFoundError("install it", name=engine)

    name = "slippery-ant" if engine == "bullet" else f"slippery-ant-{engine}"
    if engine == "warp":  # its twin on the CPU may be there without it
        monkeypatch.setattr("plasticity.tasks.control.ant.warp_physics.load_modules", missing)
        pytest.importorskip("mujoco")
    else:
        monkeypatch.setitem(ENGINES, engine, missing)
    with pytest.raises(RunError, match="install it"):
        require_runnable(default_options(name).config(name, "none", 0))


def test_a_saved_configuration_of_another_kind_is_refused():
    ant = default_options("slippery-ant").config("slippery-ant", "none", 0).to_json()
    with pytest.raises(ValueError, match="settings mean nothing to permuted-mnist"):
        options_from_config("permuted-mnist", ant)


def test_the_agent_has_published_settings_by_name():
    assert (
        default_options("slippery-ant", agent="non-stationary").agent == PRESETS["non-stationary"]
    )
    with pytest.raises(ValueError, match=r"Unknown agent 'standart'\. Did you mean 'standard'"):
        default_options("slippery-ant", agent="standart")
    with pytest.raises(ValueError, match="--agent standard means nothing to permuted-digits"):
        default_options("permuted-digits", agent="standard")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "natur"}, "Unknown preset 'natur'. Did you mean 'nature'"),
        ({"methods": ("shift",)}, "shift is a control of the image benchmarks"),
        ({"num_envs": 7}, "rollout_steps 2048 cannot be shared by 7 environments"),
        ({"change_every": 4100}, "change_every 4100 cannot be shared by 8 environments"),
        ({"measure_every": 3000}, "measure_every 3000 must be a multiple of rollout_steps 2048"),
        ({"steps": 0}, "num_steps must be at least 1"),
        ({"methods": ("none",), "critic_strength": 0.1}, "--critic-strength 0.1 means nothing"),
        ({"critic_sigma": -1.0, "methods": ("syre",)}, "critic_sigma must be"),
    ],
)
def test_settings_of_the_ant_that_mean_nothing_are_refused(tmp_path, started, changes, message):
    with pytest.raises(ValueError, match=message):
        run("slippery-ant", replace(default_options("slippery-ant"), out=tmp_path, **changes))
    assert not started
    assert not list(tmp_path.iterdir())


def test_few_ants_share_the_cores(tmp_path, started, monkeypatch):
    pytest.importorskip("pybullet", reason="needs PyBullet")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7, 9, 11}, raising=False)
    options = replace(default_options("slippery-ant"), out=tmp_path, device="cpu", seeds=(0,))
    for methods in (("none",), ("none", "syre")):
        run("slippery-ant", replace(options, methods=methods))
    run("slippery-ant", replace(options, cores=2))
    assert [[job.config.cores for job in jobs] for jobs, _ in started] == [[6], [3, 3], [2, 2, 2]]
    assert [processes for _, processes in started] == [6, 6, 3]


def test_a_saved_configuration_may_go_to_another_benchmark():
    config = default_options("permuted-mnist").config("permuted-mnist", "syre", 0)
    options = options_from_config("permuted-fashion", config.to_json())
    assert options.out == Path("runs/permuted-fashion")
    assert options.config("permuted-fashion", "syre", 0).dataset == "fashion-mnist"


def test_a_saved_configuration_that_contradicts_itself_is_refused():
    config = default_options("permuted-mnist").config("permuted-mnist", "syre", 0).to_json()
    with pytest.raises(ValueError, match=r"dataset must be 'mnist'.*not 'kmnist'"):
        options_from_config("permuted-mnist", {**config, "dataset": "kmnist"})
    with pytest.raises(ValueError, match="Unknown benchmark 'permuted-mist'"):
        options_from_config("permuted-mnist", {**config, "benchmark": "permuted-mist"})


def test_runs_are_seeds_times_methods(tmp_path, started):
    options = replace(default_options("permuted-digits"), out=tmp_path, seeds=(0, 5))
    assert run("permuted-digits", options) == 0
    ((jobs, _),) = started
    assert [str(job.path.relative_to(tmp_path)) for job in jobs] == [
        f"permuted-digits/{method}/seed_{seed}" for seed in (0, 5) for method in options.methods
    ]


def test_as_many_at_once_as_there_are_cores_unless_told(tmp_path, started, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7, 9}, raising=False)
    options = replace(default_options("permuted-digits"), out=tmp_path, device="cpu")
    run("permuted-digits", options)
    run("permuted-digits", replace(options, jobs=3))
    assert [processes for _, processes in started] == [5, 3]


def test_runs_train_together_if_told(tmp_path, started):
    options = replace(default_options("permuted-digits"), out=tmp_path, device="cpu", seeds=(0, 1))
    options = replace(options, methods=("none", "syre", "shift"))
    run("permuted-digits", replace(options, together=3))
    run("permuted-digits", options)
    (work, _), (single, _) = started
    assert [[job.path.parent.name for job in each.jobs] for each in work] == [
        ["none", "syre"],
        ["none", "syre"],
        ["shift"],
        ["shift"],
    ]
    assert [len(each.jobs) for each in single] == [1] * 6


def test_what_is_left_of_a_group_is_told_so(tmp_path, started, monkeypatch):
    options = replace(
        default_options("permuted-digits"), out=tmp_path, device="cpu", seeds=(0, 1), together=3
    )
    monkeypatch.setattr(
        run_module.runs, "is_finished", lambda path, length: path.parent.name != "syre"
    )
    run("permuted-digits", options)
    ((work, _),) = started
    assert [[str(job.path.relative_to(tmp_path)) for job in each.jobs] for each in work] == [
        ["permuted-digits/syre/seed_0"],
        ["permuted-digits/syre/seed_1"],
    ]
    assert all(each.had_more for each in work)


def test_a_sweep_trains_together_across_its_settings(tmp_path, started):
    options = sweep_options(
        out=tmp_path, seeds=(0, 1), strengths=(0.01, 0.1), sigmas=(0.3,), together=100
    )
    assert sweep("permuted-digits", options) == 0
    ((work, _),) = started
    assert [len(each.jobs) for each in work] == [10]  # 2 seeds of none, 2 strengths of two methods


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "--jobs must be at least 1: 0"),
        ({"together": 0}, "--together must be at least 1: 0"),
        ({"together": 2, "methods": ("shift",)}, "--together 2 means nothing to these runs"),
        ({"jobs": -2}, "--jobs must be at least 1: -2"),
        ({"methods": ()}, "Give at least one method and one seed"),
        ({"seeds": ()}, "Give at least one method and one seed"),
        ({"seeds": (1, 1)}, "named twice"),
        ({"methods": ("none", "none")}, "named twice"),
        ({"methods": ("sire",)}, "Did you mean 'syre'"),
        ({"device": "cudda"}, "Unknown --device 'cudda'. Did you mean 'cuda'"),
        ({"device": "meta"}, "Unknown --device 'meta'"),
        ({"device": "cuda:99"}, "--device cuda:99 cannot be used here"),
        ({"metrics": ("sranc",)}, "Did you mean 'srank'"),
        ({"probe_size": 10**6}, "--probe-size 1000000 is larger than the 355 test"),
        ({"data_dir": Path("/nowhere")}, "leave out --data-dir"),
    ],
)
def test_what_cannot_be_met_is_refused_before_anything_runs(tmp_path, started, changes, message):
    options = replace(default_options("permuted-digits"), out=tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        run_module.run("permuted-digits", options)
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
    part = "agent" if benchmark == "slippery-ant" else "classifier"
    compiled = replace(options, **{part: replace(getattr(options, part), compile=True)})
    options.config(benchmark, "syre", 0)
    with pytest.raises(ValueError, match=re.escape(message)):
        compiled.config(benchmark, "syre", 0)


def test_images_too_small_for_the_network_are_refused_before_anything_runs(tmp_path, started):
    options = default_options("permuted-digits")
    # 8 x 8 digits: pooled three times they are 1 x 1, a fourth leaves nothing
    network = replace(options.network, channels=(2, 2, 2, 2), downsampling="max-pool")
    with pytest.raises(ValueError, match="too small for 4"):
        run("permuted-digits", replace(options, out=tmp_path / "out", network=network))
    assert not started


def test_unknown_benchmark_is_refused(tmp_path):
    options = replace(default_options("permuted-digits"), out=tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'permuted-digits'"):
        run("permuted-digit", options)
    with pytest.raises(ValueError, match="Did you mean 'permuted-digits'"):
        sweep("permuted-digit", sweep_options())


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, started):
    (tmp_path / "out").write_text("a file")
    options = replace(default_options("permuted-digits"), out=tmp_path / "out")
    with pytest.raises(RunError, match=r"Cannot write to .*give an --out"):
        run_module.run("permuted-digits", options)
    assert not started


def test_a_sweep_has_a_folder_for_each_setting(tmp_path, started):
    options = sweep_options(
        out=tmp_path,
        methods=("none", "weight-decay", "syre"),
        seeds=(0,),
        strengths=(0.01, 0.1),
        sigmas=(0.3, 1.0),
    )
    assert sweep("permuted-digits", options) == 0
    ((jobs, _),) = started
    found = {
        str(job.path.relative_to(tmp_path)): (job.config.strength, job.config.sigma) for job in jobs
    }
    place = "strength_{}_sigma_{}/permuted-digits/{}/seed_0"
    assert found == {
        place.format("0", "0", "none"): (0, 0),
        place.format("0.01", "0", "weight-decay"): (0.01, 0),
        place.format("0.1", "0", "weight-decay"): (0.1, 0),
        place.format("0.01", "0.3", "syre"): (0.01, 0.3),
        place.format("0.01", "1", "syre"): (0.01, 1),
        place.format("0.1", "0.3", "syre"): (0.1, 0.3),
        place.format("0.1", "1", "syre"): (0.1, 1),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.1}, "--strength 0.1 is not of a sweep: give --strengths 0.1"),
        ({"sigma": 0.0}, "--sigma 0 is not of a sweep: give --sigmas 0"),
        ({"strengths": ()}, "at least one value: --strengths"),
        ({"sigmas": ()}, "at least one value: --sigmas"),
        ({"strengths": (0.1, 0.1)}, "named twice"),
        ({"strengths": (0.1, -0.1)}, "strength must be"),
        ({"sigmas": (0.1, float("nan"))}, "sigma must be"),
        ({"methods": ("sire",)}, "Did you mean 'syre'"),
    ],
)
def test_what_a_sweep_refuses(tmp_path, started, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sweep("permuted-digits", sweep_options(out=tmp_path, **changes))
    assert not started


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
            Outcome(stopped=[Path("a")]),  # somebody told the run's own process
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
def test_the_last_word(capsys, outcome, code, parts):
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


@pytest.mark.parametrize("name", ["strength", "sigma"])
def test_an_option_that_means_nothing_is_refused(name, tmp_path):
    options = replace(
        default_options("permuted-digits"),
        methods=("none",),
        out=tmp_path,
        **{name: 0.1},
    )
    with pytest.raises(ValueError, match=f"--{name} 0.1 means nothing to none"):
        run_module.run("permuted-digits", options)
