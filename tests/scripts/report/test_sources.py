"""Reports of several folders and compressed files."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from made_runs import write_run, write_runs

from plasticity.scripts.folders.collect import CollectConfig, collect
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.sources import open_sources, runs_by_benchmark

LOW = {"none": [[0.1, 0.1], [0.2, 0.2]], "syre": [[0.2, 0.2], [0.3, 0.3]]}
HIGH = {"none": [[0.6, 0.6], [0.7, 0.7]], "syre": [[0.8, 0.8], [0.9, 0.9]]}


def names_of(paths):
    with open_sources(paths) as sources:
        return {name: len(runs) for name, runs in runs_by_benchmark(sources).items()}


def test_a_benchmark_of_two_folders_counts_as_two(tmp_path):
    write_runs(tmp_path / "quick", "permuted-digits", LOW)
    write_runs(tmp_path / "narrow", "permuted-digits", HIGH)
    write_runs(tmp_path / "narrow", "permuted-mnist", LOW)
    assert names_of([tmp_path / "quick", tmp_path / "narrow"]) == {
        "quick/permuted-digits": 4,
        "narrow/permuted-digits": 4,
        "permuted-mnist": 4,
    }
    assert names_of([tmp_path / "narrow"]) == {"permuted-digits": 4, "permuted-mnist": 4}


def test_folders_of_the_same_name_are_named_by_the_ends_of_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        write_runs(tmp_path / folder / "runs", "permuted-digits", LOW)
    collect(CollectConfig((tmp_path / "a" / "runs",), out=tmp_path / "runs.tar.xz"))
    paths = [tmp_path / "a" / "runs", tmp_path / "b" / "runs", tmp_path / "runs.tar.xz"]
    relative = [path.relative_to(tmp_path) for path in paths]
    assert list(names_of(relative)) == [f"{path}/permuted-digits" for path in relative]
    monkeypatch.chdir(tmp_path / "a" / "runs")
    with open_sources([relative[0].parent.parent]) as (source,):
        assert source.name == "runs"
    assert list(names_of(paths)) == [f"{path}/permuted-digits" for path in relative]


def test_runs_are_not_read_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "study" / "quick", "permuted-digits", LOW)
    (tmp_path / "link").symlink_to(tmp_path / "study" / "quick")
    assert list(names_of([Path("link")])) == ["permuted-digits"]
    for paths in (["study", "study/quick"], ["study/quick/", "."], ["study", "link"]):
        with pytest.raises(ValueError, match=r"is inside .*, and its runs would count twice"):
            names_of(list(map(Path, paths)))
    with pytest.raises(ValueError, match="given twice"):
        names_of([Path("link"), Path("study/quick")])
    collect(CollectConfig((Path("study"),), out=Path("study/study.tar.xz")))
    assert len(names_of([Path("study"), Path("study/study.tar.xz")])) == 2


def test_links_of_the_page_lead_to_the_figures(tmp_path):
    odd = 'a b#1%20$x$ <i>&"q"'
    for folder in (odd, "other"):
        write_runs(tmp_path / folder, "permuted-digits", LOW)
    written = report(ReportConfig((tmp_path / odd, tmp_path / "other"), out=tmp_path / "page"))
    page = written[0].read_text(encoding="utf-8")
    links = [unquote(unescape(link)) for link in re.findall(r'<a href="([^"]*)"', page)]
    assert links == [path.name for path in written[1:]]
    assert not re.search(r'<a href="[^"]*[#&$ ]', page)


def test_a_compressed_file_is_reported_like_its_folder(tmp_path, capsys):
    write_runs(tmp_path / "runs", "permuted-digits", HIGH)
    collect(CollectConfig((tmp_path / "runs",), out=tmp_path / "all.tar.xz"))
    capsys.readouterr()
    report(ReportConfig((tmp_path / "runs",), out=tmp_path / "one"))
    of_folder = capsys.readouterr().out
    report(ReportConfig((tmp_path / "all.tar.xz",), out=tmp_path / "two"))
    assert capsys.readouterr().out == of_folder.replace(
        str(tmp_path / "one"), str(tmp_path / "two")
    )
    written = {path.name for path in (tmp_path / "one").iterdir()}
    assert "report.html" in written
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_runs_of_a_compressed_file_cannot_be_continued(tmp_path, capsys):
    for seed in (0, 1):
        rows = [{"task": 0, "test_accuracy": 0.5}]
        write_run(tmp_path / "runs", "permuted-digits", "none", seed, rows, tasks=3)
    collect(CollectConfig((tmp_path / "runs",), out=tmp_path / "all.tar.xz"))
    capsys.readouterr()
    report(ReportConfig((tmp_path / "all.tar.xz",), out=tmp_path / "page"))
    printed = capsys.readouterr().out
    assert "are unfinished" in printed
    assert "To continue" not in printed
    report(ReportConfig((tmp_path / "runs",)))
    assert "To continue" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ("online_loss",)}, "The runs of narrow/permuted-digits have none of online_loss"),
        ({"skip": 2}, "the longest run of narrow/permuted-digits has 1"),
    ],
)
def test_errors_name_the_benchmark_as_tables_do(tmp_path, options, message):
    write_runs(tmp_path / "quick", "permuted-digits", {"none": [[1.0] * 4]}, metric="online_loss")
    write_runs(tmp_path / "narrow", "permuted-digits", {"none": [[0.5]]})
    folders = (tmp_path / "quick", tmp_path / "narrow")
    with pytest.raises(ValueError, match=message):
        report(ReportConfig(folders, out=tmp_path / "page", **options))


def test_each_folder_has_figures_of_its_own(tmp_path):
    for folder in ("a/runs", "b/runs", "a_runs"):
        write_runs(tmp_path / folder, "permuted-digits", LOW)
    paths = tuple(tmp_path / folder for folder in ("a/runs", "b/runs", "a_runs"))
    written = report(ReportConfig(paths, out=tmp_path / "page"))
    accuracies = [path.name for path in written if path.name.endswith("_accuracy.png")]
    assert len(set(accuracies)) == 3
    assert {path.name for path in (tmp_path / "page").iterdir()} == {path.name for path in written}


def test_wrong_sources_are_named(tmp_path):
    write_runs(tmp_path / "runs", "permuted-digits", LOW)
    with pytest.raises(ValueError, match="given twice"), open_sources([tmp_path / "runs"] * 2):
        pass
    with pytest.raises(ValueError, match="Name a folder"), open_sources([]):
        pass
    (tmp_path / "cut.tar.xz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="Cannot read"), open_sources([tmp_path / "cut.tar.xz"]):
        pass
    for folders in ((tmp_path / "runs", tmp_path / "others"), (tmp_path / "cut.tar.xz",)):
        with pytest.raises(ValueError, match="--out"):
            ReportConfig(folders)
