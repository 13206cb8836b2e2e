"""Run folder as it is read: damaged files, another configuration, and how far a run is."""

import pickle
import re

import pytest
import torch
from curve_runs import DIVERGING_SEED, DrawsConfig, after, content, run

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.saved_run import (
    is_finished,
    progress_made,
    require_same_config,
    saved_config,
)

CONFIG = DrawsConfig()


def test_require_same_config_accepts_a_new_folder(tmp_path):
    require_same_config(tmp_path, None, CONFIG)
    assert saved_config(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
    ],
)
def test_corrupt_config_is_refused(tmp_path, text):
    run(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(RunError, match=r"config\.json.*remove the folder .* or give another --out"):
        saved_config(tmp_path)


def test_config_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        saved_config(tmp_path)


def test_rows_without_their_config_are_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunError, match=r"not its config\.json"):
        saved_config(tmp_path)


def corruptions():
    def truncated(file):
        file.write_bytes(file.read_bytes()[:-200])

    def pickled(file):
        file.write_bytes(pickle.dumps({"lengths": {}}, protocol=2))

    return {
        "empty": lambda file: file.write_bytes(b""),
        "text": lambda file: file.write_bytes(b"not a checkpoint"),
        "truncated": truncated,
        "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "a plain pickle": pickled,
        "a list": lambda file: torch.save([1, 2], file),
        "keys missing": lambda file: torch.save({"lengths": {"metrics": 3}}, file),
        "no numbers": lambda file: torch.save(
            {"lengths": {"metrics": "x"}, "experiment": {}, "random": {}}, file
        ),
        "a folder": lambda file: (file.unlink(), file.mkdir()),
    }


@pytest.mark.parametrize("kind", corruptions())
def test_corrupt_checkpoint_is_an_error_with_a_remedy(tmp_path, kind):
    run(tmp_path, after(6))
    before = content(tmp_path)
    corruptions()[kind](tmp_path / "checkpoint.pt")
    message = rf"{re.escape(str(tmp_path / 'checkpoint.pt'))} cannot be read .*remove the folder"
    with pytest.raises(RunError, match=message) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=message):
        is_finished(tmp_path, CONFIG)
    assert content(tmp_path) == before


def test_checkpoint_of_another_experiment_is_an_error(tmp_path):
    run(tmp_path, after(6))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del saved["experiment"]["step"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match=r"cannot be read \(it lacks 'step'; another version"):
        run(tmp_path)


@pytest.mark.parametrize("length", [0, 10, -1])
def test_metrics_shorter_than_the_checkpoint_recorded(tmp_path, length):
    run(tmp_path, after(6))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:length])
    with pytest.raises(RunError, match=r"its checkpoint recorded .*Restore the file"):
        run(tmp_path)
    with pytest.raises(RunError, match="its checkpoint recorded"):
        is_finished(tmp_path, CONFIG)


def test_rows_are_not_truncated_when_the_checkpoint_is_missing(tmp_path):
    run(tmp_path)
    before = content(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    for attempt in (lambda: run(tmp_path), lambda: is_finished(tmp_path, CONFIG)):
        with pytest.raises(RunError, match=r"no checkpoint\.pt beside it"):
            attempt()
    assert content(tmp_path) == before


def of_points(count):
    return with_values(CONFIG, {"stream.num_points": count})


def test_is_finished(tmp_path):
    assert not is_finished(tmp_path / "new", CONFIG)
    assert progress_made(tmp_path / "new", CONFIG) == 0
    run(tmp_path, after(6))  # a point and a half
    assert not is_finished(tmp_path, CONFIG)
    assert progress_made(tmp_path, CONFIG) == 1.5
    assert is_finished(tmp_path, of_points(1))
    run(tmp_path)
    assert is_finished(tmp_path, CONFIG)
    assert progress_made(tmp_path, CONFIG) == 4
    assert not is_finished(tmp_path, of_points(5))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"point": 4}\n')  # a row that the checkpoint does not cover
    assert not is_finished(tmp_path, CONFIG)


def test_a_diverged_run_is_finished(tmp_path):
    run(tmp_path, changes={"seed": DIVERGING_SEED})
    assert progress_made(tmp_path, CONFIG) == 2
    assert is_finished(tmp_path, CONFIG)
