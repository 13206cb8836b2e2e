"""Scores of settings, of runs that are made up here."""

import json

import pytest

from plasticity.scripts.report.run_folders import read_run
from plasticity.scripts.tune.scores import first_part, in_sentence, measure_of, score


def made_run(folder, seed, **values):
    folder = folder / f"seed_{seed}"
    folder.mkdir(parents=True)
    config = {
        "benchmark": "permuted-digits",
        "method": {},
        "seed": seed,
        "stream": {"num_tasks": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"task": task, **{name: each[task] for name, each in values.items()}, "diverged": False}
        for task in range(2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder)


def test_a_score_is_the_mean_over_tasks_and_seeds(tmp_path):
    runs = [
        made_run(tmp_path, 0, online_accuracy=[0.2, 0.4], test_accuracy=[0.9, 0.1]),
        made_run(tmp_path, 1, online_accuracy=[0.6, 0.8], test_accuracy=[0.9, 0.1]),
    ]
    assert measure_of(runs, None) == "online_accuracy"
    found = score(runs, "online_accuracy")
    assert found.mean == pytest.approx((0.3 + 0.7) / 2)
    assert found.count == 2
    assert score(runs, "test_accuracy").mean == pytest.approx(0.5)
    assert in_sentence("online_accuracy", found) == "online accuracy 0.5"


def test_a_setting_with_a_diverged_run_has_no_score(tmp_path):
    sound = made_run(tmp_path, 0, online_accuracy=[0.2, 0.4])
    made_run(tmp_path, 1, online_accuracy=[0.2, None])
    file = tmp_path / "seed_1" / "metrics.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second.replace('false', 'true')}\n")
    assert score([sound, read_run(tmp_path / "seed_1")], "online_accuracy") is None
    assert in_sentence("online_accuracy", None) == "diverged"


def test_a_measure_that_is_not_there_is_refused(tmp_path):
    runs = [made_run(tmp_path, 0, speed=[1.0, 2.0])]
    with pytest.raises(ValueError, match="--measure acuracy: the runs have speed"):
        measure_of(runs, "acuracy")
    with pytest.raises(
        ValueError, match="name what settings are compared by, --measure NAME, one of speed"
    ):
        measure_of(runs, None)
    assert measure_of(runs, "speed") == "speed"


def test_a_run_that_was_trained_longer_is_scored_by_its_first_part(tmp_path):
    run = made_run(tmp_path, 0, online_accuracy=[0.2, 0.4])
    assert score([first_part(run, 1)], "online_accuracy").mean == 0.2
    assert score([first_part(run, 2)], "online_accuracy").mean == pytest.approx(0.3)


def test_the_first_part_of_steps_ends_with_the_row_that_covers_them(tmp_path):
    config = {"benchmark": "continual-cartpole", "method": {}, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    steps = {512: False, 1000: True, 1010: True, 1024: False, 1536: False}
    rows = [
        {"task": 0, "step": step, "boundary": boundary, "episode_return": 1.0}
        for step, boundary in steps.items()
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    assert list(first_part(run, 1000).by_position) == [512, 1000, 1010, 1024]
    assert first_part(run, 5000) is run
