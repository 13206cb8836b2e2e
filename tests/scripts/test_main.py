"""The command line: what is typed, what is said, how it ends."""

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

from plasticity.metrics.registry import METRICS
from plasticity.scripts import main as main_module
from plasticity.scripts.config.benchmarks import BENCHMARKS, METHODS
from plasticity.scripts.config.options import SweepGrid, default_options
from plasticity.scripts.main import COMMANDS, main
from plasticity.scripts.run import atomic_files as durable
from plasticity.scripts.run import command as run_module

TINY = shlex.split(
    "--tasks 2 --seeds 0 --channels 4 --hidden 8 --epochs-per-task 1 --batch-size 100"
    " --probe-size 32 --metrics effective_rank --device cpu"
)


@pytest.fixture
def call(capsys):
    """Call the program; give its exit code, output and messages."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return caught.value.code, said.out, said.err

    return call


@pytest.fixture
def parsed(monkeypatch):
    """What `run` and `sweep` would be given."""
    found = []

    def note(name, options, command):
        found.append((name, options, command))
        return 0

    monkeypatch.setattr(main_module, "run", note)
    monkeypatch.setattr(main_module, "sweep", note)
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


def test_list_has_a_line_for_each_thing(call):
    code, out, _ = call("list")
    assert code == 0
    for name in (*BENCHMARKS, *METHODS, *METRICS):
        assert re.search(rf"^  {name} +\w", out, re.MULTILINE), name
    code, out, _ = call("list", "--help")
    assert (code, out.splitlines()[0]) == (0, "usage: plasticity list")


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("benchmark", [["permuted-digits"], []])
def test_help_of_a_run_names_every_option(call, command, benchmark):
    code, out, _ = call(command, *benchmark, "--help")
    assert code == 0
    options = ["--methods", "--seeds", "--tasks", "--out", "--strength", "--sigma", "--anisotropy"]
    options += ["--decoupled", "--data-dir", "--device", "--jobs", "--metrics", "--probe-size"]
    options += ["--together"]
    options += ["--architecture", "--channels", "--downsampling", "--kernel-size", "--hidden"]
    options += ["--activation", "--optimizer", "--learning-rate", "--momentum", "--batch-size"]
    options += ["--epochs-per-task", "--loss", "--train-evaluation-size", "--config"]
    options += ["--strengths", "--sigmas"] if command == "sweep" else []
    for option in options:
        assert re.search(rf"{option}\b", out), option
    before_options = out.split("options")[0]
    assert not re.search(r"^ +\S", before_options, re.MULTILINE)  # the docstring's indentation
    assert "\n\n\n" not in before_options


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
            " --strength 0 --sigma 0.3 --decoupled True --data-dir data --jobs 2 --metrics srank"
            " --channels 4 8 16 --hidden 100 50 --learning-rate 1e-4 --optimizer adam --momentum 0"
        )
    )
    assert code == 0
    ((name, options, command),) = parsed
    assert name == "permuted-mnist"
    assert (options.methods, options.seeds, options.tasks) == (("none", "syre"), (3, 4), 7)
    assert (options.out, options.data_dir) == (Path("my runs"), Path("data"))
    assert (options.strength, options.sigma, options.decoupled, options.jobs) == (0, 0.3, True, 2)
    assert options.metrics == ("srank",)
    assert (options.network.channels, options.network.hidden) == ((4, 8, 16), (100, 50))
    assert options.classifier.learning_rate == 1e-4
    assert options.classifier.batch_size == BENCHMARKS["permuted-mnist"].classifier.batch_size
    assert shlex.split(command)[-4:] == ["--optimizer", "adam", "--momentum", "0"]
    assert "--out 'my runs' --strength 0" in command


def test_seeds_are_given_as_ranges_too(call, parsed):
    call("run", "permuted-digits", "--seeds", "0..3", "7", "--tasks", "2")
    call("sweep", "permuted-digits", "--seeds", "2..2")
    assert [options.seeds for _, options, _ in parsed] == [(0, 1, 2, 3, 7), (2,)]


def test_metrics_may_be_left_out_altogether(call, parsed):
    call("run", "permuted-digits", "--metrics")
    assert parsed[0][1].metrics == ()


def test_sweep_options(call, parsed):
    call("sweep", "permuted-digits", "--strengths", "0.1", "0.2", "--sigmas", "0.5")
    _, options, _ = parsed[0]
    assert isinstance(options, SweepGrid)
    assert (options.strengths, options.sigmas) == ((0.1, 0.2), (0.5,))
    assert (options.strength, options.sigma) == (None, None)


def test_config_gives_the_defaults_and_options_override_it(call, parsed, tmp_path):
    saved = {
        **default_options("permuted-digits").config("permuted-digits", "syre", 9).to_json(),
        "learning_rate": 0.5,
        "num_tasks": 4,
        "strength": 0.25,
        "versions": {},
        "git_commit": None,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(saved))
    call("run", "--config", file, "--tasks", "6")
    call("run", "permuted-digits", "--out", "elsewhere", f"--config={file}", "--methods", "none")
    call("sweep", "--config", file)
    (name, first, _), (_, second, _), (_, third, _) = parsed
    assert name == "permuted-digits"
    assert (first.tasks, first.methods, first.seeds, first.strength) == (6, ("syre",), (9,), 0.25)
    assert first.classifier.learning_rate == 0.5
    assert (second.out, second.methods, second.tasks) == (Path("elsewhere"), ("none",), 4)
    assert third.strength is None  # a sweep has its own
    assert third.classifier.learning_rate == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"benchmark": "permuted-digits"}', "lacks method"),
        ('{"benchmark": "permuted-digts"}', "Did you mean 'permuted-digits'"),
        ('{"benchmark": "permuted-digits", "sead": 1}', "Did you mean 'seed'"),
        ("{}", "Unknown benchmark 'None'"),
    ],
)
def test_a_config_that_is_none_is_refused(call, tmp_path, content, message):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    code, _, said = call("run", "--config", file)
    assert code == 2
    assert message in said


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rn", "Unknown command 'rn'. Did you mean 'run'?"),
        ("list all", "`plasticity list` takes no arguments: all"),
        ("run", "Name a benchmark first: plasticity run NAME"),
        ("run --tasks 3", "Name a benchmark first: plasticity run NAME"),
        (
            "run permuted-digit",
            "Unknown benchmark 'permuted-digit'. Did you mean 'permuted-digits'",
        ),
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
        ("run permuted-digits --strength -1", "strength must be a finite number of at least 0: -1"),
        ("run permuted-digits --strength=-1e-3", "strength must be a finite number of at least 0"),
        ("run permuted-digits --strength nan", "strength must be a finite number"),
        ("run permuted-digits --sigma -0.1", "sigma must be a finite number of at least 0"),
        ("run permuted-digits --anisotropy 0.6", "anisotropy must be"),
        ("run permuted-digits --learning-rate 0", "learning_rate must be above 0"),
        ("run permuted-digits --learning-rate -1", "learning_rate must be a finite number"),
        ("run permuted-digits --learning-rate nan", "learning_rate must be a finite number"),
        ("run permuted-digits --momentum 1", "momentum must be"),
        ("run permuted-digits --batch-size 0", "batch_size must be at least 1: 0"),
        ("run permuted-digits --batch-size 5000", "--batch-size 5000 is larger than the 1442"),
        ("run permuted-digits --probe-size 5000", "--probe-size 5000 is larger than the 355"),
        ("run permuted-digits --kernel-size 2", "kernel_size must be odd"),
        ("run permuted-digits --jobs 0", "--jobs must be at least 1: 0"),
        ("run permuted-digits --together 0", "--together must be at least 1: 0"),
        ("run permuted-digits --together al", "--together"),
        (
            "run slippery-ant --together 4",
            "--together 4 means nothing to these runs of slippery-ant",
        ),
        ("run permuted-digits --device gpu", "Unknown --device 'gpu'"),
        ("run permuted-images", "pass the folder as --data-dir"),
        ("run permuted-images --data-dir /nowhere", "--data-dir (data_dir) must be an existing"),
        ("sweep permuted-digits --strength 0.1", "give --strengths 0.1"),
        ("sweep permuted-digits --sigma 0.1", "give --sigmas 0.1"),
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
    places = [tmp_path / "file", tmp_path / "file" / "below"]
    if sys.platform == "linux":
        places.append(Path("/proc/self/runs"))
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed")
    for place in places:
        code, _, said = tiny_run(call, place)
        assert code == 2
        assert f"Cannot write to {run_folder(place)} (" in said
        assert "give an --out that you may write to" in said


def test_the_life_of_a_run_folder(call, tmp_path, monkeypatch):
    """One process and few tasks, as each call starts a process."""
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
    assert "hidden (there [8], now [9]); learning_rate (there 0.01, now 0.5)" in said

    monkeypatch.setattr(durable, "LOCK_PATIENCE_SECONDS", 0.1)
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
    arguments = ["--methods", "none", "weight-decay", "--learning-rate", "1e20", "--strength", "1"]
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

    def clear_the_way(jobs, *rest):
        # Between the look at the folders and the run, somebody puts a file there.
        path = jobs[0].path
        shutil.rmtree(path)
        path.write_text("")
        return real(jobs, *rest)

    monkeypatch.setattr(run_module, "run_jobs", clear_the_way)
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
