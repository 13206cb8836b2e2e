"""Weights & Biases, offline: its records are read back from its own file."""

import time

import pytest

wandb = pytest.importorskip("wandb")

from plasticity.scripts.trackers.wandb import WandbTracker  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # wandb's own


def records_of(content):
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB, a header of 7 bytes for each part."""
    place, whole = 7, b""  # the file's own header
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def test_rows_are_in_wandbs_file(tracked, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers = [WandbTracker(tracked, identifier) for identifier in (None, "second")]  # both open
    for tracker in trackers:
        tracker.log(0, {"accuracy": 0.5})
        tracker.log(4, {"accuracy": 0.75, "rank/fc1": 3.0})
        tracker.close(finished=True)
    assert trackers[1].identifier == "second" != trackers[0].identifier
    for tracker in trackers:
        (file,) = tracked.folder.glob(f"wandb/offline-run-*-{tracker.identifier}/*.wandb")
        deadline = time.monotonic() + 20  # wandb writes in a process of its own
        while not (found := content_of(file))[0] and time.monotonic() < deadline:
            time.sleep(0.1)
        rows, names = found
        assert rows == [("0", "0.5"), ("4", "0.75")]
        assert ("plasticity", "permuted-digits", "syre/seed_3") in names


def content_of(file):
    """Return step and accuracy of each row, and the names of the run."""
    from wandb.proto import wandb_internal_pb2

    rows, names = [], []
    for data in records_of(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            item = {"/".join(e.nested_key) or e.key: e.value_json for e in record.history.item}
            rows.append((item["_step"], item["accuracy"]))
        if record.WhichOneof("record_type") == "run":
            names.append((record.run.project, record.run.run_group, record.run.display_name))
    return rows, names
