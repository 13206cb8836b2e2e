"""Order of the methods on two forms of one stream: how alike they are, and which pairs are reversed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from formatting import MINUS, interval, mean, number, table
from measures import (
    ABRUPT_AND_GRADUAL,
    SYRE,
    Difference,
    Values,
    comparison_of,
    difference,
    primary,
)

from plasticity.scripts.report.aggregates import LEVEL, NUM_DRAWS, holm
from plasticity.scripts.report.metric_names import factor_of
from plasticity.scripts.report.significance import p_text
from plasticity.scripts.report.statistics import Array


def kendall(first: Array, second: Array) -> Array:
    """Return Kendall's tau of values without ties.

    Args:
        first: Shape: (..., methods).
        second: The same shape.

    Returns:
        Shape: (...).
    """
    rows, columns = np.triu_indices(first.shape[-1], k=1)
    pairs = [np.sign(each[..., rows] - each[..., columns]) for each in (first, second)]
    return np.asarray((pairs[0] * pairs[1]).mean(axis=-1))


def bootstrapped_tau(first: Array, second: Array) -> tuple[float, float, float]:
    """Return Kendall's tau of the methods' means, and its 95 % percentile interval.

    Both forms have the same seeds, which are drawn anew together.

    Args:
        first: Values on one form. Shape: (methods, seeds).
        second: Values on the other. The same shape.
    """
    num_seeds = first.shape[1]
    drawn = np.random.default_rng(0).integers(num_seeds, size=(NUM_DRAWS, num_seeds))
    means = [each[:, drawn].mean(axis=-1).T for each in (first, second)]
    low, high = np.quantile(kendall(*means), [0.025, 0.975])
    value = kendall(first.mean(axis=1), second.mean(axis=1))
    return float(value), float(low), float(high)


def tau_of_halves(first: Array, second: Array) -> tuple[float, float, float]:
    """Return the mean Kendall's tau of two halves of the seeds, drawn at random, and the middle 95 % of them.

    Args:
        first: Values of the one half. Shape: (methods, seeds).
        second: Values of the other half. The same shape.
    """
    generator, num_seeds = np.random.default_rng(0), first.shape[1]
    drawn = generator.permuted(np.tile(np.arange(num_seeds), (NUM_DRAWS, 1)), axis=1)
    halves = drawn[:, : num_seeds // 2], drawn[:, num_seeds // 2 :]
    means = [
        each[:, half].mean(axis=-1).T for each, half in zip((first, second), halves, strict=True)
    ]
    found = kendall(*means)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(found.mean()), float(low), float(high)


def reversed_pairs(
    first: Mapping[str, Values], second: Mapping[str, Values]
) -> dict[tuple[str, str], tuple[Difference, Difference]]:
    """Return the pairs of methods of which one is better on the first form and the other on the second.

    Both differences are significant, after Holm's correction over all pairs and both forms.
    """
    found = {
        (one, other, str(form)): difference(values[one], values[other])
        for form, values in enumerate((first, second))
        for one, other in combinations(first, 2)
    }
    adjusted = holm({"/".join(key): each.p_value for key, each in found.items()})
    is_clear = {key: adjusted["/".join(key)] < LEVEL for key in found}
    pairs = {}
    for one, other in combinations(first, 2):
        keys = [(one, other, str(form)) for form in range(2)]
        ours, theirs = (found[key] for key in keys)
        if all(is_clear[key] for key in keys) and ours.mean * theirs.mean < 0:
            pairs[one, other] = ours, theirs
    return pairs


FORMS = tuple(f"{ABRUPT_AND_GRADUAL.file}_{form}" for form in ("abrupt", "gradual"))
"""Files of the runs of both forms of stream 6."""


def forms() -> tuple[dict[str, Values], dict[str, Values]]:
    """Return the methods' values on the abrupt form of stream 6, and on the gradual one."""
    abrupt, gradual = (primary(ABRUPT_AND_GRADUAL, file) for file in FORMS)
    return abrupt, gradual


def forms_table() -> list[str]:
    """Return the methods on both forms of stream 6, the best one on the abrupt form first."""
    both, lasts = forms(), [_last_segment(file) for file in FORMS]
    means = [{label: np.mean(list(own.values())) for label, own in each.items()} for each in both]
    orders = [sorted(each, key=each.__getitem__, reverse=True) for each in means]
    rows = []
    for label in orders[0]:
        cells = [f"`{label}`"]
        for values, last, order in zip(both, lasts, orders, strict=True):
            place = str(order.index(label) + 1)
            cells += [mean(values[label].values()), place, mean(last[label], factor=100)]
        abrupt, gradual = (each[label] for each in both)
        rows.append([*cells, interval(difference(gradual, abrupt), 1)])
    headings = [name for form in ("abrupt", "gradual") for name in (form, "place", "last segment")]
    return table(["method", *headings, f"gradual {MINUS} abrupt"], rows)


def _last_segment(file: str) -> dict[str, list[float | None]]:
    """Return the online accuracy in the last segment, which both forms have without a mixture, by method."""
    arms = comparison_of(file, ABRUPT_AND_GRADUAL).arms
    return {
        arm.label: [run.value(ABRUPT_AND_GRADUAL.metric, arm.positions[-1]) for run in arm.started]
        for arm in arms
    }


def to_syre_table() -> list[str]:
    """Return the differences to syre on both forms of stream 6, the best one on the abrupt form first."""
    both = forms()
    found = {
        (label, form): difference(values[label], values[SYRE])
        for form, values in enumerate(both)
        for label in values
        if label != SYRE
    }
    adjusted = holm({f"{label}/{form}": each.p_value for (label, form), each in found.items()})
    rows = []
    for label in sorted({label for label, _ in found}, key=lambda label: -found[label, 0].mean):
        cells = [f"`{label}`"]
        for form in range(len(both)):
            cells += [interval(found[label, form], 1), p_text(adjusted[f"{label}/{form}"])]
        rows.append(cells)
    headings = [f"{form} {MINUS} {SYRE}" for form in ("abrupt", "gradual")]
    return table(["method", headings[0], "p, adjusted", headings[1], "p, adjusted"], rows)


def tau_table() -> list[str]:
    """Return Kendall's tau of the two orders, and of two halves of the seeds."""
    both = forms()
    abrupt, gradual = map(_array, both)
    found = {
        "abrupt and gradual": bootstrapped_tau(abrupt, gradual),
        "the same, segments without a mixture": bootstrapped_tau(*map(_array, unmixed_forms())),
        "abrupt and gradual, each on half of the seeds": tau_of_halves(abrupt, gradual),
        "abrupt, two halves of the seeds": tau_of_halves(abrupt, abrupt),
        "gradual, two halves of the seeds": tau_of_halves(gradual, gradual),
    }
    rows = [
        [label, number(value, 2), f"[{number(low, 2)}, {number(high, 2)}]"]
        for label, (value, low, high) in found.items()
    ]
    return table(["order of the methods", "Kendall's tau", "interval"], rows)


def _array(values: Mapping[str, Values]) -> Array:
    """Return values by method and seed, both sorted. Shape: (methods, seeds)."""
    return np.array([[own[seed] for seed in sorted(own)] for _, own in sorted(values.items())])


def unmixed_forms() -> tuple[dict[str, Values], dict[str, Values]]:
    """Return the values on both forms over the segments that have no mixture in either."""
    abrupt, gradual = map(_unmixed, FORMS)
    return abrupt, gradual


def _unmixed(file: str) -> dict[str, Values]:
    metric, num_segments = ABRUPT_AND_GRADUAL.metric, ABRUPT_AND_GRADUAL.skip
    found: dict[str, Values] = {}
    for arm in comparison_of(file, ABRUPT_AND_GRADUAL).arms:
        later = [
            each
            for each in arm.positions
            if each >= num_segments and each % num_segments >= num_segments // 2
        ]
        found[arm.label] = {
            run.seed: factor_of(metric)
            * float(np.mean([run.by_position[each][metric] for each in later]))
            for run in arm.started
        }
    return found


def unmixed_table() -> list[str]:
    """Return the methods over the segments without a mixture, in the order of `forms_table`."""
    both, whole = unmixed_forms(), forms()[0]
    order = sorted(whole, key=lambda label: -float(np.mean(list(whole[label].values()))))
    rows = [
        [
            f"`{label}`",
            *(mean(each[label].values()) for each in both),
            interval(difference(both[1][label], both[0][label]), 1),
        ]
        for label in order
    ]
    headings = ["segments without a mixture", "abrupt", "gradual", f"gradual {MINUS} abrupt"]
    return table(headings, rows)


def reversed_table() -> list[str]:
    """Return the pairs of methods whose order is reversed from one form to the other."""
    rows = [
        [f"`{one}` {MINUS} `{other}`", interval(abrupt, 1), interval(gradual, 1)]
        for (one, other), (abrupt, gradual) in reversed_pairs(*forms()).items()
    ]
    return table(["pair", "abrupt", "gradual"], rows)
