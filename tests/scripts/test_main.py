"""Command line: options, messages, exit codes."""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity.agents.networks import CNN, MLP, NETWORKS
from plasticity.agents.ppo.config import PRESETS
from plasticity.agents.sb3 import ALGORITHMS
from plasticity.metrics.registry import METRICS
from plasticity.mitigations import MITIGATIONS, Syre, WeightDecay
from plasticity.mitigations.base import KINDS
from plasticity.scripts import main as main_module
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.grid import Axis
from plasticity.scripts.config.nested import setting_at
from plasticity.scripts.config.options import default_options
from plasticity.scripts.config.settings_by_option import concerns
from plasticity.scripts.main import COMMANDS, core_time, main
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.run import command as run_module
from plasticity.scripts.run import locks

TINY = shlex.split(
    "--tasks 2 --seeds 0 --channels 4 --hidden 8 --epochs-per-task 1 --batch-size 100"
    " --probe-size 32 --metrics effective_rank --device cpu"
)


@pytest.fixture
def call(capsys):
    """Function that calls the program and returns its exit code, output and messages."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return caught.value.code, said.out, said.err

    return call


@pytest.fixture
def parsed(monkeypatch):
    """Options, axes of the grid and command that `run` and `sweep` would be called with."""
    found = []

    def note_run(options, command):
        found.append((options, None, command))
        return 0

    def note_sweep(options, axes, command):
        found.append((options, axes, command))
        return 0

    monkeypatch.setattr(main_module, "run", note_run)
    monkeypatch.setattr(main_module, "sweep", note_sweep)
    return found


def tiny_run(call, out, *more):
    return call("run", "permuted-digits", "--methods", "none", "--out", out, *TINY, *more)


def run_folder(out, method="none"):
    return out / "permuted-digits" / method / "seed_0"


# ---- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_usage_names_every_command(call, arguments):
    code, out, _ = call(*arguments)
    assert code == 0
    for name, description in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(description)}$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (0.04, "0.04 core-minutes"),
        (1, "1 core-minute"),
        (80, "80 core-minutes"),
        (400, "6.7 core-hours"),  # 400 / 60 = 6.67
        (60 * 40, "40 core-hours"),
        (60 * 48, "2 core-days"),
        (330_000, "230 core-days"),  # 330,000 / 1440 = 229.2
        (1440 * 12_345, "12,000 core-days"),
    ],
)
def test_the_time_of_a_run_in_words(minutes, words):
    assert core_time(minutes) == words


def test_list_has_a_line_for_each_entry(call):
    code, out, _ = call("list")
    assert code == 0
    runs = {each.config.benchmark for each in FIGURES.values()}
    benchmarks = [name for name in BENCHMARKS if name not in runs]
    agents = "ppo", *ALGORITHMS
    for name in (*benchmarks, *FIGURES, "none", *MITIGATIONS, *agents, *NETWORKS, *METRICS):
        assert re.search(rf"^  {name} +\w", out, re.MULTILINE), name
    described = [
        (name, option, chosen)
        for name in benchmarks
        for option, presets in BENCHMARKS[name].presets.items()
        for chosen, each in presets.groups.items()
        if each.description
    ]
    assert len(described) > 3
    for name, option, chosen in described:  # some have presets of the same name
        assert re.search(rf"^    {name} --{option} {chosen} +\w", out, re.MULTILINE), name
    code, out, _ = call("list", "--help")
    assert code == 0
    assert out.startswith("usage: plasticity list [--benchmarks] [--figures] [--methods]")


def test_a_list_of_methods_has_them_by_kind(call):
    code, out, _ = call("list", "--methods", "--networks")
    lines = [line.split()[0] if line[2:3] != "-" else line.strip() for line in out.splitlines()]
    assert code == 0
    assert "benchmarks:" not in lines
    headings = [f"- {kind}" for kind in KINDS if f"- {kind}" in lines]
    assert [line for line in lines if line.startswith("- ")] == headings
    assert {*MITIGATIONS, *NETWORKS} < set(lines)
    resets = lines[lines.index("- unit reset") : lines.index("- network")]
    assert {"redo", "snr"} < set(resets)
    assert "syre" not in resets


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("benchmark", [["permuted-digits"], []])
def test_help_of_a_run_names_every_option(call, command, benchmark):
    code, out, _ = call(command, *benchmark, "--help")
    assert code == 0
    options = ["--methods", "--seeds", "--tasks", "--out", "--data-dir", "--device", "--jobs"]
    options += ["--metrics", "--probe-size", "--stack", "--syre.strength", "--syre.sigma"]
    options += ["--syre.anisotropy", "--syre.decoupled", "--weight-decay.strength"]
    options += ["--weight-decay.decoupled", "--l2-init.strength", "--shift.sigma"]
    options += ["--architecture", "--channels", "--downsampling", "--kernel-sizes", "--hidden"]
    options += ["--activation", "--optimizer", "--learning-rate", "--momentum", "--batch-size"]
    options += ["--epochs-per-task", "--loss", "--train-evaluation-size", "--config", "--import"]
    for option in options:
        assert re.search(rf"{option}\b", out), option
    assert ("--grid" in out) == (command == "sweep")
    assert ("--preset" in out) == (not benchmark)  # permuted-mnist has some, permuted-digits none
    assert not re.search(r"--(critic|agent|strength|sigma|seed|dataset)(?![-\w])", out)
    before_options = out.split("options")[0]
    assert not re.search(r"^ +\S", before_options, re.MULTILINE)  # the docstring's indentation
    assert "\n\n\n" not in before_options


def test_help_of_an_architecture_names_its_options_only(call):
    code, out, _ = call("run", "permuted-mnist", "--architecture", "mlp", "--help")
    assert code == 0
    for option in ("architecture", "hidden", "activation"):
        assert re.search(rf"--{option}\b", out), option
    assert not re.search(r"--(channels|downsampling|kernel-sizes)\b", out)


@pytest.mark.parametrize("benchmark", ["slippery-ant", "slippery-ant-warp"])
def test_help_of_an_ant_names_its_options(call, benchmark):
    code, out, _ = call("run", benchmark, "--help")
    assert code == 0
    options = ["--steps", "--preset", "--agent", "--change-every", "--num-envs", "--cores"]
    options += ["--measure-every", "--rollout-steps", "--betas", "--syre.sigma"]
    options += ["--critic.syre.sigma", "--critic.weight-decay.strength"]
    for option in options:
        assert re.search(rf"{re.escape(option)}\b", out), option
    assert not re.search(r"--(engine|tasks|critic-method)\b", out)


def test_help_has_the_defaults_of_a_preset_and_of_a_file(call, tmp_path):
    def default_of(option, *arguments):
        code, out, _ = call("run", *arguments, "--help")
        assert code == 0
        words = " ".join(out.replace("│", "").split())
        return re.search(rf"--{option} INT .*?\(default: (.*?)\)", words).group(1)

    assert default_of("change-every", "slippery-ant") == "100000"
    assert default_of("change-every", "slippery-ant", "--preset", "nature") == "2000000"
    file = tmp_path / "some.yaml"
    file.write_text("agent: {batch_size: 77}\n")
    assert default_of("batch-size", "permuted-digits", "--config", file) == "77"


def test_help_needs_neither_figures_nor_data():
    code = (
        "import sys\n"
        "from plasticity.scripts.main import main\n"
        "for arguments in (['list'], ['run', 'permuted-digits', '--help']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert not end.code\n"
        "slow = ['matplotlib', 'tensorboard', 'sklearn', 'pybullet', 'stable_baselines3']\n"
        "slow += ['torch._dynamo', 'scipy']\n"
        "print([name for name in slow if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_output_that_nobody_reads_is_no_error():
    for arguments in (["list"], ["report", "--help"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "plasticity.scripts.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(60) == 0


# ---- options ------------------------------------------------------------------------------------


def test_options_reach_the_run(call, parsed):
    code, _, _ = call(
        *shlex.split(
            "run permuted-mnist --methods none syre --seeds 3 4 --tasks 7 --out 'my runs'"
            " --syre.strength 0 --syre.sigma 0.3 --syre.decoupled True --data-dir data --jobs 2"
            " --metrics srank"
            " --channels 4 8 16 --hidden 100 50 --learning-rate 1e-4 --optimizer adam --momentum 0"
        )
    )
    assert code == 0
    ((options, _, command),) = parsed
    config, defaults = options.config, BENCHMARKS["permuted-mnist"].config
    assert options.benchmark == "permuted-mnist"
    assert (options.methods, options.seeds) == (("none", "syre"), (3, 4))
    assert (options.out, options.jobs) == (Path("my runs"), 2)
    assert (config.stream.num_tasks, config.stream.data_dir) == (7, "data")
    assert options.mitigations["syre"] == Syre(strength=0, sigma=0.3, decoupled=True)
    assert options.mitigations["weight-decay"] == WeightDecay(strength=1e-3)
    assert config.tracking.metrics == ("srank",)
    assert (config.network.channels, config.network.hidden) == ((4, 8, 16), (100, 50))
    assert (config.agent.learning_rate, config.agent.optimizer) == (1e-4, "adam")
    assert config.agent.batch_size == defaults.agent.batch_size
    assert shlex.split(command)[-4:] == ["--optimizer", "adam", "--momentum", "0"]
    assert "--out 'my runs' --syre.strength 0" in command


def test_seeds_are_given_as_ranges_too(call, parsed):
    call("run", "permuted-digits", "--seeds", "0..3", "7", "--tasks", "2")
    call("sweep", "permuted-digits", "--seeds", "2..2")
    assert [options.seeds for options, _, _ in parsed] == [(0, 1, 2, 3, 7), (2,)]


def test_metrics_may_be_left_out_altogether(call, parsed):
    call("run", "permuted-digits", "--metrics")
    assert parsed[0][0].config.tracking.metrics == ()


def test_sweep_options(call, parsed):
    grid = ["syre.strength=0.1,0.2", "hidden=64,32 16", "loss=squared-error"]
    call("sweep", "permuted-digits", "--grid", *grid, "--seeds", "0")
    call("sweep", "permuted-digits", "--methods", "syre", "shift")
    (options, axes, _), (default, searched, _) = parsed
    assert options.out == default.out == Path("runs/permuted-digits-sweep")
    assert axes == [
        Axis("syre.strength", (0.1, 0.2)),
        Axis("hidden", ((64,), (32, 16))),
        Axis("loss", ("squared-error",)),
    ]
    strengths, sigmas = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (0.01, 0.1, 0.3, 0.5, 1.0)
    assert searched == [
        Axis("syre.strength", strengths),
        Axis("syre.sigma", sigmas),
        Axis("shift.sigma", sigmas),
    ]
    assert options.mitigations == default_options("permuted-digits").mitigations


def test_a_run_has_no_grid(call, parsed):
    code, _, said = call("run", "permuted-digits", "--grid", "hidden=8")
    assert (code, parsed) == (2, [])
    assert "--grid" in said


def test_a_sweep_of_a_critic(call, parsed):
    call("sweep", "slippery-ant", "--grid", "critic.syre.sigma=0.5,1", "num-envs=4,8")
    ((options, axes, _),) = parsed
    assert axes == [Axis("critic.syre.sigma", (0.5, 1.0)), Axis("num-envs", (4, 8))]
    assert [concerns(axes[0].option, method) for method in options.methods] == [False, False, True]


def test_a_critic_has_options_of_its_own(call, parsed):
    line = "run slippery-ant --critic.syre.sigma 0.25 --critic.weight-decay.strength 0 --steps 9"
    assert call(*shlex.split(line))[0] == 0
    ((options, _, _),) = parsed
    assert options.config.stream.num_steps == 9
    given = {name: settings for name, settings in options.critic.items() if settings}
    assert given == {"syre": {"sigma": 0.25}, "weight-decay": {"strength": 0}}
    syre = options.run_config("syre", 0)
    assert (syre.method, syre.critic_method) == (
        (Syre(strength=1e-3, sigma=0.3),),
        (Syre(strength=1e-3, sigma=0.25),),
    )


def test_presets_give_the_defaults_of_other_options(call, parsed):
    call("run", "slippery-ant", "--preset", "nature", "--agent=non-stationary")
    call("run", "slippery-ant", "--preset=syre", "--change-every", "4000", "--epsilon", "1e-5")
    call("run", "slippery-ant-mujoco", "--agent", "non-stationary", "--betas", "0.8", "0.9")
    found = [
        (o.config.stream.change_every, o.config.agent.betas, o.config.agent.epsilon)
        for o, _, _ in parsed
    ]
    standard, other = PRESETS["standard"], PRESETS["non-stationary"]
    assert found == [
        (2_000_000, other.betas, other.epsilon),
        (4000, standard.betas, 1e-5),
        (100_000, (0.8, 0.9), other.epsilon),
    ]


def test_the_architecture_is_chosen_before_its_options(call, parsed, tmp_path):
    call("run", "permuted-digits", "--hidden", "5", "--architecture=mlp")
    call("run", "permuted-digits", "--architecture", "cnn", "--channels", "2")
    file = tmp_path / "some.yaml"
    file.write_text("network: {architecture: mlp, hidden: [3]}")
    call("run", "permuted-digits", "--config", file, "--activation", "tanh")
    file.write_text("network: {hidden: [4]}")
    call("run", "permuted-digits", "--config", file, "--architecture", "mlp")
    call("run", "permuted-digits", "--config", file)
    assert [options.config.network for options, _, _ in parsed] == [
        MLP(hidden=(5,)),
        CNN(channels=(2,)),
        MLP(hidden=(3,), activation="tanh"),
        MLP(hidden=(4,)),
        CNN(hidden=(4,)),
    ]
    saved = parsed[0][0].run_config("none", 0).to_json()
    chosen = {"architecture": "mlp", "activation": "relu", "hidden": [5]}
    assert chosen.items() <= saved["network"].items()
    file.write_text("network: {channels: [4]}")
    _, _, said = call("run", "permuted-digits", "--config", file, "--architecture", "mlp")
    assert "Unknown key of network 'channels'" in said


def test_config_gives_the_defaults_and_options_override_it(call, parsed, tmp_path):
    saved = default_options("permuted-digits").run_config("syre", 9).to_json()
    saved["agent"]["learning_rate"] = 0.5
    saved["stream"]["num_tasks"] = 4
    saved["method"]["syre"]["strength"] = 0.25
    saved |= {"versions": {}, "git_commit": None}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(saved))
    call("run", "--config", file, "--tasks", "6")
    call("run", "permuted-digits", "--out", "elsewhere", f"--config={file}", "--methods", "none")
    call("sweep", "--config", file)
    call("run", "permuted-fashion", "--config", file, "--syre.sigma", "3")
    first, second, third, fourth = (options for options, _, _ in parsed)
    assert first.benchmark == "permuted-digits"
    assert (first.config.stream.num_tasks, first.methods, first.seeds) == (6, ("syre",), (9,))
    assert first.mitigations["syre"] == Syre(strength=0.25, sigma=0.5)
    assert first.config.agent.learning_rate == 0.5
    assert (second.out, second.methods) == (Path("elsewhere"), ("none",))
    assert second.config.stream.num_tasks == 4
    assert [axis.option for axis in parsed[2][1]] == ["syre.strength", "syre.sigma"]
    assert third.config.agent.learning_rate == 0.5
    assert (fourth.benchmark, fourth.config.stream.dataset) == ("permuted-fashion", "fashion-mnist")
    assert fourth.mitigations["syre"] == Syre(strength=0.25, sigma=3)


YAML = """
# a part of a configuration
benchmark: permuted-digits
method:
  syre:
    sigma: 0.9
  shift:
seed: 4
stream: {num_tasks: 6}
agent:
  learning_rate: 1e-3
network:
  hidden: [32, 16]
tracking:
  metrics: []
"""


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_a_part_of_a_configuration_is_enough(call, parsed, tmp_path, suffix):
    file = tmp_path / f"config.{suffix}"
    plain = {
        "benchmark": "permuted-digits",
        "method": {"syre": {"sigma": 0.9}, "shift": None},
        "seed": 4,
        "stream": {"num_tasks": 6},
        "agent": {"learning_rate": 1e-3},
        "network": {"hidden": [32, 16]},
        "tracking": {"metrics": []},
    }
    file.write_text(json.dumps(plain) if suffix == "json" else YAML)
    assert call("run", "--config", file, "--batch-size", "50")[0] == 0
    ((options, _, _),) = parsed
    defaults = default_options("permuted-digits")
    assert (options.methods, options.seeds) == (("syre+shift",), (4,))
    assert (options.out, options.device) == (defaults.out, defaults.device)
    assert options.mitigations == {
        **defaults.mitigations,
        "syre": Syre(strength=3e-3, sigma=0.9),
    }
    expected = {
        "stream.num_tasks": 6,
        "agent.learning_rate": 1e-3,
        "agent.batch_size": 50,
        "agent.epochs_per_task": 10,  # of the benchmark
        "network.hidden": (32, 16),
        "tracking.metrics": (),
        "tracking.probe_size": 256,
    }
    assert {path: setting_at(options.config, path) for path in expected} == expected


def test_a_file_without_a_benchmark_is_of_the_one_that_is_named(call, parsed, tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("agent: {epochs_per_task: 2}\ndevice: cpu\nmethod: weight-decay\n")
    for name in ("permuted-digits", "permuted-fashion"):
        call("run", name, "--config", file)
    for name, (options, _, _) in zip(("permuted-digits", "permuted-fashion"), parsed, strict=True):
        assert (options.benchmark, options.device) == (name, "cpu")
        assert options.methods == ("weight-decay",)
        assert options.config.agent.epochs_per_task == 2
        assert options.config.stream == BENCHMARKS[name].config.stream
    code, _, said = call("run", "--config", file)
    assert code == 2
    assert "Name a benchmark first: plasticity run NAME" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not valid JSON"),
        ("[]", "holds no object of names and values"),
        ('{"benchmark": "permuted-digts"}', "Did you mean 'permuted-digits'"),
        ('{"benchmark": "permuted-digits", "sead": 1}', "Did you mean 'seed'"),
        ('{"benchmark": "permuted-digits", "stream": {"num_task": 1}}', "Did you mean 'num_tasks'"),
        ('{"benchmark": "permuted-digits", "strength": 1}', "Unknown key of the configuration 'st"),
        ('{"benchmark": "permuted-digits", "method": {"sire": {}}}', "Did you mean 'syre'"),
        (
            '{"benchmark": "permuted-digits", "agent": {"batch_size": 0}}',
            "batch_size must be at le",
        ),
        ('{"benchmark": "permuted-digits", "agent": 1}', "agent must be an object"),
        ('{"benchmark": "permuted-digits", "seed": "1"}', "seed must be an integer"),
        ('{"benchmark": "permuted-digits", "stream": {"dataset": "mnist"}}', "must be 'digits'"),
        ("{}", "Name a benchmark first: plasticity run NAME"),
    ],
)
def test_a_wrong_config_is_refused(call, tmp_path, content, message):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    code, _, said = call("run", "--config", file)
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("agent: [", "some.yaml is not valid YAML"),
        ("- 1\n- 2\n", "holds no object of names and values"),
        ("", "holds no object of names and values"),
        ("agent: {batch_sise: 3}", "Did you mean 'batch_size'"),
        ("method: [syre]", "method must be an object"),
        ("method: sire", "Did you mean 'syre'"),
    ],
)
def test_a_wrong_config_in_yaml_is_refused(call, tmp_path, content, message):
    file = tmp_path / "some.yaml"
    file.write_text(content)
    code, _, said = call("run", "permuted-digits", "--config", file)
    assert code == 2
    assert message in said


def test_a_config_and_what_does_not_go_with_it(call, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(default_options("slippery-ant").run_config("none", 0).to_json()))
    _, _, said = call("run", "permuted-digits", "--config", file)
    assert "it is of slippery-ant, whose settings mean nothing to permuted-digits" in said
    for option, name in (("preset", "nature"), ("agent", "standard")):
        code, _, said = call("run", "--config", file, f"--{option}", name)
        assert code == 2
        assert f"Give --{option} {name} or --config {file}, not both." in said


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rn", "Unknown command 'rn'. Did you mean 'run'?"),
        ("list --all", "`plasticity list` does not know --all: give some of --benchmarks"),
        ("run", "Name a benchmark first: plasticity run NAME"),
        ("run --tasks 3", "Name a benchmark first: plasticity run NAME"),
        (
            "run permuted-digit",
            "Unknown benchmark 'permuted-digit'. Did you mean 'permuted-digits'",
        ),
        (
            "run permuted-digits --architecture mpl",
            "Unknown architecture 'mpl'. Did you mean 'mlp'?",
        ),
        ("run permuted-digits --architecture mlp --channels 4", "--channels"),
        ("run slippery-ant --architecture mlp", "--architecture"),
        ("sweep permuted-digits --grid architecture=cnn,mlp", "is no setting of a run"),
        ("run permuted-digits --methods sire", "Unknown method 'sire'. Did you mean 'syre'?"),
        ("run permuted-digits --metrics sranc", "Unknown metric 'sranc'. Did you mean 'srank'?"),
        ("run permuted-digits --task 3", "--tasks INT"),
        ("run permuted-digits --learning-rat 3", "--learning-rate FLOAT"),
        ("run permuted-digits --tasks three", "--tasks"),
        ("run permuted-digits --optimizer sdg", "'sgd', 'adam', 'adamw'"),
        ("run permuted-digits --tasks 0", "tasks must be at least 1: 0"),
        ("run permuted-digits --tasks -3", "tasks must be at least 1: -3"),
        ("run permuted-digits --seeds -1", "seed must be at least 0"),
        ("run permuted-digits --seeds 3..1", "3..1 runs backward"),
        ("run permuted-digits --seeds 0..", "'0..': give whole numbers, and ranges"),
        (
            "run permuted-digits --syre.strength -1",
            "strength must be a finite number of at least 0: -1",
        ),
        (
            "run permuted-digits --weight-decay.strength=-1e-3",
            "strength must be a finite number of at least 0",
        ),
        ("run permuted-digits --syre.strength nan", "strength must be a finite number"),
        ("run permuted-digits --syre.sigma -0.1", "sigma must be a finite number of at least 0"),
        ("run permuted-digits --syre.anisotropy 0.6", "anisotropy must be"),
        ("run permuted-digits --syre.sigm 0.6", "--syre.sigma FLOAT"),
        ("run permuted-digits --sigma 0.6", "--syre.sigma FLOAT"),
        ("run permuted-digits --strength 0.6", "--strength"),
        (
            "run permuted-digits --shift.sigma 0.6",
            "--shift.sigma 0.6 means nothing to none, weight-decay, syre: leave it out, or add shift",
        ),
        (
            "run permuted-digits --methods none l2-init --syre.sigma 0.6",
            "--syre.sigma 0.6 means nothing to none, l2-init",
        ),
        ("run permuted-digits --methods syre+l2-init", "syre and l2-init both set the decay"),
        ("run permuted-digits --critic.syre.sigma 1", "--critic.syre.sigma"),
        ("run permuted-digits --preset nature", "--preset"),
        ("run slippery-ant --methods none --critic.syre.sigma 1", "--critic.syre.sigma 1.0 means"),
        ("run slippery-ant --critic.syre.sigma -1", "sigma must be a finite number of at least 0"),
        ("run slippery-ant --methods shift+", "'shift+' has no mitigation on one side of '+'"),
        ("run slippery-ant --preset natur", "Unknown preset 'natur'. Did you mean 'nature'?"),
        ("run slippery-ant --agent standart", "Unknown agent 'standart'. Did you mean 'standard'"),
        ("run slippery-ant --preset", "Missing value for argument '--preset'"),
        ("run slippery-ant --config", "plasticity run: error: argument --config: expected one"),
        ("sweep permuted-digits --grid hidden=8 --grid momentum=0", "--grid is given twice"),
        ("run permuted-digits --optimizer adam", "momentum=0.9 applies to sgd only"),
        (
            "sweep permuted-digits --syre.sigma 9",
            "--syre.sigma is in the grid: leave out the option",
        ),
        (
            "sweep permuted-digits --grid syre.sigma=a",
            "see plasticity sweep permuted-digits --help",
        ),
        ("run permuted-digits --learning-rate 0", "learning_rate must be above 0"),
        ("run permuted-digits --learning-rate -1", "learning_rate must be a finite number"),
        ("run permuted-digits --learning-rate nan", "learning_rate must be a finite number"),
        ("run permuted-digits --momentum 1", "momentum must be"),
        ("run permuted-digits --batch-size 0", "batch_size must be at least 1: 0"),
        ("run permuted-digits --batch-size 5000", "--batch-size 5000 is larger than the 1442"),
        ("run permuted-digits --probe-size 5000", "--probe-size 5000 is larger than the 355"),
        ("run permuted-digits --kernel-sizes 2", "kernel_sizes must be odd"),
        ("run permuted-digits --jobs 0", "--jobs must be at least 1: 0"),
        ("run permuted-digits --stack 0", "--stack must be at least 1: 0"),
        ("run permuted-digits --stack al", "--stack"),
        ("run slippery-ant --stack 4", "--stack 4 means nothing to these runs of slippery-ant"),
        ("run permuted-digits --device gpu", "Unknown --device 'gpu'"),
        ("run permuted-images", "pass the folder as --data-dir"),
        ("run permuted-images --data-dir /nowhere", "--data-dir (data_dir) must be an existing"),
        ("sweep permuted-digits --grid hidden", "--grid 'hidden': give an option and its values"),
        (
            "sweep permuted-digits --grid learning-rat=1",
            "Unknown setting of a grid 'learning-rat'. Did you mean 'learning-rate'?",
        ),
        ("sweep permuted-digits --grid hidden=8,many", "Error parsing --hidden"),
        ("sweep permuted-digits --grid optimizer=sdg", "'sgd', 'adam', 'adamw'"),
        ("sweep permuted-digits --grid hidden=8 --hidden 9", "--hidden is in the grid: leave out"),
        ("sweep permuted-digits --grid momentum=0.5,2", "momentum must be"),
        ("sweep permuted-digits --grid hidden=8,8", "--grid hidden names 8 twice"),
        (
            "sweep permuted-digits --grid shift.sigma=1,2",
            "--grid shift.sigma means nothing to none",
        ),
        ("sweep permuted-digits --grid batch-size=32,5000", "--batch-size 5000 is larger than the"),
    ],
)
def test_errors_of_the_user_are_one_message_and_code_2(call, tmp_path, line, message):
    arguments = shlex.split(line)
    if len(arguments) > 1 and arguments[1].startswith("permuted"):
        arguments += ["--out", str(tmp_path / "out")]
    code, _, said = call(*arguments)
    assert code == 2
    assert message in " ".join(re.sub("[│╭╰─╮╯]", "", said).split())
    assert not (tmp_path / "out").exists()


def test_output_folders_that_cannot_be_written(call, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    paths = [tmp_path / "file", tmp_path / "file" / "below"]
    if sys.platform == "linux":
        paths.append(Path("/proc/self/runs"))
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        paths.append(tmp_path / "closed")
    for path in paths:
        code, _, said = tiny_run(call, path)
        assert code == 2
        assert f"Cannot write to {run_folder(path)} (" in said
        assert "give an --out that you may write to" in said


def test_the_life_of_a_run_folder(call, tmp_path, monkeypatch):
    """Use one run of few tasks, as each call starts a process."""
    folder = run_folder(tmp_path)
    code, _, said = tiny_run(call, tmp_path)
    assert code == 0
    assert said == "1 runs, 2 tasks.\n1 runs finished.\n"
    first = (folder / "metrics.jsonl").read_bytes()
    assert json.loads(first.splitlines()[0])["task"] == 0

    assert tiny_run(call, tmp_path)[2] == "1 of 1 runs are already finished.\n"
    assert tiny_run(call, tmp_path, "--tasks", "1")[2] == "1 of 1 runs are already finished.\n"

    code, _, said = tiny_run(call, tmp_path, "--tasks", "4")
    assert (code, said.splitlines()[0]) == (0, "1 runs, 4 tasks, 2 of them done before.")
    tiny_run(call, tmp_path / "once", "--tasks", "4")
    extended = (folder / "metrics.jsonl").read_bytes()
    assert extended == (run_folder(tmp_path / "once") / "metrics.jsonl").read_bytes()
    assert extended.startswith(first)

    files = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    code, _, said = tiny_run(call, tmp_path, "--tasks", "4", "--methods", "none", "syre")
    assert (code, "1 of 2 runs are already finished." in said) == (0, True)
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()} == files
    assert (run_folder(tmp_path, "syre") / "checkpoint.pt").exists()

    code, _, said = tiny_run(call, tmp_path, "--learning-rate", "0.5", "--hidden", "9")
    assert code == 2
    assert "agent.learning_rate (there 0.01, now 0.5); network.hidden (there [8], now [9])" in said

    monkeypatch.setattr(locks, "LOCK_PATIENCE_SECONDS", 0.1)
    with (folder / "lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code, _, said = tiny_run(call, tmp_path, "--tasks", "9")
    assert code == 2
    assert f"{folder} is in use by another process" in said

    (folder / "metrics.jsonl").write_bytes(first)
    assert "rows were lost. Restore the file" in tiny_run(call, tmp_path)[2]
    (folder / "checkpoint.pt").write_bytes(files["checkpoint.pt"][:1000])
    code, _, said = tiny_run(call, tmp_path)
    assert code == 2
    assert f"{folder / 'checkpoint.pt'} cannot be read" in said
    (folder / "config.json").write_text("{")
    code, _, said = tiny_run(call, tmp_path)
    assert code == 2
    assert f"{folder / 'config.json'} is not JSON" in said


def test_a_run_that_diverges_ends_and_is_not_repeated(call, tmp_path):
    arguments = ["--methods", "none", "weight-decay", "--learning-rate", "1e20"]
    arguments += ["--weight-decay.strength", "1"]
    code, _, said = tiny_run(call, tmp_path, *arguments)
    assert code == 0
    for method in ("none", "weight-decay"):
        assert f"diverged: {run_folder(tmp_path, method)} (its loss became NaN" in said
        rows = (run_folder(tmp_path, method) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["diverged"] for row in rows] == [True]
        assert json.loads(rows[0])["train_loss"] is None
    assert tiny_run(call, tmp_path, *arguments)[2] == "2 of 2 runs are already finished.\n"


def test_a_run_that_fails_gives_code_1_and_the_command_to_continue(call, tmp_path, monkeypatch):
    real = run_module.run_jobs

    def block_the_folder(groups, *rest):
        # Between the check of the folders and the run, a file takes the folder's path.
        path = groups[0].jobs[0].path
        shutil.rmtree(path)
        path.write_text("")
        return real(groups, *rest)

    monkeypatch.setattr(run_module, "run_jobs", block_the_folder)
    code, _, said = tiny_run(call, tmp_path / "a b", "--methods", "none", "syre")
    assert code == 1
    assert "1 runs finished." in said
    assert f"failed: {run_folder(tmp_path / 'a b')}: Cannot write to" in said
    assert f"run permuted-digits --methods none --out '{tmp_path / 'a b'}'" in said


def test_ctrl_c_before_anything_runs(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "run", interrupted)
    code, _, said = call("run", "permuted-digits")
    assert (code, said) == (130, "plasticity: stopped.\n")


@pytest.mark.parametrize("kind", [ImportError, SystemError, ValueError])
def test_ctrl_c_within_an_import(call, monkeypatch, kind):
    """C extensions that Ctrl-C cuts off report an error of their own, caused by it."""

    def interrupted(*_):
        within = ImportError("initialization failed")
        within.__cause__ = KeyboardInterrupt()
        raise kind("cannot import it") from within

    monkeypatch.setattr(main_module, "run", interrupted)
    code, _, said = call("run", "permuted-digits")
    assert (code, said) == (130, "plasticity: stopped.\n")


def test_an_error_while_stopping_is_reported(call, monkeypatch):
    def full(*_):
        error = OSError("No space left on device")  # as the saving of a checkpoint
        error.__context__ = KeyboardInterrupt()
        raise error

    monkeypatch.setattr(main_module, "run", full)
    code, _, said = call("run", "permuted-digits")
    assert (code, said) == (2, "plasticity: No space left on device\n")


def test_a_fault_of_the_program_is_raised(monkeypatch):
    def faulty(*_):
        raise ImportError("no module named x")

    monkeypatch.setattr(main_module, "run", faulty)
    with pytest.raises(ImportError, match="no module named x"):
        main(["run", "permuted-digits"])


def test_the_program_is_named_as_it_was_called(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["/x/main.py"])
    assert main_module._program() == [sys.executable, "-m", "plasticity.scripts.main"]
    script = tmp_path / "plasticity"
    script.write_text("")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert main_module._program() == [str(script)]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main_module._program() == ["plasticity"]
