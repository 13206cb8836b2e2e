"""Command `plasticity compare`: tune every method, train it on other seeds, report; resumable as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from plasticity.scripts.config.grid import Axis
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.tuned import require_tuned
from plasticity.scripts.run.command import run
from plasticity.scripts.tune.command import FILE, tune
from plasticity.scripts.tune.options import CompareOptions


def compare(options: RunOptions, axes: Sequence[Axis], wanted: CompareOptions, command: str) -> int:
    """Tune the methods, train each with its best settings on fresh seeds, and report.

    Its folder holds the search (tuning/), its file (tuning/tuned.json), the runs (runs/) and the report
    (runs/report.html). The same command again continues where it was stopped.

    Args:
        options: Options of the command line; their seeds are those of the comparison.
        axes: Settings to try, with their values.
        wanted: Options of the search.
        command: Command line that continues it, for the message about stopped runs.

    Returns:
        The exit code, as of `run`.

    Raises:
        RunError, ValueError, TypeError: before anything runs, if the options cannot be satisfied; among them,
            a seed both of the search and of the comparison.
    """
    both = sorted(set(wanted.tuning_seeds) & set(options.seeds))
    if both:
        raise ValueError(
            f"The seeds {', '.join(map(str, both))} are among --seeds and --tuning-seeds: what settings were"
            " chosen on cannot show how good they are. Give others."
        )
    tuning = replace(options, seeds=wanted.tuning_seeds, out=options.out / "tuning")
    code = tune(tuning, axes, wanted, command)
    if code != 0:
        return code
    chosen = replace(options, out=options.out / "runs", tuned=options.out / "tuning" / FILE)
    require_tuned(chosen)
    code = run(chosen, command)
    if code != 0:
        return code
    from plasticity.scripts.report.command import ReportConfig, report  # noqa: PLC0415  (matplotlib)

    report(ReportConfig((chosen.out,)))
    return 0
