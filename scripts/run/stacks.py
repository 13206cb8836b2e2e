"""Groups of runs that are stacked: their configurations are equal except for seed, and partly the method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from plasticity.checks import require_integer
from plasticity.mitigations.stacked_settings import stack_key
from plasticity.scripts.config.options import StackSize
from plasticity.scripts.config.run_config import METHOD_FIELDS
from plasticity.scripts.run.experiment import experiment_class
from plasticity.scripts.run.jobs import Job, JobGroup

MAY_DIFFER = (*METHOD_FIELDS, "seed")
"""Settings that may differ between the runs of a group, methods as far as `stack_key` allows."""

_Item = TypeVar("_Item")


def planned(jobs: Sequence[Job], stack: StackSize) -> list[JobGroup]:
    """Group jobs that can be stacked; each of the others is a group by itself.

    Args:
        jobs: Runs, in the order in which they are to be done.
        stack: Number of runs stacked in one process, on any device. "auto": one on a CPU, where processes
            of one thread each are faster, and on CUDA as many as fit, which the process of the group
            measures.

    Returns:
        The work of each process; each job is in it once.
    """
    work: list[JobGroup] = []
    for group in groups_of(jobs):
        config = group[0].config
        is_measured, size = False, 1
        if experiment_class(config).can_stack(config):
            is_measured = stack == "auto" and config.device.startswith("cuda")
            if stack != "auto":
                size = stack
            elif is_measured:
                size = len(group)
        work += [JobGroup(tuple(part), is_measured) for part in even_parts(group, size)]
    return work


def left_of(work: Sequence[JobGroup], unfinished: Sequence[Job]) -> list[JobGroup]:
    """Return the part of a plan that is not finished.

    Groups are planned before finished runs are left out, so that the same command again continues its runs
    as they were begun, to the byte: a run that was begun stacked rounds otherwise if it is continued alone.
    """
    paths = {job.path for job in unfinished}
    left: list[JobGroup] = []
    for each in work:
        jobs = tuple(job for job in each.jobs if job.path in paths)
        if jobs:
            left.append(replace(each, jobs=jobs, had_more=len(jobs) < len(each.jobs)))
    return left


def groups_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs whose configurations differ in nothing but `MAY_DIFFER`, in their order.

    Their methods may differ in decays, and in floats of the other mitigations. Runs that cannot be stacked
    are in groups apart from those that can.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        saved = job.config.to_json()
        shared = {name: value for name, value in saved.items() if name not in MAY_DIFFER}
        is_stackable = experiment_class(job.config).can_stack(job.config)
        kinds = [stack_key(method) for method in job.config.methods()]
        key = json.dumps([is_stackable, kinds, shared], sort_keys=True)
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def even_parts(items: Sequence[_Item], most: int) -> list[list[_Item]]:
    """Split a list into as few parts of at most `most` items as possible, as even as possible."""
    count = -(-len(items) // most)
    ends = [-(-len(items) * part // max(count, 1)) for part in range(count + 1)]
    return [list(items[a:b]) for a, b in pairwise(ends)]


def require_use(jobs: Sequence[Job], stack: StackSize) -> None:
    """Raise an error if the number of stacked runs has no use for these jobs.

    Raises:
        ValueError: if it is below 1, or above 1 where no job can be stacked.
        TypeError: if it is neither a number nor "auto".
    """
    if stack == "auto":
        return
    most = require_integer("--stack", stack, minimum=1)
    if most > 1 and not any(experiment_class(job.config).can_stack(job.config) for job in jobs):
        raise ValueError(
            f"--stack {most} means nothing to these runs of {jobs[0].config.benchmark}, which have a"
            " process each: leave it out, and give --jobs for runs side by side."
        )
