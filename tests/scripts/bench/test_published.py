"""Rows of the published settings, and the images that their runs read."""

import torch

from plasticity.scripts.bench import published as published_module
from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.learners import SYRE, synthetic_dataset
from plasticity.scripts.bench.published import ONLINE, online_config, published, write_idx
from plasticity.tasks import load_dataset
from plasticity.tasks.vector.environments import available_cores

QUICK = Effort(quick=True)


def test_every_comparison_has_a_row_and_its_goal():
    rows = {row.case: row for row in published(QUICK)}
    goals = {case: (row.unit, row.goal) for case, row in rows.items()}
    on_cores = 5.0 if available_cores() == 2 else None
    assert goals == {
        "MLP of 3 x 100, batch 1: vs the published loop": ("speed", 3.0),
        "MLP of 3 x 100, batch 1: with continual backprop, vs the published loop": ("speed", 3.0),
        "MLP of 3 x 2000, batch 1: vs the published loop": ("speed", 2.5),
        "MLP of 3 x 2000, batch 1: with continual backprop, vs the published loop": ("speed", None),
        "MLP of 3 x 100, batch 1: syre, 0.003, vs none": ("time", 1.2),
        "MLP of 3 x 100, batch 1: syre, 0.001, vs none": ("time", None),
        "MLP of 3 x 2000, batch 1: syre, 0.003, vs none": ("time", 1.2),
        "MLP of 3 x 2000, batch 1: syre, 0.001, vs none": ("time", None),
        "CNN, batch 64: syre vs none": ("time", 1.03),
        "CNN, batch 64: vs the best loop by hand": ("speed", 0.97),
        "8 stacked MLPs of 3 x 100, batch 1: vs one after another": ("speed", None),
        "2 runs of an MLP of 3 x 100, batch 1: vs the published loop, one by one": (
            "speed",
            on_cores,
        ),
    }
    assert all(row.value > 0 for row in rows.values())


def test_the_settings_are_those_of_online_permuted_mnist():
    assert (ONLINE.optimizer, ONLINE.learning_rate, ONLINE.momentum) == ("sgd", 0.003, 0.0)
    (continual,) = published_module.CONTINUAL.mitigations
    assert (continual.replacement_rate, continual.maturity_threshold) == (1e-4, 100)
    assert (continual.decay, continual.utility) == (0.99, "adaptable-contribution")
    # the decay of a step, in units of float32's epsilon: with room for a factor, and without
    eps = torch.finfo(torch.float32).eps
    assert 0.003 * SYRE.regularizer.strength > 32 * eps
    assert 0.003 * published_module.SMALL_DECAY.regularizer.strength < 32 * eps


def test_runs_read_the_images_that_were_written(tmp_path):
    dataset = synthetic_dataset(QUICK)
    write_idx(tmp_path, dataset)
    config = online_config(tmp_path, (8, 8, 8))
    read = load_dataset("images", tmp_path)
    assert torch.equal(read.train_images, dataset.train_images)
    assert torch.equal(read.test_labels, dataset.test_labels)
    assert config.agent == ONLINE
    assert config.stream.load().train_images.shape == dataset.train_images.shape
