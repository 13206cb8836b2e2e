"""Reports on synthetic run folders, with known results."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from plasticity.scripts.report.arms import gather
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.contents import draw_figures, panel_of
from plasticity.scripts.report.run_folders import find_runs
from plasticity.scripts.report.settings_map import settings_map
from plasticity.scripts.report.tables import Cell, best_table, metric_table

MADE_BY = {"versions": {"python": "3.11.4", "torch": "2.13.0"}, "git_commit": "0123abcd"}


def method_of(name, *, strength=0.001, sigma=0.3):
    """Return a method as a run saves it: what it does not use is not there."""
    used = {"strength": strength} | ({"sigma": sigma} if name == "syre" else {})
    return {} if name == "none" else {name: used}


def write_run(
    root,
    method,
    seed,
    accuracies,
    *,
    tasks=None,
    metrics=None,
    learning_rate=0.01,
    benchmark="permuted-digits",
    **settings,
):
    """Write a run folder with a row per accuracy; None is a task in which the run diverged."""
    path = root / "permuted-digits" / method / f"seed_{seed}"
    path.mkdir(parents=True)
    content = {
        "benchmark": benchmark,
        "method": method_of(method, **settings),
        "seed": seed,
        "stream": {"num_tasks": len(accuracies) if tasks is None else tasks},
        "agent": {"learning_rate": learning_rate},
    }
    (path / "config.json").write_text(json.dumps({**content, **MADE_BY}))
    lines = []
    for task, accuracy in enumerate(accuracies):
        row = {"task": task, "test_accuracy": accuracy, "diverged": accuracy is None}
        row.update({name: values[task] for name, values in (metrics or {}).items()})
        lines.append(json.dumps(row) + "\n")
    (path / "metrics.jsonl").write_text("".join(lines))
    return path


def write_synthetic(root, method, seed, *, tasks, decay, diverges_at=None, rows=None, **config):
    """Write a run that loses `decay` of its accuracy and rank, as real ones do, with noise."""
    random = np.random.default_rng([seed, tasks])
    lost = decay * (1 - np.exp(-np.arange(tasks if rows is None else rows) / 12))
    accuracies = (0.9 - lost + random.normal(0, 0.005, lost.shape)).tolist()
    if diverges_at is not None:
        accuracies = [*accuracies[:diverges_at], None]
    metrics = {"online_accuracy": (0.8 - 1.2 * lost).tolist()}
    for layer, width in {"conv1": 16, "fc1": 128}.items():
        metrics[f"effective_rank/{layer}"] = (width * (0.8 - 2 * lost)).tolist()
        metrics[f"approximate_rank/{layer}"] = (width * (0.5 - lost)).tolist()
        metrics[f"dead_fraction/{layer}"] = lost.tolist()
        metrics[f"feature_norm/{layer}"] = (3 + lost).tolist()
    metrics["weight_norm/conv1.weight"] = (1 + lost).tolist()
    metrics["weight_norm/total"] = (10 + 30 * lost).tolist()
    return write_run(root, method, seed, accuracies, tasks=tasks, metrics=metrics, **config)


def compared(root, baseline=None, confidence=0.95):
    return compare(find_runs(root), baseline, confidence)


def rows_of(comparison, metric="test_accuracy", *, full=False):
    table = metric_table(comparison, metric, comparison.arms, full=full)
    return {row[0].text: row[1:] for row in table.rows}


# ---- known values ---------------------------------------------------------


def write_three_seeds(root):
    write_run(root, "weight-decay", 0, [0.80, 0.70, 0.60])
    write_run(root, "weight-decay", 1, [0.82, 0.72, 0.50])
    write_run(root, "weight-decay", 2, [0.84, 0.74, 0.40])
    write_run(root, "syre", 0, [0.80, 0.80, 0.70])
    write_run(root, "syre", 1, [0.81, 0.80, 0.65])
    write_run(root, "syre", 2, [0.82, 0.80, 0.60])


# The half-width of a t interval over seeds a - d, a, a + d is 4.3027 * d / sqrt(3) = 2.484 d; over two
# seeds a - d, a + d it is 12.706 d. In parentheses: the bootstrap, with up to three seeds their range.


def test_a_table_computed_by_hand(tmp_path):
    write_three_seeds(tmp_path)
    rows = rows_of(compared(tmp_path))
    assert rows["syre"] == (
        Cell("81.0", ("[78.5, 83.5]", "(80.0, 82.0)")),  # 80, 81, 82
        Cell("80.0", ("[80.0, 80.0]", "(80.0, 80.0)")),  # no spread
        Cell("65.0", ("[52.6, 77.4]", "(60.0, 70.0)")),
        # seeds: 230/3 = 76.67, 226/3 = 75.33, 222/3 = 74
        Cell("75.3", ("[72.0, 78.6]", "(74.0, 76.7)")),
        # 70 - 60, 65 - 50, 60 - 40
        Cell("+15.0", ("[+2.6, +27.4]", "(+10.0, +20.0)")),
    )
    assert rows["weight-decay"][-1] == Cell("baseline")


def test_all_differences_computed_by_hand(tmp_path):
    write_three_seeds(tmp_path)
    first, middle, last, average = rows_of(compared(tmp_path), full=True)["syre"][-4:]
    # 80 - 80, 81 - 82, 82 - 84
    assert first == Cell("-1.0", ("[-3.5, +1.5]", "(-2.0, +0.0)"))
    assert middle == Cell("+8.0", ("[+3.0, +13.0]", "(+6.0, +10.0)"))  # 10, 8, 6
    assert last.text == "+15.0"
    # (0 + 10 + 10)/3 = 6.67, (-1 + 8 + 15)/3 = 7.33, (-2 + 6 + 20)/3 = 8
    assert average == Cell("+7.3", ("[+5.7, +9.0]", "(+6.7, +8.0)"))


def test_swapping_the_baseline_negates_the_difference(tmp_path):
    write_three_seeds(tmp_path)
    rows = rows_of(compared(tmp_path, "syre"))
    assert rows["weight-decay"][-1] == Cell("-15.0", ("[-27.4, -2.6]", "(-20.0, -10.0)"))
    assert rows["syre"][-1] == Cell("baseline")


def test_headings_name_the_tasks(tmp_path):
    write_three_seeds(tmp_path)
    comparison = compared(tmp_path)
    table = metric_table(comparison, "test_accuracy", comparison.arms, full=False)
    assert table.columns == (
        "method",
        "first\n(task 0)",
        "middle\n(task 1)",
        "last\n(task 2)",
        "average",
        "last minus\nweight-decay",
    )
    assert table.title == "test accuracy (%)"


def test_one_seed_has_no_interval(tmp_path):
    write_run(tmp_path, "none", 4, [0.5])
    comparison = compared(tmp_path)
    assert rows_of(comparison)["none"][0] == Cell("50.0", ("one seed",))
    assert any("A single seed has none" in note for note in comparison.notes)


def test_the_band_of_a_share_is_clipped_to_0_and_100_per_cent(tmp_path):
    write_run(tmp_path, "none", 0, [0.5, 0.99])
    write_run(tmp_path, "none", 1, [0.1, 0.80])
    (line,) = panel_of(compared(tmp_path), "test_accuracy").lines
    assert line.low.min() == 0.0
    assert line.high.max() == 100.0


def test_the_default_baseline_is_weight_decay_then_none_then_nothing(tmp_path):
    write_run(tmp_path, "syre", 0, [0.5])
    alone = compared(tmp_path)
    assert alone.baseline is None
    assert len(rows_of(alone)["syre"]) == 4
    write_run(tmp_path, "none", 0, [0.5])
    assert compared(tmp_path).baseline.label == "none"
    write_run(tmp_path, "weight-decay", 0, [0.5])
    assert compared(tmp_path).baseline.label == "weight-decay"


# ---- diverged and unfinished runs ----------------------------------------------


def test_a_diverged_run_is_counted_and_left_out_from_its_divergence_on(tmp_path):
    write_run(tmp_path, "none", 0, [0.8, 0.6, 0.4])
    write_run(tmp_path, "none", 1, [0.6, 0.4, 0.2])
    write_run(tmp_path, "none", 2, [0.1, None], tasks=3)
    comparison = compared(tmp_path)
    ((name, first, middle, last, average, _),) = metric_table(
        comparison, "test_accuracy", comparison.arms, full=False
    ).rows
    assert name == Cell("none", ("3 seeds", "1 of 3 diverged"))
    # (80 + 60 + 10)/3; their deviation is sqrt(1300), the half-width 4.3027 * 36.06 / sqrt(3) = 89.6,
    # and no share lies outside 0 to 100 %
    assert first == Cell("50.0", ("[0.0, 100.0]", "(10.0, 80.0)"))
    assert middle == Cell("50.0", ("[0.0, 100.0]", "(40.0, 60.0)", "2 of 3 seeds"))
    assert last == Cell("30.0", ("[0.0, 100.0]", "(20.0, 40.0)", "2 of 3 seeds"))
    assert average == Cell("50.0", ("[0.0, 100.0]", "(40.0, 60.0)", "2 of 3 seeds"))
    assert any("none, seed 2, diverged at task 1: it is left out" in n for n in comparison.notes)


def test_an_arm_whose_runs_all_diverged_has_no_later_values(tmp_path):
    write_run(tmp_path, "none", 0, [0.8, None], tasks=5)
    write_run(tmp_path, "weight-decay", 0, [0.8] * 5)
    first, middle, last, average, _ = rows_of(compared(tmp_path))["none"]
    assert first == Cell("80.0", ("one seed",))
    assert (middle, last, average) == (Cell("—"), Cell("—"), Cell("—"))


def test_an_unfinished_run_shortens_its_arm(tmp_path):
    write_run(tmp_path, "weight-decay", 0, [0.9, 0.8, 0.7, 0.6, 0.5])
    write_run(tmp_path, "syre", 0, [0.9, 0.9, 0.9, 0.8, 0.8])
    write_run(tmp_path, "syre", 1, [0.7, 0.7, 0.7], tasks=5)
    comparison = compared(tmp_path)
    table = metric_table(comparison, "test_accuracy", comparison.arms, full=False)
    assert table.columns[1:4] == ("first\n(task 0)", "middle", "last")
    names = {row[0].text: row[0].details for row in table.rows}
    assert names["weight-decay"] == ("1 seed", "tasks 0, 2, 4")
    assert names["syre"] == ("2 seeds", "tasks 0, 1, 2", "1 of 2 unfinished")
    # Task 2: 0.9 and 0.7; the difference there, of seed 0 alone: 0.9 - 0.7.
    assert rows_of(comparison)["syre"][2] == Cell("80.0", ("[0.0, 100.0]", "(70.0, 90.0)"))
    assert rows_of(comparison)["syre"][-1] == Cell("+20.0", ("one seed", "1 of 2 seeds"))
    assert any("its last task is 2, of 5 planned" in note for note in comparison.notes)
    assert any("where both have rows: 2 is the last" in note for note in comparison.notes)


def test_a_run_without_a_row_is_left_out_and_noted(tmp_path):
    write_run(tmp_path, "none", 0, [0.5, 0.5])
    write_run(tmp_path, "none", 1, [], tasks=2)
    write_run(tmp_path, "syre", 0, [], tasks=2)
    comparison = compared(tmp_path)
    assert [arm.label for arm in comparison.arms] == ["none"]
    assert rows_of(comparison)["none"][2] == Cell("50.0", ("one seed", "1 of 2 seeds"))
    assert any("syre, seed 0, has no row yet" in note for note in comparison.notes)


# ---- arms and sweeps ---------------------------------------------


def write_sweep(root):
    """Write runs of syre, of accuracy 0.5 + strength * 10 + sigma * 0.1, and of other methods."""
    for strength in (0.01, 0.02):
        for sigma in (0.1, 1.0):
            setting = root / f"strength_{strength}_sigma_{sigma}"
            last = 0.5 + 10 * strength + 0.1 * sigma
            values = {"strength": strength, "sigma": sigma}
            for seed in (0, 1):
                write_run(setting, "syre", seed, [0.9, last], **values)
                write_run(setting, "none", seed, [0.9, 0.4], **values)
        for seed in (0, 1):
            write_run(
                root / f"plain_{strength}", "weight-decay", seed, [0.9, 0.6], strength=strength
            )


def test_settings_that_a_method_does_not_use_do_not_distinguish_arms(tmp_path):
    write_sweep(tmp_path)
    arms, notes = gather(find_runs(tmp_path))
    assert [arm.label for arm in arms] == [
        "none",
        "weight-decay (strength 0.01)",
        "weight-decay (strength 0.02)",
        "syre (strength 0.01, sigma 0.1)",
        "syre (strength 0.01, sigma 1)",
        "syre (strength 0.02, sigma 0.1)",
        "syre (strength 0.02, sigma 1)",
    ]
    assert notes == ["none: 6 folders repeat a run that is already counted."]
    assert [run.seed for run in arms[0].runs] == [0, 1]


def test_each_method_at_its_own_best(tmp_path):
    write_sweep(tmp_path)
    table = best_table(compared(tmp_path))
    none, decay, syre = table.rows
    assert (none[0].text, none[1].text, none[2].text) == ("none", "1", "40.0")
    assert decay[0].details == ("strength 0.01", "2 seeds")  # both are 60: the first
    assert syre[0].details == ("strength 0.02, sigma 1", "2 seeds")
    # 0.5 + 0.2 + 0.1 = 0.8; mean with 0.9: 0.85; against 0.6.
    assert [cell.text for cell in syre[1:]] == ["4", "80.0", "85.0", "+20.0"]


def test_the_map_holds_every_setting(tmp_path):
    write_sweep(tmp_path)
    settings = settings_map(compared(tmp_path))
    assert settings is not None
    (panel,) = settings.panels
    assert (panel.title, panel.rows, panel.columns) == ("", (0.01, 0.02), (0.1, 1.0))
    # Strength down, sigma across: 0.5 + 0.1 + 0.01, …
    np.testing.assert_allclose(panel.values, [[61, 70], [71, 80]])
    assert panel.best == (1, 1)
    assert [name for name, _ in settings.references] == ["none", "weight-decay\n(strength 0.01)"]
    np.testing.assert_allclose([value for _, value in settings.references], [40, 60])


def test_the_best_setting_is_a_finished_one_without_a_diverged_run(tmp_path):
    write_run(tmp_path / "a", "syre", 0, [0.9], tasks=2, sigma=0.1)  # ahead, but early
    write_run(tmp_path / "b", "syre", 0, [0.9, None], sigma=0.2)
    write_run(tmp_path / "b", "syre", 1, [0.9, 0.9], sigma=0.2)
    write_run(tmp_path / "c", "syre", 0, [0.6, 0.6], sigma=0.3)
    assert [arm.label for arm in compared(tmp_path).chosen] == ["syre (sigma 0.3)"]


def test_other_settings_distinguish_arms_too(tmp_path):
    write_run(tmp_path / "a", "none", 0, [0.5], learning_rate=0.1)
    write_run(tmp_path / "b", "none", 0, [0.6], learning_rate=0.2)
    labels = [arm.label for arm in compared(tmp_path).arms]
    assert labels == ["none (learning_rate 0.1)", "none (learning_rate 0.2)"]


def test_close_settings_look_different(tmp_path):
    write_run(tmp_path / "a", "none", 0, [0.5], learning_rate=0.1234567)
    write_run(tmp_path / "b", "none", 0, [0.6], learning_rate=0.1234568)
    labels = [arm.label for arm in compared(tmp_path).arms]
    assert labels == ["none (learning_rate 0.1234567)", "none (learning_rate 0.1234568)"]


def write_depths(root):
    """Write runs of one and of two hidden layers, of which the single layer is the best."""
    for name, hidden, accuracy in [("a", [128], 0.5), ("b", [64], 0.6), ("c", [64, 32], 0.4)]:
        metrics = {f"effective_rank/fc{k + 1}": [3.0, 4.0] for k in range(len(hidden))}
        path = write_run(root / name, "none", 0, [accuracy] * 2, metrics=metrics)
        config = json.loads((path / "config.json").read_text())
        config["network"] = {"hidden": hidden}
        (path / "config.json").write_text(json.dumps(config))


def test_settings_of_several_numbers_are_in_ascending_order(tmp_path):
    write_depths(tmp_path)
    labels = [arm.label for arm in compared(tmp_path).arms]
    assert labels == ["none (hidden 64)", "none (hidden 64 32)", "none (hidden 128)"]


def test_a_layer_that_no_best_arm_has_gets_neither_panel_nor_headline(tmp_path, capsys):
    write_depths(tmp_path)
    comparison = compared(tmp_path)
    assert [arm.label for arm in comparison.chosen] == ["none (hidden 64)"]
    assert "effective_rank/fc2" in comparison.metrics  # the page's table of every arm has it
    titles = [axes.get_title("left") for axes in draw_figures(comparison)["ranks"].axes]
    assert titles == ["fc1"]
    report(ReportConfig((tmp_path,)))
    printed = capsys.readouterr().out
    assert "effective rank, fc1" in printed
    assert "effective rank, fc2" not in printed


def test_the_degree_of_symmetry_is_drawn_beside_the_units(tmp_path):
    metrics = {"dead_fraction/fc1": [0.0, 0.1], "degree_of_symmetry/fc1": [0.0, 7.0]}
    write_run(tmp_path, "none", 0, [0.5, 0.6], metrics=metrics)
    axes = draw_figures(compared(tmp_path))["units"].axes
    assert [each.get_ylabel() for each in axes] == ["dead units (%)", "symmetric pairs (number)"]
    assert axes[1].get_lines()[-1].get_ydata().tolist() == [0.0, 7.0]


def test_folders_with_different_results_of_the_same_run_are_named(tmp_path):
    first = write_run(tmp_path / "a", "none", 0, [0.5])
    second = write_run(tmp_path / "b", "none", 0, [0.6])
    with pytest.raises(ValueError, match="hold the same method, settings and seed") as caught:
        compared(tmp_path)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


# ---- the command ---------------------------------------------


class Page(HTMLParser):
    """Parser that collects the resources and texts of a page, and checks that its tags are closed."""

    def __init__(self):
        super().__init__()
        self.sources, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Return a folder of four methods, three seeds and fifty tasks; one run diverged, one is unfinished."""
    root = tmp_path_factory.mktemp("runs")
    decays = {"none": 0.25, "weight-decay": 0.12, "syre": 0.02, "l2-init": 0.05}
    for method, decay in decays.items():
        for seed in range(3):
            diverges_at = 31 if (method, seed) == ("none", 2) else None
            rows = 38 if (method, seed) == ("l2-init", 1) else None
            write_synthetic(
                root, method, seed, tasks=50, decay=decay, diverges_at=diverges_at, rows=rows
            )
    going = root / "permuted-digits" / "l2-init" / "seed_1" / "metrics.jsonl"
    going.write_text(going.read_text() + '{"task": 38, "test_acc')
    return root


def test_the_report_of_many_runs(synthetic, tmp_path, capsys):
    written = report(ReportConfig((synthetic,), out=tmp_path / "new" / "folder"))
    assert [path.name for path in written] == [
        "report.html",
        *(
            f"permuted-digits_{name}.{ending}"
            for name in ("accuracy", "ranks", "units", "norms")
            for ending in ("png", "pdf")
        ),
    ]
    assert [path.read_bytes()[:4] for path in written[1:3]] == [b"\x89PNG", b"%PDF"]
    page = read_page(written[0])
    # Nothing is loaded from elsewhere: the links are to the figures beside the page.
    assert page.sources == [path.name for path in written[1:]]
    text = " ".join(page.text)
    for expected in (
        "1 of 3 diverged",
        "1 of 3 unfinished",
        "half-written",
        "0123abcd",
        "torch 2.13.0",
        "learning_rate",
        "weight norm, conv1.weight",
        "plasticity run --config",
    ):
        assert expected in text
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if "/" not in line) <= 100
    # The last hidden layer's, not the first's.
    assert "effective rank, fc1" in printed
    assert "effective rank, conv1" not in printed


def test_the_same_runs_give_the_same_files(tmp_path):
    for seed in range(8):  # enough that resamples are drawn
        write_run(tmp_path / "runs", "none", seed, [0.5 + 0.01 * seed**2, 0.4])
    once = report(ReportConfig((tmp_path / "runs",), out=tmp_path / "once"))
    again = report(ReportConfig((tmp_path / "runs",), out=tmp_path / "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_the_report_of_a_sweep(tmp_path, capsys):
    for strength in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        for sigma in (0.01, 0.1, 0.3, 0.5, 1.0):
            setting = tmp_path / f"strength_{strength:g}_sigma_{sigma:g}"
            decay = 0.12 - 0.05 * sigma
            for seed in range(2):
                write_synthetic(
                    setting, "syre", seed, tasks=4, decay=decay, strength=strength, sigma=sigma
                )
    for seed in range(2):
        write_synthetic(tmp_path / "plain", "weight-decay", seed, tasks=4, decay=0.2)
    names = [path.name for path in report(ReportConfig((tmp_path,)))]
    assert "permuted-digits_map.png" in names
    printed = capsys.readouterr().out
    assert "each method at its own best setting" in printed
    assert "All 26 arms are in report.html" in printed


def test_names_from_the_folders_are_escaped(tmp_path):
    write_run(tmp_path, "<script>alert(1)", 0, [0.5], strength="<b>&")
    content = report(ReportConfig((tmp_path,)))[0].read_text(encoding="utf-8")
    assert "<script>alert" not in content
    assert html.escape("<b>&") in content


def test_metrics_instead_of_the_headline_ones(tmp_path, capsys):
    write_synthetic(tmp_path, "none", 0, tasks=2, decay=0.1)
    report(ReportConfig((tmp_path,), metrics=("approximate_rank", "weight_norm/total")))
    printed = capsys.readouterr().out
    titles = re.findall(r"^(?:approximate|weight|test).*$", printed, flags=re.MULTILINE)
    assert [title.strip() for title in titles if "[" not in title and "-" not in title] == [
        "approximate rank, conv1",
        "approximate rank, fc1",
        "weight norm, total",
    ]


def test_runs_without_accuracies_are_reported_by_what_they_have(tmp_path, capsys):
    path = tmp_path / "slippery-ant" / "syre" / "seed_0"
    path.mkdir(parents=True)
    config = {
        "benchmark": "slippery-ant",
        "method": {"syre": {}},
        "seed": 0,
        "stream": {"num_steps": 200},
    }
    (path / "config.json").write_text(json.dumps(config))
    rows = [{"task": 0, "step": step, "episode_return": step / 8} for step in (100, 200)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [path.name for path in report(ReportConfig((tmp_path,)))]
    assert names == ["report.html", "slippery-ant_return.png", "slippery-ant_return.pdf"]
    printed = capsys.readouterr().out
    assert "episode return" in printed
    assert "(step 200)" in printed
    assert "25.0" in printed  # 200 / 8
    (path / "metrics.jsonl").write_text('{"task": 0, "step": 200, "wonder": 1}\n')
    names = [path.name for path in report(ReportConfig((tmp_path,)))]
    assert names == ["report.html", "slippery-ant_progress.png", "slippery-ant_progress.pdf"]


def test_several_benchmarks_get_a_section_each(tmp_path):
    write_run(tmp_path, "none", 0, [0.5])
    other = tmp_path / "other"
    write_run(other, "none", 0, [0.5], benchmark="permuted-mnist")
    page = read_page(report(ReportConfig((tmp_path,)))[0])
    assert [t for t in page.text if t in ("permuted-mnist", "permuted-digits")] == [
        "permuted-mnist",
        "permuted-digits",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"baseline": "weight-deca"},
            "Unknown baseline 'weight-deca'. Did you mean 'weight-decay'?",
        ),
        (
            {"metrics": ("effective_rnk",)},
            "Unknown metric 'effective_rnk'. Did you mean 'effective_rank'?",
        ),
        ({"metrics": ("effective_rank/fc2",)}, "Did you mean 'effective_rank/fc1'?"),
    ],
)
def test_unknown_names_suggest_the_nearest(synthetic, tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        report(ReportConfig((synthetic,), out=tmp_path, **options))
    assert "Known: " in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_runs_without_any_row_are_refused(tmp_path):
    write_run(tmp_path, "none", 0, [], tasks=3)
    with pytest.raises(ValueError, match="No run of permuted-digits has a row"):
        report(ReportConfig((tmp_path,)))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    write_run(tmp_path / "runs", "none", 0, [0.5])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="pass --out a folder that you can write to"):
        report(ReportConfig((tmp_path / "runs",), out=tmp_path / "file" / "below"))


def test_a_confidence_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match="confidence must be"):
        ReportConfig((tmp_path,), confidence=95)


# ---- fresh references -----------------------------------------------------


def write_references(root):
    """Write two methods, three seeds each, with references at tasks 0 and 2 of 4."""
    lost = {"none": [0.2, 0.3, 0.1], "syre": [0.0, 0.1, -0.1]}
    for method, gaps in lost.items():
        for seed, gap in enumerate(gaps):
            path = write_run(root, method, seed, [0.9, 0.8, 0.9 - gap, 0.7 - gap])
            lines = list(map(json.loads, (path / "metrics.jsonl").read_text().splitlines()))
            for task, own in ((0, 0.0), (2, gap)):
                lines[task] |= {"reference_test_accuracy": 0.9, "plasticity_gap": own}
            (path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def test_the_plasticity_gap_leads_the_report(tmp_path, capsys):
    write_references(tmp_path)
    comparison = compared(tmp_path, "none")
    table = metric_table(comparison, "plasticity_gap", comparison.arms, full=False)
    assert table.title == "plasticity gap (%)"
    # of the tasks with a reference, 0 and 2: the first, the middle one of two, the last, the average
    assert [each.replace("\n", " ") for each in table.columns] == [
        "method", "first (task 0)", "middle (task 0)", "last (task 2)", "average", "last minus none",
    ]  # fmt: skip
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows == {
        "none": ["0.0", "0.0", "20.0", "10.0", "baseline"],
        "syre": ["0.0", "0.0", "0.0", "0.0", "-20.0"],
    }
    # Means of 10, 20, 30 and of -10, 0, 10 points: 2.484 * 10 on either side; a gap may be below 0.
    cells = {row[0].text: row[3] for row in table.rows}
    assert cells["none"].details[0] == "[-4.8, 44.8]"
    assert cells["syre"].details == ("[-24.8, 24.8]", "(-10.0, 10.0)")
    report(ReportConfig((tmp_path,)))
    printed = capsys.readouterr().out
    assert printed.index("plasticity gap (%)") < printed.index("test accuracy (%)")
    assert "above 0: the past has cost plasticity" in " ".join(printed.split())
    page = (tmp_path / "report.html").read_text()
    assert "Plasticity gap: a fresh network" in page


def test_the_gap_is_a_panel_of_the_tasks_with_a_reference(tmp_path):
    write_references(tmp_path)
    axes = draw_figures(compared(tmp_path))["accuracy"].axes
    assert [each.get_title("left") for each in axes] == ["plasticity gap", "test accuracy"]
    assert axes[0].get_ylabel() == "fresh minus run (% points)"
    panel = panel_of(compared(tmp_path), "plasticity_gap")
    none, syre = panel.lines
    assert none.positions.tolist() == [0.0, 2.0]
    assert none.mean.tolist() == pytest.approx([0.0, 20.0])
    assert syre.low[1] == pytest.approx(-24.84, abs=0.01)
    assert [x.tolist() for x, _ in syre.seeds] == [[0.0, 2.0]] * 3
    assert axes[0].get_ylim()[0] < -24


def test_no_two_methods_of_a_figure_look_alike(tmp_path):
    methods = [
        *("none", "l2-init", "cbp", "plasticity-injection", "churn", "fire", "nap", "swr", "dash"),
        *("layer-norm+cbp", "hare-tortoise+churn", "layer-norm+redo"),
    ]
    for method in methods:
        write_run(tmp_path, method, 0, [0.9, 0.8])
    comparison = compared(tmp_path)
    styles = {line.label: line.style for line in panel_of(comparison, "test_accuracy").lines}
    assert set(styles) == set(methods)
    assert (styles["none"], styles["l2-init"]) == (0, 3)
    # As small as can be, for only the first ones differ in colour, too.
    assert sorted(styles.values()) == list(range(len(methods)))


def test_settings_are_compared_by_accuracy_and_references_do_not_split_an_arm(tmp_path):
    write_references(tmp_path)
    for seed in (3, 4):
        write_run(tmp_path, "none", seed, [0.9, 0.8, 0.7, 0.6])
    comparison = compared(tmp_path)
    assert comparison.headline == "test_accuracy"
    (none, _) = comparison.arms
    assert len(none.runs) == 5
    cell = rows_of(comparison, "plasticity_gap")["none"][2]
    assert cell.text == "20.0"
    assert "3 of 5 seeds" in cell.details


def test_metrics_of_weights_and_of_the_last_step_have_figures(tmp_path):
    metrics = {
        "active_fraction/fc1": [0.5, 0.4],
        "linearized_fraction/fc1": [0.0, 0.1],
        "deviation_from_isometry/fc1": [3.0, 64.0],
        "update_to_weight_ratio/fc1": [1.0, 0.2],
        "update_to_weight_ratio/total": [1.0, 0.2],
        "churn/value": [0.3, 0.1],
        "churn/argmax": [0.2, 0.1],
        "hessian_rank": [0.02, 0.01],
    }
    write_run(tmp_path, "none", 0, [0.5, 0.6], metrics=metrics)
    figures = draw_figures(compared(tmp_path))
    labels = {name: [axes.get_ylabel() for axes in each.axes] for name, each in figures.items()}
    assert labels["units"] == ["active outputs (%)", "linearised units (%)"]
    assert labels["weights"] == ["update / weight (L2)", "deviation from isometry"]
    assert labels["steps"] == [
        "change of outputs (squared)",
        "changed predictions (%)",
        "share of eigenvalues (%)",
    ]
    titles = [axes.get_title("left") for axes in figures["steps"].axes]
    assert titles == ["churn, value", "churn, argmax", "hessian rank"]
    lines = figures["steps"].axes[1].get_lines()
    assert lines[-1].get_ydata().tolist() == pytest.approx([20.0, 10.0])


def test_named_methods_alone_are_compared(tmp_path, capsys):
    for method, accuracy in {"none": 0.5, "syre": 0.6, "redo": 0.7}.items():
        for seed in range(2):
            write_run(tmp_path / "all", method, seed, [accuracy])
    write_run(tmp_path / "all" / "other", "redo", 0, [0.9], benchmark="permuted-mnist")
    options = {"methods": ("syre", "none"), "out": tmp_path / "page"}
    (page, *_) = report(ReportConfig((tmp_path / "all",), **options))
    assert "redo" not in page.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "redo" not in printed
    assert "permuted-mnist" not in printed  # which has neither
    with pytest.raises(ValueError, match=r"Unknown method 'syr'.* Did you mean 'syre'"):
        report(ReportConfig((tmp_path / "all",), methods=("syr",)))
    with pytest.raises(ValueError, match="Unknown baseline 'redo'"):
        report(ReportConfig((tmp_path / "all",), methods=("syre",), baseline="redo"))
