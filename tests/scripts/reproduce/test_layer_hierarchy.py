"""Figure layer-hierarchy: its networks and distances, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole
from torch import nn

from plasticity import permutation_distance
from plasticity.mitigations import WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.layer_hierarchy import (
    DECAY,
    PLAIN,
    DeepNetworks,
    DeepTraining,
    layers_of,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["layer-hierarchy"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_steps": 9,
    "stream.num_train": 40,
    "stream.num_test": 20,
    "stream.batch_size": 8,
    "agent.num_hidden": 2,
    "agent.width": 4,
    "tracking.measure_every": 3,
}


def made(method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": 3})


# ---- the networks -----------------------------------------------------------------------------------


def test_pixels_are_centred_and_weights_have_their_scale():
    experiment = DeepNetworks([made(agent__width=300, stream__input_scale=2.0)], stacked=False)
    inputs = experiment.data.train_inputs
    assert (inputs.min().item(), inputs.max().item()) == (-1.0, 1.0)
    linear = [each for each in experiment.network.modules() if isinstance(each, nn.Linear)]
    assert len(linear) == 3
    assert not any(each.bias.any() for each in linear)
    for each in linear:
        spread = each.weight.std().item() * each.in_features**0.5
        assert spread == pytest.approx(0.5, rel=0.05)


def test_distances_are_relative_to_the_start():
    experiment = DeepNetworks([made()], stacked=False)
    network = experiment.network
    first = permutation_distance(network.fc1.weight, network.fc2.weight, network.fc1.bias)
    start = experiment.measure(0)
    assert start["median_distance_1"] == pytest.approx((first.median() / first.mean()).item())
    assert start["broken_1"] == start["together_1"] == 0.0
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10.0)
        assert experiment.measure(0)["broken_1"] == 1.0
        network.fc2.weight[1:] = network.fc2.weight[0]  # the second layer's neurons are one ...
        network.fc3.weight[:, 1:] = network.fc3.weight[:, :1]
        network.fc2.weight[3] += 100.0  # ... but for the last one
    found = experiment.measure(0)
    assert found["together_2"] == pytest.approx(2 / 3)
    assert found["broken_2"] == pytest.approx(1 / 3)
    assert found["median_distance_2"] == 0.0


def test_accuracies_are_of_the_training_and_the_test_images():
    experiment = DeepNetworks([made()], stacked=False)
    with torch.no_grad():
        experiment.network.fc3.weight.zero_()
        experiment.network.fc3.bias[7] = 1.0  # always a seven
    found, data = experiment.measure(0), experiment.data
    assert found["train_accuracy"] == pytest.approx((data.train_labels == 7).float().mean().item())
    assert found["test_accuracy"] == pytest.approx((data.test_labels == 7).float().mean().item())


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="num_hidden must be at least 1"):
        DeepTraining(num_hidden=0)
    with pytest.raises(ValueError, match="initial_scale"):
        DeepTraining(initial_scale=-0.5)


def test_a_network_that_was_stopped_continues_exactly(tmp_path):
    config = made((WeightDecay(strength=0.1),))
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 5)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    row = {"train_accuracy": 0.6, "test_accuracy": 0.4}
    for layer in (1, 2, 3, 4):
        row |= {f"broken_{layer}": 1 - 0.2 * layer, f"together_{layer}": 0.1 * layer}
        row[f"median_distance_{layer}"] = 5.0 - layer
    return row


def test_it_holds_if_each_layer_is_more_symmetric_than_the_one_before():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


@pytest.mark.parametrize(
    ("changed", "value", "failed"),
    [("broken_4", 0.5, [2]), ("broken_1", 0.3, [0]), ("broken_4", 0.9, [2, 3])],
)
def test_a_claim_fails_where_a_later_layer_is_less_symmetric(changed, value, failed):
    found = made_verdict(FIGURE, lambda arm, step: as_claimed(arm, step) | {changed: value})
    assert failed_claims(found) == failed
    assert found.outcome == PARTLY


def test_decay_is_drawn_and_not_judged():
    def values(arm, step):
        other = {"broken_1": 0.0, "train_accuracy": 0.1} if arm.name == DECAY else {}
        return as_claimed(arm, step) | other

    assert made_verdict(FIGURE, values).outcome == HOLDS


def test_a_network_that_has_not_learnt_means_nothing():
    found = made_verdict(FIGURE, lambda arm, step: as_claimed(arm, step) | {"train_accuracy": 0.3})
    assert found.outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(10, 20))
    assert layers_of(found) == [1, 2, 3, 4]
    sentence = FIGURE.sentence(found)
    assert "without decay 0.80 [0.80, 0.80], 0.60 [0.60, 0.60], 0.40" in sentence
    assert "brought together 0.10 [0.10, 0.10], 0.20" in sentence
    (plain, decay), (broken, together) = FIGURE.panels(found)
    assert PLAIN in plain.title
    assert DECAY in decay.title
    assert [line.label for line in broken.lines] == [f"hidden layer {n}" for n in (1, 2, 3, 4)]
    assert broken.lines[1].mean.tolist() == pytest.approx([0.6, 0.6], rel=1e-3)
    assert together.lines[3].positions.tolist() == [10, 20]
    FIGURE.draw(found, "caption")
