"""Benchmarks of permuted images: the published settings."""

import math
from dataclasses import replace

import pytest

from plasticity.initialization import Constant, Normal
from plasticity.mitigations import SWR, UPGD, ContinualBackprop, L2Init, ReDo, WeightNoise
from plasticity.scripts.config.benchmarks import BENCHMARKS

MNIST = BENCHMARKS["permuted-mnist"]


def preset(name):
    return MNIST.with_presets({"preset": name})


def bounds(config, inputs=(1, 28, 28)):
    network = config.network.make(inputs, 10)
    return {name: each.bound for name, each in network.initialization().items() if "weight" in name}


def test_online_is_one_pass_of_single_examples():
    config = preset("online").config
    assert (config.stream.num_tasks, config.stream.num_examples) == (800, None)
    assert (config.stream.first_permuted, config.stream.composed) == (True, True)
    assert config.stream.pixels == "unit"
    agent = config.agent
    assert (agent.batch_size, agent.epochs_per_task) == (1, 1)
    assert (agent.optimizer, agent.learning_rate, agent.momentum) == ("sgd", 0.003, 0.0)
    # uniform within gain * sqrt(3 / fan-in), with a gain of sqrt(2), and 1 at the output
    expected = {"fc1": 6 / 784, "fc2": 6 / 2000, "fc3": 6 / 2000, "fc4": 3 / 2000}
    found = bounds(config)
    assert found == pytest.approx({f"{k}.weight": math.sqrt(v) for k, v in expected.items()})
    assert config.network.zero_biases
    published = preset("online").mitigation("cbp")
    assert published == ContinualBackprop(utility="adaptable-contribution", maturity_threshold=100)


def test_small_is_a_new_tenth_of_the_images_for_each_task():
    config = preset("small").config
    stream = config.stream
    assert (stream.num_tasks, stream.num_examples, stream.test_examples) == (500, 10_000, 1000)
    assert (stream.pixels, stream.first_permuted) == ("symmetric", False)
    assert (config.agent.optimizer, config.agent.learning_rate) == ("adam", 1e-3)
    assert stream.num_examples / config.agent.batch_size == 625
    assert config.network.hidden == (100, 100)
    assert preset("small").mitigation("l2-init") == L2Init(strength=1e-2)
    assert preset("small").mitigation("redo").every == 625
    # as their launchers have it: utils/commands/train/parallel_runs_permuted_mnist.py
    assert preset("small").mitigation("cbp") == ContinualBackprop(
        utility="adaptable-contribution",
        replacement_rate=1e-3,
        maturity_threshold=100,
        decay=0.99,
        accumulate=False,
    )


def test_narrow_has_three_layers_of_ten():
    config = preset("narrow").config
    assert config.network.hidden == (10, 10, 10)
    assert 60_000 / config.agent.batch_size == 2000
    assert config.agent.learning_rate == 0.05
    # `kaiming_normal_` with the gain of ReLU in every layer, that of the outputs included
    inputs = {"fc1": 784, "fc2": 10, "fc3": 10, "fc4": 10}
    expected = {f"{name}.weight": math.sqrt(2 / size) for name, size in inputs.items()}
    drawn = config.network.make((1, 28, 28), 10).initialization()
    deviations = {name: each.deviation for name, each in drawn.items() if isinstance(each, Normal)}
    assert deviations == pytest.approx(expected)
    assert [each for name, each in drawn.items() if "bias" in name] == [Constant(0.0)] * 4


def test_the_mitigations_of_narrow():
    """They are the final runs of `small_network` in the published code."""
    narrow = preset("narrow")
    # which multiplies the weights by 1 - 1e-4 in each step
    assert narrow.config.agent.learning_rate * narrow.mitigation("weight-decay").strength == (
        pytest.approx(1e-4)
    )
    assert narrow.mitigation("weight-noise") == WeightNoise(deviation=math.sqrt(1e-9))
    assert narrow.mitigation("cbp") == ContinualBackprop(
        utility="contribution", replacement_rate=1e-3, maturity_threshold=5, decay=0.0
    )
    assert narrow.mitigation("redo") == ReDo(every=8, tau=0.01)
    assert narrow.mitigation("swr") == SWR(
        every=2048, share=1e-6, utility="gradient", choice="threshold"
    )


def test_input_permuted_changes_every_5000_examples():
    benchmark = BENCHMARKS["input-permuted"]
    stream, agent = benchmark.config.stream, benchmark.config.agent
    assert stream.num_tasks * stream.num_examples == 1_000_000
    assert (stream.num_examples, stream.test_examples, stream.pixels) == (5000, 0, "symmetric")
    assert (agent.optimizer, agent.batch_size, agent.epochs_per_task) == ("sgd", 1, 1)
    assert benchmark.config.network.hidden == (300, 150)
    assert benchmark.mitigation("upgd") == UPGD(noise=0.1, beta=0.9999, decay=1e-2)


def test_quick_is_the_beginning_of_small():
    small, quick = preset("small"), preset("quick")
    assert quick.config.stream.num_tasks == 30
    assert replace(quick.config.stream, num_tasks=500) == small.config.stream
    assert (quick.config.network, quick.config.agent) == (small.config.network, small.config.agent)
    assert quick.mitigation("l2-init") == small.mitigation("l2-init")


def test_narrow_quick_is_the_beginning_of_narrow_without_a_test_set():
    narrow, quick = preset("narrow"), preset("narrow-quick")
    assert (quick.config.stream.num_tasks, quick.config.stream.test_examples) == (40, 0)
    longer = replace(quick.config.stream, num_tasks=1000, test_examples=None)
    assert longer == narrow.config.stream
    assert quick.config.network == narrow.config.network
    assert quick.config.agent == narrow.config.agent
    assert quick.mitigation("l2-init") == L2Init(strength=1e-3)
