"""Titles and captions of a report's figures."""

from __future__ import annotations

from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import GAP, in_words

CAPTIONS = {
    "accuracy": "after each task (test, train) and while it was learnt (online): mean over seeds.{gap}",
    "return": "of the episodes that ended since the previous row (undiscounted), and their length:"
    " mean over seeds.",
    "tasks": "(mean over all episodes of each task that was played to its end, then over seeds).",
    "progress": "over the run: mean over seeds.",
    "ranks": "of the hidden layers' activations on {probe}, one panel per layer.",
    "units": "that are dead, dormant or nearly always positive (linearised) on {probe}, as a share of their"
    " layer, and the share of outputs that are active.",
    "norms": "of the whole network's parameters, and of each layer's activations.",
    "weights": "that moved since the row before, relative to their norm there, and the distance of their"
    " Gram matrices to the identity.",
    "steps": "at the end of each task: change of the outputs by its last step (churn), and curvature of the"
    " loss, on {probe}.",
    "updates": "of the latest update at each row: entropy of the policy, approximate Kullback-Leibler"
    " divergence (of the last epoch), share of clipped actions, share of the returns' variance that the"
    " critic explains (cut off below -1), both losses, weight of the entropy, share of random actions; of"
    " each, what the algorithm has.",
    "map": "over two settings of a sweep, with the best outlined in each panel. On the right: the other"
    " methods.",
}
"""Captions of the figures, by name; the title goes before."""

TITLES = {
    "accuracy": "Accuracy",
    "return": "Return",
    "tasks": "Return per task",
    "progress": "Progress",
    "ranks": "Ranks",
    "units": "Units",
    "norms": "Norms",
    "weights": "Weights",
    "steps": "Last step",
    "updates": "Updates of the agent",
    "map": "Map of settings",
}


def caption(comparison: Comparison, name: str) -> str:
    """Return what a figure shows.

    Args:
        comparison: Comparison that is drawn.
        name: Name of the figure, of `TITLES`.
    """
    subject = in_words(comparison.headline).capitalize() if name == "map" else TITLES[name]
    gap = " Plasticity gap: a fresh network's accuracy on the task minus the run's."
    has_gap = GAP in comparison.chosen_metrics
    return f"{subject} {CAPTIONS[name].format(probe=comparison.axis.probe, gap=gap if has_gap else '')}"
