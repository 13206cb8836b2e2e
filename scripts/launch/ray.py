"""Runs as tasks of Ray."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from plasticity.scripts.config.launchers import RayOptions
from plasticity.scripts.launch.unit import Report, Unit, settle
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import Outcome, signals_noted
from plasticity.scripts.run.versions import made_by

RETRIES = 10
"""Number of workers that a task may lose; each new one continues from the checkpoints."""

POLL_SECONDS = 1.0
"""Seconds between two looks for a signal."""

CONNECT_SECONDS = 10.0
"""Seconds to wait for a Ray that is named by its address."""


class RayLauncher:
    """Launcher of Ray tasks.

    Args:
        options: Where Ray is, and what each task asks for.
        most: Tasks at once; None: as many as fit.
    """

    def __init__(self, options: RayOptions, most: int | None = None) -> None:
        self.options, self.most = options, most

    def require_ready(self) -> None:
        """Do `Launcher.require_ready`."""
        if find_spec("ray") is None:
            raise RunError(
                "--launcher ray needs Ray, which is not installed: pip install 'plasticity[ray]'."
            )
        host, separator, port = (self.options.address or "").rpartition(":")
        if (
            separator and port.isdecimal() and "/" not in host
        ):  # Ray itself takes minutes to give up
            try:
                socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            except OSError as error:
                raise _unreachable(self.options.address, error) from error

    def launch(
        self,
        work: Sequence[JobGroup],
        on_progress: Callable[[Job, float], None],
        on_note: Callable[[str], None],
    ) -> Outcome:
        """Do `Launcher.launch`."""
        import ray  # noqa: PLC0415  (an extra)

        address = self.options.address or "local"
        try:
            ray.init(address=address, log_to_driver=False)
        except Exception as error:  # one that starts too slowly raises no other kind
            raise _unreachable(self.options.address, error) from error
        try:
            if self.options.address is None:
                _require_fit(self.options, ray.cluster_resources())
            return self._done(work, on_progress, on_note)
        finally:
            ray.shutdown()

    def _done(
        self,
        work: Sequence[JobGroup],
        on_progress: Callable[[Job, float], None],
        on_note: Callable[[str], None],
    ) -> Outcome:
        """Do the work by a Ray that this process is connected to."""
        import ray  # noqa: PLC0415  (an extra)

        task = ray.remote(
            num_cpus=self.options.cores, num_gpus=self.options.gpus, max_retries=RETRIES
        )(_do)
        outcome = Outcome()
        waiting, running = list(work), dict[Any, JobGroup]()
        with signals_noted(outcome):
            while running or (waiting and outcome.interrupted_by is None):
                while (
                    waiting
                    and len(running) < (self.most or len(work))
                    and not outcome.interrupted_by
                ):
                    group = waiting.pop(0)
                    running[task.remote(Unit(group, made_by()))] = group
                if outcome.interrupted_by is not None:
                    for each in running:
                        ray.cancel(each, force=False)
                done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for each in done:
                    group = running.pop(each)
                    report = _report(each)
                    if outcome.interrupted_by is not None and isinstance(report, str):
                        outcome.stopped += [job.path for job in group.jobs]
                        continue
                    for note in report.notes if isinstance(report, Report) else ():
                        on_note(note)
                    settle(group, report, outcome, on_progress)
        outcome.stopped += [job.path for group in waiting for job in group.jobs]
        return outcome


def _require_fit(options: RayOptions, resources: Mapping[str, float]) -> None:
    """Raise an error if no task can ever start on the Ray of this machine, which would wait for ever."""
    for option, name, wanted in (
        ("--ray.cores", "CPU", options.cores),
        ("--ray.gpus", "GPU", options.gpus),
    ):
        there = resources.get(name, 0.0)
        if wanted > there:
            raise RunError(
                f"{option} {wanted:g} is more than the {there:g} that Ray finds on this machine: give less,"
                " or the --ray.address of a Ray that has it."
            )


def _do(unit: Unit) -> Report:
    return unit()


def _report(reference: Any) -> Report | str:
    """Return what a task has sent back, or the error that ended it."""
    import ray  # noqa: PLC0415  (an extra)

    try:
        report: Report = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # our own error, with its traceback
        return str(error)
    except ray.exceptions.RayError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return (
            f"its Ray task lost {RETRIES + 1} workers ({first}): `ray status` and their memory tell why. Its"
            " checkpoint is intact."
        )
    return report


def _unreachable(address: str | None, error: Exception) -> RunError:
    where = (
        "A local Ray could not be started" if address is None else f"No Ray answers at {address}"
    )
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return RunError(
        f"{where} ({first}): start one with `ray start --head` and give the address that it prints, or leave"
        " --ray.address out for one on this machine. Nothing is lost, the same command continues."
    )
