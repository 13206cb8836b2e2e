"""Compressed files of runs: packed, unpacked, and refused where they are not what they should be."""

import io
import tarfile
from collections import Counter

import pytest

from plasticity.scripts.folders.archive import pack, unpack
from plasticity.scripts.folders.collect import CollectConfig, collect
from plasticity.scripts.report.run_folders import find_runs


def rows(folder):
    return [(run.method, run.seed, run.config, run.rows) for run in find_runs(folder)]


def test_the_same_runs_give_the_same_bytes_and_come_back_whole(tmp_path, make_run):
    for seed in (0, 1):
        for method in ("none", "syre"):
            path = make_run(tmp_path / "runs", method, seed=seed)
            (path / "checkpoint.pt").write_bytes(bytes(1000))
            (path / "episodes.jsonl").write_bytes(b'{"step": 1, "return": 2.0}\n')
    archives = [tmp_path / name for name in ("a.tar.xz", "deep/b.tar.xz")]
    for archive in archives:
        assert collect(CollectConfig((tmp_path / "runs",), archive)) == Counter(
            {"copied": 4, "kept": 0}
        )
    assert archives[0].read_bytes() == archives[1].read_bytes()
    collect(CollectConfig((archives[0],), tmp_path / "again"))
    assert rows(tmp_path / "again") == rows(tmp_path / "runs")
    names = {file.name for file in (tmp_path / "again").rglob("*") if file.is_file()}
    assert names == {"config.json", "metrics.jsonl", "episodes.jsonl"}


def test_runs_are_added_and_longer_ones_replace_shorter_ones(tmp_path, make_run):
    make_run(tmp_path / "first", seed=0, rows=1)
    make_run(tmp_path / "first", seed=1)
    make_run(tmp_path / "second", seed=0, rows=2)
    make_run(tmp_path / "third", "syre", seed=0)
    archive, third = tmp_path / "all.tar.xz", tmp_path / "third.tar.xz"
    pack(tmp_path / "third", third)
    collect(CollectConfig((tmp_path / "first",), archive))
    counts = collect(CollectConfig((tmp_path / "second", third), archive))
    assert counts == Counter({"copied": 1, "replaced": 1, "kept": 0})
    unpack(archive, tmp_path / "out")
    assert [(run.method, run.seed, len(run.rows)) for run in find_runs(tmp_path / "out")] == [
        ("none", 0, 2),
        ("none", 1, 3),
        ("syre", 0, 3),
    ]


def packed_by_hand(archive, name, **headers):
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:xz") as packed:
        member = tarfile.TarInfo(name)
        member.size, member.pax_headers = 2, headers
        packed.addfile(member, io.BytesIO(b"{}"))
    return archive


@pytest.mark.parametrize(
    "name", ["../config.json", "/config.json", "a/model.pt", "a\0/config.json"]
)
def test_an_archive_of_anything_else_is_refused(tmp_path, name):
    archive = packed_by_hand(tmp_path / "in" / "bad.tar.xz", "a/config.json", path=name)
    with pytest.raises(ValueError, match=r"which is no file of a run"):
        unpack(archive, tmp_path / "in" / "out")
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["bad.tar.xz"]


def test_links_are_refused(tmp_path):
    archive = tmp_path / "bad.tar.xz"
    with tarfile.open(archive, "w:xz") as packed:
        member = tarfile.TarInfo("config.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(member)
    with pytest.raises(ValueError, match=r"holds 'config.json', which is no file of a run"):
        unpack(archive, tmp_path / "out")


def test_a_broken_archive_is_named(tmp_path, make_run):
    make_run(tmp_path / "runs")
    archive = tmp_path / "all.tar.xz"
    pack(tmp_path / "runs", archive)
    whole = archive.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=r"Cannot read .*all\.tar\.xz"):
            collect(CollectConfig((archive,), tmp_path / "out"))
        with pytest.raises(ValueError, match=r"Cannot read .*all\.tar\.xz"):
            collect(CollectConfig((tmp_path / "runs",), archive))
        assert archive.read_bytes() == content  # what could not be read is not replaced
    with pytest.raises(ValueError, match=r"Cannot read .*missing\.tar\.xz"):
        collect(CollectConfig((tmp_path / "missing.tar.xz",), tmp_path / "out"))


def test_a_size_beyond_memory_is_that_of_a_broken_archive(tmp_path):
    archive = packed_by_hand(tmp_path / "bad.tar.xz", "a/config.json", size=str(10**15))
    with pytest.raises(ValueError, match=r"Cannot read .*bad\.tar\.xz \(unexpected end of data\)"):
        unpack(archive, tmp_path / "out")


def test_an_archive_without_a_run_is_named(tmp_path):
    archive = packed_by_hand(tmp_path / "rows.tar.xz", "a/metrics.jsonl")
    with pytest.raises(ValueError, match=r"/rows\.tar\.xz holds no run"):
        unpack(archive, tmp_path / "out")


def test_where_it_cannot_be_unpacked_the_archive_is_not_blamed(tmp_path, make_run):
    make_run(tmp_path / "runs")
    pack(tmp_path / "runs", tmp_path / "all.tar.xz")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Cannot unpack .*all\.tar\.xz to .*file.*free space"):
        unpack(tmp_path / "all.tar.xz", tmp_path / "file")


@pytest.mark.parametrize("name", ["all.tar.gz", "all.zip", "all.TAR.XZ"])
def test_a_compressed_file_of_another_kind_is_no_folder(tmp_path, make_run, name):
    make_run(tmp_path / "runs")
    with pytest.raises(ValueError, match=rf"{name} has the name of another kind"):
        collect(CollectConfig((tmp_path / "runs",), tmp_path / name))
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} has the name of another kind"):
        collect(CollectConfig((tmp_path / name,), tmp_path / "out"))


def test_a_folder_with_the_name_of_an_archive_is_a_folder(tmp_path, make_run):
    make_run(tmp_path / "runs.tar.xz")
    collect(CollectConfig((tmp_path / "runs.tar.xz",), tmp_path / "out"))
    assert rows(tmp_path / "out") == rows(tmp_path / "runs.tar.xz")


def test_rows_take_the_place_of_no_checkpoint(tmp_path, make_run):
    archive = tmp_path / "all.tar.xz"
    make_run(tmp_path / "long")
    pack(tmp_path / "long", archive)
    checkpoint = make_run(tmp_path / "short", rows=2) / "checkpoint.pt"
    checkpoint.write_bytes(b"state")
    with pytest.raises(ValueError, match="but no checkpoint, which would be lost there"):
        collect(CollectConfig((archive,), tmp_path / "short"))
    assert checkpoint.read_bytes() == b"state"


def test_a_checkpoint_comes_to_equal_rows(tmp_path, make_run):
    (make_run(tmp_path / "runs") / "checkpoint.pt").write_bytes(b"state")
    archive, out = tmp_path / "all.tar.xz", tmp_path / "out"
    collect(CollectConfig((tmp_path / "runs",), archive))
    assert collect(CollectConfig((tmp_path / "runs",), archive)) == Counter({"kept": 1})
    collect(CollectConfig((archive,), out))
    assert collect(CollectConfig((tmp_path / "runs",), out))["replaced"] == 1
    assert collect(CollectConfig((archive,), out)) == Counter({"kept": 1})
    assert [file.read_bytes() for file in out.rglob("checkpoint.pt")] == [b"state"]


def test_nothing_is_said_to_be_copied_where_it_cannot_be_written(tmp_path, make_run, capsys):
    make_run(tmp_path / "runs")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="pass --out a file that you can write"):
        collect(CollectConfig((tmp_path / "runs",), tmp_path / "file" / "all.tar.xz"))
    assert "copied" not in capsys.readouterr().err


def test_a_folder_is_wanted_and_an_archive_is_given(tmp_path, make_run):
    make_run(tmp_path / "runs")
    pack(tmp_path / "runs", tmp_path / "all.tar.xz")
    with pytest.raises(
        ValueError, match=r"Unpack it with: plasticity collect .*all\.tar\.xz --out"
    ):
        find_runs(tmp_path / "all.tar.xz")
    with pytest.raises(ValueError, match=r"does not exist: .* Create runs with"):
        find_runs(tmp_path / "missing.tar.xz")


def test_where_it_cannot_be_written(tmp_path, make_run):
    make_run(tmp_path / "runs")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="pass --out a file that you can write"):
        pack(tmp_path / "runs", tmp_path / "file" / "all.tar.xz")
