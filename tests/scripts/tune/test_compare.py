"""Comparisons: search, runs and report as one, with runs of a second."""

import json

WORDS = (
    "--methods none weight-decay --tasks 10",
    "--grid learning-rate=1e-6,0.05 --budget 2 --tuning-seeds 7 --seeds 0 1",
)


def test_methods_run_on_other_seeds_with_what_was_found(on_digits, tmp_path, capsys):
    assert on_digits("compare", *WORDS, "--out", tmp_path) == 0
    assert (tmp_path / "runs" / "report.html").exists()
    for method in ("none", "weight-decay"):
        for seed in (0, 1):
            folder = tmp_path / "runs" / "permuted-digits" / method / f"seed_{seed}"
            config = json.loads((folder / "config.json").read_text())
            assert config["agent"]["learning_rate"] == 0.05
            assert config["tuned_on"] == [7]
            assert len((folder / "metrics.jsonl").read_text().splitlines()) == 10
    assert "tuned on the seeds 7, none of which is shown here" in " ".join(
        capsys.readouterr().out.split()
    )
    before = (tmp_path / "runs" / "report.html").read_bytes()
    assert on_digits("compare", *WORDS, "--out", tmp_path) == 0
    assert (tmp_path / "runs" / "report.html").read_bytes() == before


def test_seeds_of_the_search_are_not_evaluated(on_digits, tmp_path, capsys):
    assert on_digits("compare", *WORDS, "--seeds 6..9 --out", tmp_path) == 2
    assert "The seeds 7 are among --seeds and --tuning-seeds" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
