"""What the tests of all figures share: results made up by a function, and runs that are stopped."""

from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Verdict
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner


def made_results(figure, values, *, scale="small", num_seeds=3, steps=(1000,)):
    """Return results of all arms of a figure, by `values(arm, step)`: the metrics of a row.

    Seeds differ by a ten-thousandth of each value, so that intervals are short.
    """
    arms = []
    for arm in figure.arms(scale):
        runs = []
        for seed in range(num_seeds):
            rows = []
            for step in steps:
                row = {
                    name: value if value is None else value * (1 + 1e-4 * seed)
                    for name, value in values(arm, step).items()
                }
                rows.append({"step": float(step), **row, "diverged": 0.0})
            config = {"benchmark": figure.name, "method": {}, "seed": seed}
            runs.append(Run(None, config, tuple(rows), half_written=False))
        arms.append((arm, runs))
    return Results(arms)


def made_verdict(figure, values):
    """Return the verdict on `made_results`."""
    found = made_results(figure, values)
    return Verdict(figure.requirements(found), figure.claims(found))


def failed_claims(verdict):
    """Return the indices of the claims that are not met."""
    return [index for index, each in enumerate(verdict.claims) if not each.passed]


def train(path, config, should_stop=lambda: False):
    """Train one run of a figure in a folder, and return whether it has all its rows."""
    with RunFolder(path, config) as folder:
        return Runner([folder]).execute(should_stop)


def rows_of_stopped_and_whole(path, config, steps):
    """Train a run that is stopped after some steps and continued, and one that is not.

    Returns:
        The bytes of the metrics of both.
    """
    assert train(path / "whole", config)
    calls = iter(range(10**6))
    assert not train(path / "parts", config, lambda: next(calls) >= steps)
    assert train(path / "parts", config)
    parts, whole = ((path / name / "metrics.jsonl").read_bytes() for name in ("parts", "whole"))
    return parts, whole
