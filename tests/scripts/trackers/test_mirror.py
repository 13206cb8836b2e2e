"""Each row is sent once, in order, whatever happens between."""

import json

import pytest

from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.trackers.mirror import FILE_NAME, Mirror


def steps(memory, identifier="run-0"):
    return [each if isinstance(each, str) else each[0] for each in memory.log_of[identifier]]


def test_rows_are_sent_with_their_numbers(memory, tracked, append):
    mirror = Mirror("memory", tracked, "task")
    append(0, accuracy=0.5, name="digits", nothing=None)
    mirror.update()
    append(1, accuracy=0.75)
    mirror.update()
    mirror.close(finished=True)
    assert memory.log_of["run-0"] == [
        (0, {"task": 0.0, "accuracy": 0.5}),
        (1, {"task": 1.0, "accuracy": 0.75}),
        "finished",
    ]


def test_rows_that_are_computed_again_are_not_sent_again(memory, tracked, append):
    first = Mirror("memory", tracked, "task")
    append(0)
    append(1)
    first.update()  # killed here, and row 1 was not in the checkpoint
    file = tracked.folder / "metrics.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    second = Mirror("memory", tracked, "task")
    second.update()
    append(1)
    second.update()
    append(2)
    second.close(finished=False)
    assert steps(memory) == [0, 1, 2, "stopped"]
    assert list(memory.log_of) == ["run-0"]


def test_half_a_row_is_not_sent(memory, tracked, append):
    append(0)
    with (tracked.folder / "metrics.jsonl").open("a") as file:
        file.write('{"task": 1, "accu')
    Mirror("memory", tracked, "task").close(finished=False)
    assert steps(memory) == [0, "stopped"]


def test_rows_of_before_are_sent_first(memory, tracked, append):
    for task in range(3):
        append(task)
    Mirror("memory", tracked, "task").update()
    assert steps(memory) == [0, 1, 2]


def test_what_a_service_does_not_take_is_sent_later(memory, tracked, append):
    mirror = Mirror("memory", tracked, "task")
    memory.down = True
    append(0)
    with pytest.warns(UserWarning, match=r"memory did not take row 0 .*no route.*the run goes on"):
        mirror.update()
    memory.down = False
    append(1)
    mirror.update()
    memory.down = True
    append(2)
    with pytest.warns(UserWarning, match="did not take row 2"):
        mirror.close(finished=True)
    memory.down = False
    Mirror("memory", tracked, "task").close(finished=True)
    assert steps(memory) == [0, 1, "finished", 2, "finished"]


def test_a_run_without_rows_is_not_sent(memory, tracked):
    Mirror("memory", tracked, "task").close(finished=False)
    assert memory.log_of == {}
    assert not (tracked.folder / FILE_NAME).exists()


def test_trackers_share_the_file(memory, tracked, append):
    (tracked.folder / FILE_NAME).write_text(json.dumps({"other": {"identifier": "x", "rows": 7}}))
    append(0)
    Mirror("memory", tracked, "task").update()
    assert json.loads((tracked.folder / FILE_NAME).read_text()) == {
        "other": {"identifier": "x", "rows": 7},
        "memory": {"identifier": "run-0", "rows": 1},
    }


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_file_is_named_with_the_remedy(memory, tracked, content):
    (tracked.folder / FILE_NAME).write_text(content)
    with pytest.raises(RunError, match=f"{FILE_NAME}.*delete it"):
        Mirror("memory", tracked, "task")
