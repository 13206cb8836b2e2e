"""Training settings of a classifier."""

import pytest

from plasticity.agents.supervised.config import ClassifierConfig


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": "sgdd"}, ValueError, "Did you mean 'sgd'"),
        ({"loss": "cross-entrophy"}, ValueError, "Did you mean 'cross-entropy'"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be above 0"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be a finite number"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate .* nan"),
        ({"momentum": 1.0}, ValueError, "momentum must be .* below 1"),
        (
            {"momentum": 0.9, "optimizer": "adam"},
            ValueError,
            "applies to sgd only, not to adam: set it to 0",
        ),
        (
            {"betas": (0.9, 1.0), "optimizer": "adam"},
            ValueError,
            "a beta must be .* below 1",
        ),
        ({"betas": 0.9, "optimizer": "adam"}, TypeError, "betas must be a tuple of two numbers"),
        ({"epsilon": -1.0, "optimizer": "adam"}, ValueError, "epsilon must be a finite number"),
        ({"betas": (0.99, 0.99)}, ValueError, "does not apply to sgd: leave it out"),
        ({"optimizer": "soap", "compile": True}, ValueError, "leave compile out"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1: 0"),
        ({"epochs_per_task": 1.5}, TypeError, "epochs_per_task must be an integer"),
        (
            {"output_layer": "zero"},
            ValueError,
            "Unknown output_layer 'zero'. Did you mean 'zeroed'",
        ),
        ({"keep_best": 1}, TypeError, "keep_best must be True or False, not 1"),
        ({"learning_rate_factor": -0.1}, ValueError, "learning_rate_factor must be"),
        ({"learning_rate_drops": 3}, TypeError, "must be a tuple of epochs, not 3"),
        (
            {"learning_rate_drops": (0,)},
            ValueError,
            "epoch of learning_rate_drops must be at least 1",
        ),
        (
            {"learning_rate_drops": (2, 1), "epochs_per_task": 3},
            ValueError,
            "ascending order, each",
        ),
        (
            {"learning_rate_drops": (2, 2), "epochs_per_task": 3},
            ValueError,
            "ascending order, each",
        ),
        (
            {"learning_rate_drops": (5,), "epochs_per_task": 5},
            ValueError,
            "has 5, which never comes, as a task has 5 epochs",
        ),
        ({"precision": "bf61"}, ValueError, "Unknown precision 'bf61'. Did you mean 'bf16'"),
        ({"precision": 16}, ValueError, "Unknown precision 16"),
        ({"compile": "yes"}, TypeError, "compile must be True or False, not 'yes'"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ClassifierConfig(**settings)


def test_the_learning_rate_drops_at_epochs_of_a_task():
    config = ClassifierConfig(
        learning_rate_drops=(2, 3), learning_rate_factor=0.5, epochs_per_task=5
    )
    assert [config.learning_rate_share(epoch) for epoch in range(5)] == [1, 1, 0.5, 0.25, 0.25]
    assert ClassifierConfig().learning_rate_share(1000) == 1.0
