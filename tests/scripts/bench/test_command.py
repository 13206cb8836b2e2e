import io
import json
from functools import partial

import pytest
import torch
import tyro
from rich.console import Console

from plasticity.scripts.bench import command as bench_module
from plasticity.scripts.bench import memory as bench_memory
from plasticity.scripts.bench import parallel as bench_parallel
from plasticity.scripts.bench.command import MEASUREMENTS, BenchOptions, bench
from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.hardware import cpu_model, describe_hardware
from plasticity.scripts.bench.learners import SYRE, synthetic_task
from plasticity.scripts.bench.memory import memory, memory_use, saved_bytes
from plasticity.scripts.bench.parallel import parallel, run_side_by_side
from plasticity.scripts.bench.rows import Row, ratio_row, table_of
from plasticity.scripts.bench.steps import optimizer_pair, ten_million
from plasticity.scripts.bench.trainer import best_loop, loader_loop
from plasticity.scripts.main import main
from plasticity.scripts.run.pool import Outcome
from plasticity.tasks.vector.environments import available_cores

QUICK = Effort(quick=True)


@pytest.fixture
def fake_measurements(monkeypatch):
    """Two measurements that return immediately: one meets its goal, one misses it."""
    calls = []

    def measured(name, value, effort):
        calls.append((name, effort, torch.get_num_threads()))
        return [
            Row(
                "ours vs theirs",
                value,
                "time",
                1.5,
                lower=0.9,
                upper=2.5,
                ours=1.0,
                theirs=2.0,
            )
        ]

    fakes = {"alpha": partial(measured, "alpha", 1.0), "beta": partial(measured, "beta", 2.0)}
    monkeypatch.setattr(bench_module, "MEASUREMENTS", fakes)
    return calls


def printed(options):
    output = io.StringIO()
    code = bench(options, Console(file=output, width=80))
    return code, output.getvalue()


# ---- the command ------------------------------------------------------------------------------------


def test_the_file_holds_rows_machine_versions_and_settings(fake_measurements, tmp_path):
    out = tmp_path / "new" / "bench.json"
    code, text = printed(BenchOptions(out=out, rounds=7))
    assert code == 0
    report = json.loads(out.read_text())
    assert report["threads"] == 1
    assert report["rounds"] == 7
    assert report["quick"] is False
    assert report["seconds"] >= 0
    assert report["date"].endswith("+00:00")
    assert report["hardware"]["cores"] == available_cores()
    assert report["versions"]["torch"] == torch.__version__
    assert [(row["measurement"], row["value"], row["met"]) for row in report["rows"]] == [
        ("alpha", 1.0, True),
        ("beta", 2.0, False),
    ]
    assert report["rows"][0] == {
        "measurement": "alpha",
        "case": "ours vs theirs",
        "value": 1.0,
        "unit": "time",
        "goal": 1.5,
        "bound": "at most",
        "lower": 0.9,
        "upper": 2.5,
        "ours": 1.0,
        "theirs": 2.0,
        "note": "",
        "met": True,
    }
    assert "1 of 2 goals met" in text
    assert "missed" in text


def test_only_named_measurements_run_in_the_default_order(fake_measurements, tmp_path):
    printed(BenchOptions(out=tmp_path / "b.json", quick=True))
    assert [name for name, _, _ in fake_measurements] == ["alpha", "beta"]
    fake_measurements.clear()
    printed(BenchOptions(only=("beta",), out=tmp_path / "b.json", quick=True, rounds=3))
    assert fake_measurements == [("beta", Effort("cpu", quick=True, rounds=3), 1)]


def test_threads_are_set_for_the_measurements_and_restored(fake_measurements, tmp_path):
    before = torch.get_num_threads()
    printed(BenchOptions(out=tmp_path / "b.json", threads=before + 1))
    assert [threads for _, _, threads in fake_measurements] == [before + 1] * 2
    assert torch.get_num_threads() == before


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    fake_measurements, tmp_path
):
    with pytest.raises(ValueError, match=r"--out .* cannot be written: .*directory"):
        printed(BenchOptions(out=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        printed(BenchOptions(out=tmp_path / "file" / "bench.json"))
    assert fake_measurements == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"only": ("step_cn",)}, "'step_cn'.*Did you mean 'step_cnn'"),
        ({"only": ("memory", "memroy")}, "Did you mean 'memory'"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"device": "cdua"}, "'cpu' or 'cuda': 'cdua'"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BenchOptions(**wrong)


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cpu"):
        BenchOptions(device="cuda")


def test_the_help_names_every_measurement(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(BenchOptions, args=["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in MEASUREMENTS)


def test_bench_runs_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "--only", "memory", "tracking", "--quick", "--out", str(out)])
    assert exit_info.value.code == 0
    rows = json.loads(out.read_text())["rows"]
    assert {row["measurement"] for row in rows} == {"memory", "tracking"}
    assert "--quick measures nothing" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_info:
        main(["bench", "--only", "memroy"])
    assert exit_info.value.code == 2
    assert "Did you mean 'memory'?" in " ".join(capsys.readouterr().err.split())


# ---- rows -------------------------------------------------------------------------------------------


def test_a_goal_is_met_on_its_own_side():
    assert Row("c", 1.0, "time", 1.0).met is True
    assert Row("c", 1.1, "time", 1.0).met is False
    assert Row("c", 1.1, "speed", 1.0).met is True
    assert Row("c", 0.9, "speed", 1.0).met is False
    assert Row("c", 0.9, "speed").met is None


def test_rows_of_ratios():
    ours, theirs = (2.0, 3.0, 8.0), (1.0, 2.0, 2.0)
    row = ratio_row("c", "time", ours, theirs, 2.5)
    # The pairs' ratios are 2, 1.5 and 4; the sides' own medians 3 and 2 have another ratio.
    assert (row.value, row.lower, row.upper, row.ours, row.theirs) == (2.0, 1.75, 3.0, 3.0, 2.0)
    assert (row.unit, row.bound, row.met) == ("time", "at most", True)
    row = ratio_row("c", "speed", ours, theirs, 0.6)
    # 1/2, 2/3, 1/4; sorted 1/4, 1/2, 2/3: (1/4 + 1/2) / 2 = 3/8 and (1/2 + 2/3) / 2 = 7/12.
    assert (row.lower, row.value, row.upper) == pytest.approx((3 / 8, 1 / 2, 7 / 12))
    assert (row.unit, row.bound, row.met) == ("speed", "at least", False)


def test_a_row_of_steps_tells_both_rates():
    steps = (100, 100)
    row = ratio_row("c", "speed", (2.0, 4.0, 3.0), (4.0, 4.0, 9.0), 1.5, steps=steps)
    # Pair by pair, ours is 2, 1 and 3 times as fast; a median turn has 100 / 3 and 100 / 4 steps a second.
    assert (row.value, row.lower, row.upper) == pytest.approx((2.0, 1.5, 2.5))
    assert (row.ours, row.theirs) == pytest.approx((0.03, 0.04))
    assert (row.bound, row.met, row.note) == ("at least", True, "33 / 25 steps/s")
    # 35 steps in 1 s against 7 in 1 s
    row = ratio_row("c", "speed", (1.0,), (1.0,), steps=(35, 7), note="the best")
    assert (row.value, row.goal, row.note) == (pytest.approx(5.0), None, "the best; 35 / 7 steps/s")


def test_unpaired_times_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratio_row("c", "time", (1.0, 2.0), (1.0,))
    with pytest.raises(ValueError, match="no median"):
        ratio_row("c", "time", (), ())


def test_a_note_about_both_sides():
    row = Row("c", 0.5, "time", ours=1.0, theirs=2.0)
    assert row.noted(lambda ours, theirs: f"{ours} / {theirs}").note == "1.0 / 2.0"
    unmeasured = Row("c", None, "time", note="not measured")
    assert unmeasured.noted(lambda ours, theirs: "").note == "not measured"


def test_the_table_fits_a_terminal_and_shows_goals_and_verdicts():
    rows = [
        Row("SGD: syre vs weight_decay", 1.01234, "time", 1.02, 0.99, 1.03, measurement="step"),
        Row("peak", 0.9, "copies", 1.0, note="[first] step", measurement="memory"),
        Row("checkpoint", 2000.0, "bytes", 1024.0, measurement="memory"),
        Row("loop", 1.2, "speed", 1.1, measurement="trainer"),
        Row("no goal", 1.2, "speed", measurement="trainer"),
    ]
    output = io.StringIO()
    Console(file=output, width=80).print(table_of(rows))
    lines = output.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(output.getvalue().split())
    assert "step: our time / theirs" in text
    assert "1.012 0.990 … 1.030 ≤ 1.02 met" in text
    assert "peak ([first] step) 0.900 ≤ 1 met" in text
    assert "checkpoint 2000 ≤ 1024 missed" in text
    assert "loop 1.200 ≥ 1.1 met" in text
    assert text.endswith("no goal 1.200")


def test_a_goal_without_a_measurement_is_neither_met_nor_missed():
    rows = [
        Row("ours", None, "speed", 2.0, note="needs a package", measurement="ant"),
        Row("physics", 0.25, "share", lower=0.2, upper=0.3, measurement="parts"),
    ]
    assert [row.met for row in rows] == [None, None]
    output = io.StringIO()
    Console(file=output, width=80).print(table_of(rows))
    text = " ".join(output.getvalue().split())
    assert "ours (needs a package) ≥ 2 parts:" in text
    assert "parts: share of the time" in text
    assert text.endswith("physics 0.250 0.200 … 0.300")


# ---- the measurements, quickly ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "goals"),
    [
        ("step_cnn", [1.02, 1.02]),
        ("step_mlp", [1.05, 1.05, 1.05]),
        ("optimizer_step", [1.5, None, None, 2.5, None, None]),
        ("trainer", [0.95, 1.1, 0.95, 1.3]),
        ("tracking", [0.02]),
    ],
)
def test_a_measurement_returns_its_rows(name, goals):
    rows = MEASUREMENTS[name](QUICK)
    assert [row.goal for row in rows] == goals
    assert len({row.case for row in rows}) == len(rows)
    for row in rows:
        assert 0 < row.lower <= row.value <= row.upper
        assert row.ours > 0
        assert row.theirs > 0
        assert row.bound == ("at least" if name == "trainer" else "at most")


def test_compiled_measures_the_modes_that_the_device_supports():
    rows = MEASUREMENTS["compiled"](QUICK)
    assert len({row.case for row in rows}) == len(rows) == 7
    for row in rows:
        if "CUDA graph" in row.case:
            assert (row.value, row.note) == (None, "not measured: needs --device cuda")
        else:
            assert 0 < row.lower <= row.value <= row.upper


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_compiled_measures_every_mode_on_a_gpu():
    rows = MEASUREMENTS["compiled"](Effort(device="cuda", quick=True))
    assert all(row.value > 0 for row in rows)


def momentum_pair():
    extra = {"momentum": 0.9, "foreach": True}
    shapes = ten_million(QUICK)
    return optimizer_pair(torch.optim.SGD, shapes, "cpu", ours=extra, theirs=extra)


def test_both_optimizers_have_equal_parameters_and_settings():
    ours, theirs = momentum_pair()
    our_group, their_group = ours.param_groups[0], theirs.param_groups[0]
    assert (our_group["regularizer"], our_group["strength"]) == ("syre", SYRE.regularizer.strength)
    assert their_group["weight_decay"] == SYRE.regularizer.strength
    for key in ("lr", "momentum", "foreach", "fused"):
        assert our_group[key] == their_group[key]
    assert len(our_group["params"]) == 10
    for mine, other in zip(our_group["params"], their_group["params"], strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(mine.grad, other.grad)
        assert ours.anchor(mine).abs().sum() > 0


def test_the_default_size_is_ten_million_parameters():
    assert sum(a * b for a, b in ten_million(Effort())) == 10_000_000


# ---- memory -----------------------------------------------------------------------------------------


def test_memory_use_tracks_every_tensor():
    kept = []

    def call():
        first = torch.empty(1000)  # 4000 bytes
        kept.append(torch.empty(500))  # 2000 more: 6000 at once
        del first
        kept.append(torch.empty(250))  # 2000 + 1000 stay

    used = memory_use(call, "cpu")
    assert (used.peak, used.held) == (6000, 3000)
    assert memory_use(kept.clear, "cpu") == bench_memory.MemoryUse(peak=0, held=-3000)
    assert memory_use(lambda: None, "cpu") == bench_memory.MemoryUse(peak=0, held=0)


def test_the_memory_of_torchs_own_step_is_as_computed_by_hand():
    _, theirs = momentum_pair()
    used = memory_use(theirs.step, "cpu")
    # Ten tensors of 20 x 20 float32 are 16 000 bytes; the momentum stays, and the decayed gradients
    # exist beside it during the step.
    assert used.held == 16_000
    assert used.peak == 32_000


def test_rows_of_memory():
    rows = memory(QUICK)
    assert [row.unit for row in rows] == ["copies"] * 6 + ["bytes"] * 3
    assert len({row.case for row in rows}) == 9
    # Syre holds at least its anchors, one copy, beside torch's one tensor at a time (a tenth).
    assert all(row.value >= 0.9 for row in rows[:6])
    for row in rows[6:]:
        # The settings and their names; an anchor would be 16 000 bytes.
        assert 0 < row.value < 1024
        assert row.value == row.ours - row.theirs
        assert row.goal == 1024


def test_saved_bytes_are_the_size_of_the_file(tmp_path):
    state = {"weights": torch.zeros(1000)}
    torch.save(state, tmp_path / "state.pt")
    # The names inside the archive contain the file's name: a difference of a few bytes.
    assert abs(saved_bytes(state) - (tmp_path / "state.pt").stat().st_size) < 200
    grown = saved_bytes({"weights": torch.zeros(2000)}) - saved_bytes(state)
    assert abs(grown - 4000) < 100


# ---- the trainer and its alternatives ---------------------------------------------------------------


@pytest.mark.parametrize("loop", [best_loop, loader_loop])
def test_the_alternatives_train_on_every_example_once(loop):
    task = synthetic_task(QUICK)
    batches = []
    loop(task, lambda *batch: batches.append(batch), 100)()
    assert [len(labels) for _, labels in batches] == [100, 100, 56]
    images, labels = task.train_batch(torch.arange(256))
    seen = torch.cat([each for each, _ in batches]).flatten(1)
    index_of = {tuple(row): index for index, row in enumerate(images.flatten(1).tolist())}
    data_order = torch.tensor([index_of[tuple(row)] for row in seen.tolist()])
    assert torch.equal(data_order.sort().values, torch.arange(256))
    assert not torch.equal(data_order, torch.arange(256))
    assert torch.equal(torch.cat([each for _, each in batches]), labels[data_order])


# ---- runs side by side ------------------------------------------------------------------------------


def test_runs_side_by_side_take_turns_and_leave_no_files(monkeypatch):
    calls = []

    def fake(out, runs, processes, tasks):
        calls.append((out, runs, processes, tasks))

    monkeypatch.setattr(bench_parallel, "run_side_by_side", fake)
    monkeypatch.setattr(bench_parallel, "available_cores", lambda: 2)
    (row,) = parallel(Effort(rounds=2))
    assert [call[1:3] for call in calls] == [(1, 1), (4, 2), (4, 1), (4, 2), (4, 1)]
    assert len({call[0] for call in calls}) == 5
    assert not calls[0][0].parent.exists()
    assert (row.goal, row.bound, row.note) == (1.7, "at least", "")
    monkeypatch.setattr(bench_parallel, "available_cores", lambda: 1)
    (row,) = parallel(Effort(rounds=1))
    assert (row.goal, row.note) == (None, "no goal: this process can use only 1 core")


def test_real_runs_are_finished(tmp_path):
    run_side_by_side(tmp_path, runs=2, processes=2, tasks=1)
    for seed in (0, 1):
        row = json.loads((tmp_path / f"seed_{seed}" / "metrics.jsonl").read_text())
        assert row["task"] == 0
        config = json.loads((tmp_path / f"seed_{seed}" / "config.json").read_text())
        assert (config["benchmark"], config["device"], config["seed"]) == (
            "permuted-digits",
            "cpu",
            seed,
        )


def test_a_run_that_fails_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(
        bench_parallel, "run_jobs", lambda *_: Outcome(failed={tmp_path: "no disk"})
    )
    with pytest.raises(RuntimeError, match="no disk"):
        run_side_by_side(tmp_path, runs=1, processes=1, tasks=1)


def test_an_interruption_ends_the_benchmark(monkeypatch, tmp_path):
    import signal

    monkeypatch.setattr(
        bench_parallel, "run_jobs", lambda *_: Outcome(interrupted_by=signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(tmp_path, runs=1, processes=1, tasks=1)


# ---- the machine ------------------------------------------------------------------------------------


def test_the_cpu_model_is_read_from_the_system(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nmodel name\t: Other\n")
    assert cpu_model(cpuinfo) == "Some CPU: 3 GHz"
    cpuinfo.write_text("processor\t: 0\n")
    assert cpu_model(cpuinfo)  # the platform's answer, or "unknown"


def test_the_hardware_is_described_in_general_terms():
    found = describe_hardware("cpu")
    assert set(found) == {"cpu", "architecture", "cores", "system", "device"}
    assert found["cores"] >= 1
