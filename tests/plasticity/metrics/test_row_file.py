"""Tests of RowFile: rows are appended and removed as a whole."""

import json
import math
import stat

import pytest

from plasticity.metrics.row_file import RowFile


def lines_of(path):
    return path.read_text().splitlines()


def written(path, tasks):
    file = RowFile(path, "task")
    for task in tasks:
        file.append({"task": task, "value": 0.5})
    return file


def test_rows_are_lines_and_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    file = RowFile(path, "task")
    file.append({"task": 0, "value": math.nan, "low": -math.inf, "diverged": True})
    assert lines_of(path) == ['{"task": 0, "value": null, "low": null, "diverged": true}']
    assert file.counts == (0,)


def test_rows_of_an_earlier_process_are_removed(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    written(path, range(4))
    path.chmod(0o640)
    file = RowFile(path, "task")
    assert file.counts == (0, 1, 2, 3)
    file.remove([2, 3])
    assert [json.loads(line)["task"] for line in lines_of(path)] == [0, 1]
    assert file.counts == (0, 1)
    assert "rows.jsonl: removed 2 rows, of task 2 to 3" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


@pytest.mark.parametrize("torn", ['{"task": 2, "val', "{", "\0\0\0\0", '{"task": 2, "a": "\udce9"'])
def test_an_unfinished_last_line_is_removed_and_the_rest_is_kept(torn, tmp_path):
    path = tmp_path / "rows.jsonl"
    written(path, range(2))
    with path.open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    file = RowFile(path, "task")
    assert file.counts == (0, 1)
    file.append({"task": 2})
    assert [json.loads(line)["task"] for line in lines_of(path)] == [0, 1, 2]


def test_a_last_line_that_lacks_only_its_end_is_a_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"task": 0}\n{"task": 1}')
    file = RowFile(path, "task")
    assert file.counts == (0, 1)
    file.append({"task": 2})
    assert lines_of(path) == ['{"task": 0}', '{"task": 1}', '{"task": 2}']


def test_nothing_is_written_before_the_first_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"task": 0}\n{"ta')
    RowFile(path, "task").remove([])
    assert path.read_text() == '{"task": 0}\n{"ta'


def test_lines_of_other_writers_are_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"note": "mine"}\n{"task": 0}\n{"task": 0.5}\n')
    first = RowFile(path, "task")
    second = RowFile(path, "task")
    second.append({"task": 7})
    first.append({"task": 7, "of": "first"})
    first.remove([0, 1])  # positions among its own rows, not the second's
    assert lines_of(path) == ['{"note": "mine"}', '{"task": 0.5}', '{"task": 7}']


@pytest.mark.parametrize("text", ["a diary\n", '{"task": 0}\nnot a row\n{"task": 1}\n', "a diary"])
def test_a_file_of_another_kind_is_rejected_and_left_alone(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rows\.jsonl"):
        RowFile(path, "task")
    assert path.read_text() == text


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    written(target, range(2))
    link.symlink_to(target)
    RowFile(link, "task").remove([1])
    assert link.is_symlink()
    assert len(lines_of(target)) == 1


def test_a_failed_removal_leaves_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    file = written(path, range(3))
    before = path.read_text()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.remove([1, 2])
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    assert file.counts == (0, 1, 2)
