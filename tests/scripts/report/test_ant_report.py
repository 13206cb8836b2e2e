"""Reports on synthetic Slippery-Ant runs, with known results."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from plasticity.scripts.report.arms import shared_positions, summary
from plasticity.scripts.report.charts import page_data
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import Criterion, compare
from plasticity.scripts.report.contents import (
    MAX_MARKS,
    change_marks,
    draw_figures,
    task_panels,
)
from plasticity.scripts.report.headline import headline
from plasticity.scripts.report.metric_names import headlines, in_words, short_count
from plasticity.scripts.report.run_folders import Run, find_runs
from plasticity.scripts.report.settings_map import settings_map
from plasticity.scripts.report.tables import (
    Cell,
    best_table,
    description_table,
    metric_table,
    task_table,
)

CHANGE = 300
CADENCE = 100
LAYERS = ("actor.fc1", "actor.fc2", "critic.fc1", "critic.fc2")


def write_run(
    root,
    method,
    seed,
    rows,
    *,
    episodes=None,
    planned=None,
    strength=0.001,
    sigma=0.3,
    critic=None,
    change_every=CHANGE,
):
    """Write a run folder.

    Args:
        rows: By step: a mean return, None for no episode, "diverged", or a complete row.
        episodes: Pairs of task and return.
    """
    path = root / "slippery-ant" / method / f"seed_{seed}"
    path.mkdir(parents=True)
    content = {
        "benchmark": "slippery-ant",
        "method": {} if method == "none" else {method: {"strength": strength, "sigma": sigma}},
        "critic_method": critic,
        "seed": seed,
        "stream": {
            "num_steps": max(rows, default=0) if planned is None else planned,
            "change_every": change_every,
            "num_envs": 4,
            "cores": 1 + seed,
        },
        "tracking": {"measure_every": CADENCE},
    }
    (path / "config.json").write_text(json.dumps(content))
    lines = []
    for step, given in rows.items():
        row = {
            "step": step,
            "task": (step - 1) // CHANGE,
            "friction": 0.5 + seed,
            "boundary": False,
            "episodes": 0 if given is None else 1,
            "episode_return": None if given == "diverged" else given,
            "diverged": given == "diverged",
        }
        lines.append(json.dumps({**row, **given} if isinstance(given, dict) else row) + "\n")
    (path / "metrics.jsonl").write_text("".join(lines))
    if episodes is not None:
        played = [{"step": 1, "task": task, "episode_return": value} for task, value in episodes]
        (path / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in played))
    return path


def boundary(task, value):
    return {"task": task, "boundary": True, "episode_return": value}


def compared(root, baseline=None):
    return compare(find_runs(root), baseline, 0.95)


def averages(root, **config):
    (arm,) = compared(root, **config).arms
    return summary(arm, "episode_return", 0.95)["average"]


# ---- comparison of settings -------------------------------------------------


def test_an_average_skips_rows_without_an_episode(tmp_path):
    write_run(tmp_path, "none", 0, {100: 10.0, 200: None, 300: 40.0})
    assert averages(tmp_path).mean == 25.0  # (10 + 40) / 2


def test_an_average_weights_rows_by_the_steps_that_they_represent(tmp_path):
    write_run(tmp_path, "none", 0, {100: 10.0, 120: boundary(0, 90.0), 200: 20.0})
    assert averages(tmp_path).mean == 44 / 2  # (100 * 10 + 20 * 90 + 80 * 20) / 200


def test_an_average_leaves_out_the_steps_that_an_arm_skips(tmp_path):
    write_run(tmp_path, "none", 0, {100: 10.0, 120: boundary(0, 90.0), 200: 20.0})
    (arm,) = compared(tmp_path).arms
    found = summary(replace(arm, skip=50), "episode_return", 0.95)["average"]
    assert found.mean == (50 * 10 + 20 * 90 + 80 * 20) / 150
    found = summary(replace(arm, skip=110), "episode_return", 0.95)["average"]
    assert found.mean == (10 * 90 + 80 * 20) / 90


def test_tasks_that_are_left_out_of_averages_are_counted_in_steps(tmp_path):
    write_run(tmp_path, "none", 0, {100: 10.0, 400: 20.0, 600: 40.0})
    found = compare(find_runs(tmp_path), None, 0.95, Criterion(skip=1))
    (arm,) = found.arms
    # from step 300 on: (100 * 20 + 200 * 40) / 300
    assert summary(arm, "episode_return", 0.95)["average"].mean == pytest.approx(100 / 3)
    assert "Averages leave out the first 300 steps." in found.notes
    with pytest.raises(
        ValueError, match=r"the first 600 steps: the longest run of slippery-ant has 600"
    ):
        compare(find_runs(tmp_path), None, 0.95, Criterion(skip=2))


def test_an_average_ends_at_the_last_step_that_all_seeds_share(tmp_path):
    write_run(tmp_path, "none", 0, {100: 10.0, 200: 20.0, 300: 1000.0})
    write_run(tmp_path, "none", 1, {100: 30.0, 200: 40.0}, planned=300)
    assert averages(tmp_path).mean == 25.0  # (15 + 35) / 2


def test_a_run_without_any_episode_has_no_average(tmp_path):
    write_run(tmp_path, "none", 0, {100: None, 200: None})
    assert averages(tmp_path) is None


def test_a_diverged_run_has_no_average(tmp_path):
    write_run(tmp_path, "none", 0, {100: 10.0, 200: 20.0})
    write_run(tmp_path, "none", 1, {100: 90.0, 150: "diverged"}, planned=200)
    found = averages(tmp_path)
    assert (found.mean, found.count) == (15.0, 1)


def write_sweep(root):
    """Write runs in which strength 0.1 is best at the last row, and 0.2 on average; seeds differ by 2."""
    for seed in (0, 1):
        for strength, values in {0.1: (10.0, 30.0), 0.2: (60.0, 20.0)}.items():
            rows = {100: values[0] + 2 * seed, 200: values[1] + 2 * seed}
            folder = root / f"strength_{strength}"
            write_run(folder, "syre", seed, rows, strength=strength)
            write_run(folder, "none", seed, {100: 10.0 + 2 * seed, 200: 10.0}, strength=strength)


def test_settings_are_compared_by_the_average_return(tmp_path):
    write_sweep(tmp_path)
    comparison = compared(tmp_path)
    assert (comparison.headline, comparison.moment) == ("episode_return", "average")
    assert [arm.label for arm in comparison.chosen] == ["none", "syre (strength 0.2)"]
    table = best_table(comparison)
    assert table.columns[-1] == "average minus\nnone"
    # Seeds: (60 + 20)/2 = 40 and (62 + 22)/2 = 42, less (10 + 10)/2 = 10 and (12 + 10)/2 = 11.
    assert table.rows[1][-2:] == (
        # two seeds a - d, a + d: the t interval is a +- 12.706 d
        Cell("41.0", ("[28.3, 53.7]", "(40.0, 42.0)")),
        Cell("+30.5", ("[+24.1, +36.9]", "(+30.0, +31.0)")),
    )
    (note,) = [note for note in comparison.notes if "represents it" in note]
    assert "by episode return averaged over all steps" in note


def test_the_map_shows_the_average_return(tmp_path):
    for strength in (0.1, 0.2):
        for sigma in (1.0, 2.0):
            rows = {100: 10 * strength, 200: 10 * sigma}
            folder = tmp_path / f"{strength}_{sigma}"
            settings = {"strength": strength, "sigma": sigma, "change_every": 100}
            write_run(folder, "syre", 0, rows, **settings)
    settings = settings_map(compared(tmp_path))
    assert settings.title == "syre, average over 200 steps"
    skipping = compare(find_runs(tmp_path), None, 0.95, Criterion(skip=1))
    assert settings_map(skipping).title == "syre, average over 100 steps after the first 100 steps"
    at_end = compare(find_runs(tmp_path), None, 0.95, Criterion(moment="last"))
    assert settings_map(at_end).title == "syre, step 200"
    # (1 + 10)/2, (1 + 20)/2; (2 + 10)/2, (2 + 20)/2.
    np.testing.assert_allclose(settings.panels[0].values, [[5.5, 10.5], [6.0, 11.0]])


def test_the_critics_settings_distinguish_only_arms_whose_method_uses_them(tmp_path):
    for index, strength in enumerate((0.1, 0.2)):
        critics = {
            "none": None,
            "weight-decay": {"weight-decay": {"strength": strength}},
            "syre": {"syre": {"strength": strength, "sigma": strength}},
        }
        for method, critic in critics.items():
            write_run(tmp_path / str(index), method, 0, {100: 1.0}, critic=critic)
    assert [arm.label for arm in compared(tmp_path).arms] == [
        "none",
        "weight-decay (critic_strength 0.1)",
        "weight-decay (critic_strength 0.2)",
        "syre (critic_strength 0.1, critic_sigma 0.1)",
        "syre (critic_strength 0.2, critic_sigma 0.2)",
    ]


# ---- rows at changes of friction --------------------------------------------


def test_curves_are_drawn_at_the_steps_that_seeds_share(tmp_path):
    write_run(tmp_path, "none", 0, {100: 1.0, 130: boundary(0, 9.0), 200: 2.0, 300: 3.0})
    write_run(tmp_path, "none", 1, {100: 1.0, 170: boundary(0, 9.0), 200: 2.0, 300: 3.0})
    (arm,) = compared(tmp_path).arms
    assert arm.positions == (100, 200, 300)


def test_rows_at_friction_changes_are_left_out_for_a_single_seed_too(tmp_path):
    write_run(tmp_path, "none", 0, {100: 1.0, 130: boundary(0, 9.0), 200: boundary(0, 2.0)})
    write_run(tmp_path, "syre", 0, {100: 1.0, 160: boundary(0, 9.0), 200: 2.0})
    comparison = compared(tmp_path)
    # The change at step 200 coincides with a regular row.
    assert [arm.positions for arm in comparison.arms] == [(100, 200), (100, 200)]
    assert not [note for note in comparison.notes if "where both have" in note]


def test_a_curve_goes_on_over_rows_without_an_episode(tmp_path):
    write_run(tmp_path, "none", 0, {100: 1.0, 200: None, 300: 3.0})
    write_run(tmp_path, "none", 1, {100: 3.0, 200: None, 300: None})
    axes = draw_figures(compared(tmp_path))["return"].axes[0]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert drawn == [([100, 300], [1, 3]), ([100], [3]), ([100, 300], [2, 3])]


def test_changes_are_marked(tmp_path):
    write_run(tmp_path, "none", 0, dict.fromkeys(range(100, 1000, 100), 1.0))
    comparison = compared(tmp_path)
    assert change_marks(comparison) == (300.0, 600.0)  # 900 is the end
    axes = draw_figures(comparison)["return"].axes[0]
    vertical = [list(line.get_xdata()) for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert vertical == [[300, 300], [600, 600]]


@pytest.mark.parametrize(("changes", "marked"), [(MAX_MARKS, True), (MAX_MARKS + 1, False)])
def test_changes_too_close_to_tell_apart_are_not_marked(tmp_path, changes, marked):
    write_run(tmp_path, "none", 0, {100: 1.0, 10 * (changes + 1): 1.0}, change_every=10)
    assert bool(change_marks(compared(tmp_path))) == marked


def test_different_schedules_are_not_marked(tmp_path):
    write_run(tmp_path / "a", "none", 0, {400: 1.0}, change_every=100)
    write_run(tmp_path / "b", "none", 0, {400: 1.0}, change_every=200)
    assert change_marks(compared(tmp_path)) == ()


@pytest.mark.parametrize(
    ("keys", "note"),
    [(["friction"], "the friction changes"), (["gravity", "half_length"], "the task changes")],
)
def test_what_changes_is_named_in_words(tmp_path, monkeypatch, keys, note):
    monkeypatch.setattr(Run, "descriptions", tuple(keys))
    row = {**dict.fromkeys(keys, 1.0), "episode_return": 1.0}
    write_run(tmp_path, "none", 0, {200: row, 400: {**row, "task": 1}})
    figure = draw_figures(compared(tmp_path))["return"]
    assert any(text.get_text().endswith(f"dashed: {note}") for text in figure.texts)
    report(ReportConfig((tmp_path,)))
    page = (tmp_path / "report.html").read_text()
    assert "half_length" not in page
    assert ("half length of each task" in page) == (len(keys) > 1)


# ---- tasks -------------------------------------------------------------------


def write_tasks(root):
    """Write runs of two methods and two seeds; 600 of 700 steps are complete tasks."""
    rows = dict.fromkeys((100, 200, 300, 400, 500, 600, 700), 1.0)
    returns = {
        ("none", 0): ([10.0, 20.0], [30.0]),
        ("none", 1): ([20.0], [50.0, 70.0]),
        ("syre", 0): ([25.0], [40.0]),
        ("syre", 1): ([20.0], [80.0]),
    }
    for (method, seed), tasks in returns.items():
        episodes = [(task, value) for task, values in enumerate(tasks) for value in values]
        write_run(root, method, seed, rows, episodes=[*episodes, (2, 999.0)])


def task_rows(root):
    table = task_table(compared(root))
    return table.columns, {row[0].text: row[1:] for row in table.rows}


def test_the_return_of_each_task_computed_by_hand(tmp_path):
    write_tasks(tmp_path)
    columns, rows = task_rows(tmp_path)
    assert columns == ("task", "none", "syre", "syre\nminus none")
    assert rows == {
        "0": (
            # seeds: (10 + 20)/2 = 15, 20; t: 12.706 * 2.5 = 31.8 to either side
            Cell("17.5", ("[-14.3, 49.3]", "(15.0, 20.0)")),
            Cell("22.5", ("[-9.3, 54.3]", "(20.0, 25.0)")),
            Cell("+5.0", ("[-58.5, +68.5]", "(+0.0, +10.0)")),  # 25 - 15, 20 - 20
        ),
        "1": (
            Cell("45.0", ("[-145.6, 235.6]", "(30.0, 60.0)")),  # 30, (50 + 70)/2 = 60
            Cell("60.0", ("[-194.1, 314.1]", "(40.0, 80.0)")),
            Cell("+15.0", ("[-48.5, +78.5]", "(+10.0, +20.0)")),  # 40 - 30, 80 - 60
        ),
    }  # task 2 was cut short


def test_tasks_are_drawn_with_their_differences(tmp_path):
    write_tasks(tmp_path)
    ((returns, differences),) = task_panels(compared(tmp_path))
    none, syre = returns.lines
    np.testing.assert_allclose(none.positions, [0, 1])
    np.testing.assert_allclose(none.mean, [17.5, 45])
    np.testing.assert_allclose(syre.mean, [22.5, 60])
    none, syre = differences.lines
    np.testing.assert_allclose(none.mean, [0, 0])
    np.testing.assert_allclose(syre.mean, [5, 15])
    np.testing.assert_allclose([values for _, values in syre.seeds], [[10, 10], [0, 20]])


def test_tasks_are_charts_of_the_page_with_the_runs_of_the_figures(tmp_path):
    write_tasks(tmp_path)
    (benchmark,) = page_data([compared(tmp_path)], None)["benchmarks"]
    charts = {c["metric"]: c["lines"] for c in benchmark["charts"] if c["group"] == "tasks"}
    assert list(charts) == ["episode return per task", "episode return per task minus none"]
    none, syre = charts["episode return per task"]
    assert none["runs"] == [[15, 30], [20, 60]]
    assert benchmark["positions"][none["positions"]] == [0, 1]
    assert charts["episode return per task minus none"][1]["runs"] == [[10, 10], [0, 20]]
    assert syre["label"] == "syre"


def test_without_episodes_task_returns_come_from_the_rows(tmp_path):
    rows = {
        100: {"episode_return": 10.0, "episodes": 3},
        200: None,
        300: {"episode_return": 50.0, "episodes": 1},
        400: 7.0,
    }
    write_run(tmp_path, "none", 0, rows, planned=600)
    (run,) = find_runs(tmp_path)
    assert dict(run.task_returns) == {0: 20.0}  # (3 * 10 + 50) / 4


def test_without_episodes_rows_after_the_end_of_their_task_do_not_count(tmp_path):
    def row(task, value, episodes, boundary):
        return {
            "task": task,
            "boundary": boundary,
            "episode_return": value,
            "episodes": episodes,
        }

    rows = {
        150: row(0, 10.0, 3, False),
        200: row(0, 50.0, 1, False),
        220: row(0, 9.0, 80, True),  # task 1's, most of them: the change was at 200
        350: row(1, 8.0, 2, False),
        420: row(1, 20.0, 1, True),  # from 350 to 420, the change at 400: some are task 1's own
        600: row(2, 5.0, 1, False),
    }
    write_run(tmp_path, "none", 0, rows, planned=600, change_every=200)
    (run,) = find_runs(tmp_path)
    # (3 * 10 + 50) / 4 and (2 * 8 + 20) / 3
    assert dict(run.task_returns) == {0: 20.0, 1: 12.0, 2: 5.0}


def test_a_diverged_run_keeps_the_tasks_before(tmp_path):
    episodes = [(0, 1.0), (1, 2.0)]
    rows = {300: 1.0, 600: "diverged"}
    write_run(tmp_path, "none", 0, rows, episodes=episodes, planned=900)
    (run,) = find_runs(tmp_path)
    assert dict(run.task_returns) == {0: 1.0}


def test_tasks_that_one_seed_lacks_are_left_out(tmp_path):
    write_run(tmp_path, "none", 0, {300: 1.0, 600: 1.0}, episodes=[(0, 1.0), (1, 2.0)])
    write_run(tmp_path, "none", 1, {300: 1.0}, episodes=[(0, 3.0)], planned=600)
    _, rows = task_rows(tmp_path)
    assert rows == {"0": (Cell("2.0", ("[-10.7, 14.7]", "(1.0, 3.0)")),)}


def test_image_runs_have_no_task_panels(tmp_path):
    path = tmp_path / "seed_0"
    path.mkdir()
    config = {"benchmark": "permuted-digits", "method": {}, "seed": 0, "stream": {"num_tasks": 2}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text('{"task": 0, "test_accuracy": 0.5}\n')
    comparison = compared(tmp_path)
    assert (task_panels(comparison), change_marks(comparison)) == ([], ())
    assert comparison.moment == "last"


# ---- names -------------------------------------------------------------------


def test_a_family_selects_the_last_hidden_layer_of_each_network():
    known = ["episode_return", *(f"effective_rank/{layer}" for layer in LAYERS)]
    expected = ["episode_return", "effective_rank/actor.fc2", "effective_rank/critic.fc2"]
    assert headlines(known) == expected
    assert headlines(["effective_rank/conv1", "effective_rank/fc1"]) == ["effective_rank/fc1"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (20_480, "20.48 k"),
        (2_000_000, "2 M"),
        (2_007_040, "2.007 M"),
        (12_345_678, "12.346 M"),
    ],
)
def test_format_of_step_counts(count, text):
    assert short_count(count) == text


def test_kl_is_written_in_capitals():
    assert in_words("approximate_kl") == "approximate KL"


# ---- the command --------------------------------------------------------------


def write_synthetic(root, method, seed, *, steps=1200, until=None, diverges_at=None):
    random = np.random.default_rng([seed, len(method)])
    rows, episodes = {}, []
    for step in range(CADENCE, (steps if until is None else until) + 1, CADENCE):
        value = float(random.normal(step / 10, 5))
        row = {
            "episode_return": value,
            "episode_length": 500.0,
            "policy_entropy": 10.0 - step / 1000,
            "approximate_kl": 0.01,
            "clip_fraction": 0.125,
            "explained_variance": 1 - 500 / step,
            "policy_loss": -0.01,
            "value_loss": 30.0,
            "weight_norm/total": 20.0,
        }
        for layer in LAYERS:
            row[f"effective_rank/{layer}"] = 200 - step / (4 * len(method))
            row[f"dead_fraction/{layer}"] = step / 5000
        rows[step] = row
        episodes += [((step - 1) // CHANGE, value)] * 2
        if step == diverges_at:
            rows[step] = "diverged"
            break
    return write_run(root, method, seed, rows, episodes=episodes, planned=steps)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Return a folder of three methods, two seeds and four frictions; one run diverged, one is unfinished."""
    root = tmp_path_factory.mktemp("runs")
    for method in ("none", "weight-decay", "syre"):
        for seed in range(2):
            diverges_at = 800 if (method, seed) == ("none", 1) else None
            until = 700 if (method, seed) == ("syre", 1) else None
            write_synthetic(root, method, seed, until=until, diverges_at=diverges_at)
    return root


def test_the_report_of_many_runs(synthetic, tmp_path, capsys):
    written = report(ReportConfig((synthetic,), out=tmp_path))
    assert [path.name for path in written] == [
        "report.html",
        *(
            f"slippery-ant_{name}.{ending}"
            for name in ("return", "tasks", "ranks", "units", "norms", "updates")
            for ending in ("png", "pdf")
        ),
    ]
    page = html.unescape(written[0].read_text(encoding="utf-8"))
    for expected in (
        "syre, seed 1, is unfinished: its last step is 700, of 1.2 k planned",
        "none, seed 1, diverged at step 800",
        "on the latest steps",
        "episode return per task",
        "friction of each task",
        "approximate KL",
        "1.2 k of 1.2 k, 700 of 1.2 k",
    ):
        assert expected in page
    printed = capsys.readouterr().out
    titles = re.findall(r"^(?:episode|effective|dead).*$", printed, flags=re.MULTILINE)
    assert [title.strip() for title in titles] == [
        "episode return",
        "effective rank, actor.fc2",
        "effective rank, critic.fc2",
        "dead fraction, actor.fc2 (%)",
        "dead fraction, critic.fc2 (%)",
        "episode return, average: evidence",
        "episode return per task",
    ]
    assert "average minus" in printed
    assert max(len(line) for line in printed.splitlines() if "/" not in line) <= 100
    # No interval is broken over two lines.
    assert all(line.count("[") == line.count("]") for line in printed.splitlines())


def test_positions_and_flags_are_not_metrics(synthetic):
    metrics = compared(synthetic).metrics
    assert metrics[:2] == ("episode_return", "episode_length")
    assert not {"boundary", "friction", "episodes", "step", "task", "diverged"} & set(metrics)


def test_the_friction_table_has_a_column_per_seed(synthetic):
    table = description_table(compared(synthetic), "friction")
    assert table.columns == ("task", "seed 0", "seed 1")
    assert table.rows[3] == (Cell("3"), Cell("0.5"), Cell("1.5"))


def test_many_tasks_are_shown_on_the_page_only(tmp_path, capsys):
    rows = {300: 1.0, 6000: 1.0}
    write_run(tmp_path, "none", 0, rows, episodes=[(task, 1.0) for task in range(20)])
    report(ReportConfig((tmp_path,)))
    assert "The returns of all 20 tasks are in report.html." in capsys.readouterr().out


def test_explained_variance_is_not_drawn_below_minus_one(synthetic):
    figure = draw_figures(compared(synthetic))["updates"]
    axes = {each.get_title(loc="left"): each for each in figure.axes}
    assert list(axes) == [
        "policy entropy",
        "approximate KL",
        "clip fraction",
        "explained variance",
        "policy loss",
        "value loss",
    ]
    assert axes["explained variance"].get_ylim()[0] == -1.0  # the first row is 1 - 500/100 = -4
    assert axes["clip fraction"].lines[-1].get_ydata()[0] == 12.5  # per cent


def test_names_give_the_last_step_where_arms_disagree(synthetic):
    comparison = compared(synthetic)
    table = metric_table(comparison, "effective_rank/actor.fc2", comparison.arms, full=False)
    assert table.columns[-1] == "last minus\nweight-decay"
    names = {row[0].text: row[0].details for row in table.rows}
    assert names["none"] == ("2 seeds", "to 1.2 k", "1 of 2 diverged")
    assert names["syre"] == ("2 seeds", "to 700", "1 of 2 unfinished")


def test_a_method_that_diverged_early_does_not_shorten_the_others(tmp_path):
    write_run(tmp_path, "none", 0, {100: 1.0, 200: 3.0, 300: 5.0, 400: 7.0})
    write_run(tmp_path, "syre", 0, {100: 2.0, 200: "diverged"}, planned=400)
    comparison = compare(find_runs(tmp_path), None, 0.95)
    assert shared_positions(comparison.chosen) == (100, 200, 300, 400)
    # (1 + 3 + 5 + 7) / 4
    assert headline(comparison).startswith(
        "none has an episode return of 4.00 averaged over the steps."
    )
    assert not any("where both have rows" in note for note in comparison.notes)
