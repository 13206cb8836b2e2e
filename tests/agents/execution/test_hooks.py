"""Mitigations at work in the training of a classifier, alone and stacked, against closed forms."""

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from made_up_mitigations import (
    ALL,
    Average,
    BiasGradients,
    Clip,
    FeaturePenalty,
    GradientScale,
    L2Penalty,
    Noise,
    Replace,
    Shrink,
)
from torch import nn

from plasticity.agents.execution.hooks import make_hooks
from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.agents.networks import CNN, MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.mitigations import (
    PLAIN_METHOD,
    Churn,
    CReLU,
    EffectiveRank,
    InFeR,
    Isometry,
    LayerNorm,
    Mitigation,
    Parseval,
    ProximalFeatures,
    ReDo,
    SeededMethod,
    Shift,
    Spectral,
    Syre,
    Wasserstein,
    WeightDecay,
    network_spec,
)
from plasticity.seeds import child_seed
from plasticity.tasks.streams.base import TaskSpec

CLASSES, TRAIN, BATCH = 3, 30, 8  # 4 steps a task, of which the last is smaller


class RandomTask:
    """Task of random images; of several runs, stacked."""

    def __init__(self, index, seeds, dtype=torch.float64):
        self.index, self.num_train = index, TRAIN
        self.spec = TaskSpec(input_shape=(1, 4, 4), output_size=CLASSES)
        generators = [torch.Generator().manual_seed(100 * index + seed) for seed in seeds]
        images = [torch.randn(TRAIN, 1, 4, 4, generator=each, dtype=dtype) for each in generators]
        labels = [torch.randint(CLASSES, (TRAIN,), generator=each) for each in generators]
        stacked = len(seeds) > 1
        self.images = torch.stack(images) if stacked else images[0]
        self.labels = torch.stack(labels) if stacked else labels[0]

    def train_batch(self, indices):
        if indices.dim() == 1:
            return self.images[indices], self.labels[indices]
        run = torch.arange(len(indices)).unsqueeze(1)
        return self.images[run, indices], self.labels[run, indices]

    def test_batches(self, batch_size):
        yield self.images, self.labels


def network(seed, method=(), dtype=torch.float64, activation="tanh", architecture=CNN):
    torch.manual_seed(seed)
    sizes = {"channels": (3,)} if architecture is CNN else {}
    made = architecture(hidden=(6,), activation=activation, **sizes)
    return made.build(network_spec(method, made.spec((1, 4, 4), CLASSES))).to(dtype)


def config(**settings):
    defaults = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "batch_size": BATCH}
    return ClassifierConfig(**(defaults | {"train_evaluation_size": TRAIN} | settings))


def seeded(*method, seed=0):
    return SeededMethod(method, anchor_seed=3, noise_seed=seed)


def alone(method, seed=0, dtype=torch.float64, settings=None, **of_network):
    return Classifier(
        network(seed, method.mitigations, dtype, **of_network),
        config(**(settings or {})),
        method,
        data_order_seed=seed,
    )


def together(methods, seeds, settings=None, **of_network):
    mitigations = [method.mitigations for method in methods]
    return StackedClassifier(
        [network(*each, **of_network) for each in zip(seeds, mitigations, strict=True)],
        config(**(settings or {})),
        methods,
        data_order_seeds=seeds,
    )


def run(classifier, seeds, tasks=2, dtype=torch.float64, first=0):
    """Train on tasks from the first on, and return the rows of each."""
    rows = []
    for index in range(first, tasks):
        task = RandomTask(index, seeds, dtype)
        assert classifier.train(task)
        rows.append(classifier.finish(task))
    return rows


def weights(classifier, index=0):
    return {name: each.clone() for name, each in classifier._networks.state_dict(index).items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.equal(found[name], each), name


def assert_differ(found, expected):
    assert any(not torch.equal(found[name], each) for name, each in expected.items())


# ---- what is made --------------------------------------------------------------------------------


def test_no_hooks_are_made_for_what_does_not_act_on_steps():
    net = network(0)
    networks = SingleNetwork(net)
    optimizer = SingleOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    for method in ((), (Syre(), Shift()), (WeightDecay(), CReLU())):
        assert make_hooks(networks, optimizer, [SeededMethod(method)]) is None
    hooks = make_hooks(networks, optimizer, [SeededMethod((Syre(), ReDo(), Noise()))])
    assert hooks.names == "redo, noise"


def test_two_that_claim_the_same_are_refused():
    with pytest.raises(ValueError, match="redo and redo both set which units are reset"):
        SeededMethod((ReDo(every=3), ReDo(every=4)))


# ---- each hook against what is known of it ----------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_l2_penalty_is_weight_decay(momentum):
    settings = {"momentum": momentum}
    found = alone(seeded(L2Penalty(strength=0.2)), settings=settings)
    expected = alone(seeded(WeightDecay(strength=0.2)), settings=settings)
    run(found, [0])
    run(expected, [0])
    for name, each in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], each, rtol=1e-11, atol=1e-13)


def test_scaled_gradients_are_a_smaller_rate():
    found = alone(seeded(GradientScale(factor=0.25)))
    expected = alone(PLAIN_METHOD, settings={"learning_rate": 0.05 / 4})
    run(found, [0])
    run(expected, [0])
    for name, each in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], each, rtol=1e-11, atol=1e-13)


def test_the_gradient_of_a_penalty_on_features():
    """One step without momentum: the weights move by the gradient of loss and penalty, by autograd."""
    found = alone(
        seeded(FeaturePenalty(strength=0.3)), settings={"momentum": 0.0, "batch_size": TRAIN}
    )
    net, task = network(0), RandomTask(0, [0])
    indices = found._data_orders.get(0, 0, TRAIN)
    inputs, labels = task.train_batch(indices)
    maps = torch.tanh(nn.functional.conv2d(inputs, net.conv1.weight, net.conv1.bias, 2, 1))
    hidden = torch.tanh(net.fc1.weight @ maps.flatten(1).mT + net.fc1.bias.unsqueeze(1)).mT
    loss = nn.functional.cross_entropy(hidden @ net.fc2.weight.mT + net.fc2.bias, labels)
    loss = loss + 0.3 * (maps.square().mean() + hidden.square().mean())
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    run(found, [0], tasks=1)
    for (name, each), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(weights(found)[name], (each - 0.05 * gradient).detach())


def test_before_a_step_the_features_are_those_of_the_step():
    """Biases move by their gradient times their units' mean activity, on the very first step, too."""
    found = alone(seeded(BiasGradients()), settings={"momentum": 0.0, "batch_size": TRAIN})
    plain = alone(PLAIN_METHOD, settings={"momentum": 0.0, "batch_size": TRAIN})
    net = network(0)
    run(found, [0], tasks=1)
    run(plain, [0], tasks=1)
    inputs = RandomTask(0, [0]).images
    maps = torch.tanh(nn.functional.conv2d(inputs, net.conv1.weight, net.conv1.bias, 2, 1))
    hidden = torch.tanh(maps.flatten(1) @ net.fc1.weight.mT + net.fc1.bias)
    activity = {"conv1": maps.abs().mean((0, 2, 3)), "fc1": hidden.abs().mean(0)}
    for layer, expected in activity.items():
        name = f"{layer}.bias"
        before = net.get_parameter(name).detach()
        moved, whole = (weights(each)[name] - before for each in (found, plain))
        torch.testing.assert_close(moved, whole * expected.detach())
    assert_equal({"w": weights(found)["fc1.weight"]}, {"w": weights(plain)["fc1.weight"]})


def after_each_step(classifier):
    """Weights after each step from now on, in a list that grows."""
    found = []
    learn = classifier._train_step
    classifier._train_step = lambda *batch: (learn(*batch), found.append(weights(classifier)))
    return found


def test_a_cadence_counts_steps_across_tasks():
    """Weights are in the range after the steps 3 and 6 of 8, and leave it with the next one."""
    classifier = alone(seeded(Clip(every=3, bound=0.01)))
    steps = after_each_step(classifier)
    run(classifier, [0])
    largest = [max(each.abs().max().item() for each in after.values()) for after in steps]
    in_range = [bound <= 0.01 for bound in largest]
    assert in_range == [False, False, True, False, False, True, False, False]


def test_noise_is_that_of_its_own_generator():
    """With a rate of 0, the weights are the initial ones plus the noise of 4 steps, drawn by hand."""
    found = alone(seeded(Noise(sigma=0.5), seed=7), settings={"learning_rate": 1e-300})
    expected = weights(found)
    generator = torch.Generator().manual_seed(child_seed(7, "noise"))
    run(found, [0], tasks=1)
    for _ in range(4):
        for each in expected.values():
            each.add_(0.5 * torch.empty_like(each).normal_(generator=generator))
    assert_equal(weights(found), expected)


def test_an_average_is_what_is_evaluated_and_not_what_is_trained():
    found, plain = alone(seeded(Average(rate=0.1))), alone(PLAIN_METHOD)
    average, steps, task = weights(plain), after_each_step(plain), RandomTask(0, [0])
    plain.train(task)
    for after in steps:
        average = {name: 0.9 * each + 0.1 * after[name] for name, each in average.items()}
    found.train(task)
    assert_equal(weights(found), weights(plain))
    network_of_average = network(0)
    network_of_average.load_state_dict(average)
    accuracy = (network_of_average(task.images).argmax(-1) == task.labels).double().mean().item()
    (row,) = found.finish(task)
    assert row["test_accuracy"] == pytest.approx(accuracy)
    with found._evaluating():
        for name, each in weights(found).items():
            torch.testing.assert_close(each, average[name], rtol=1e-12, atol=1e-14)
    assert_equal(weights(found), weights(plain))


def test_a_boundary_acts_between_tasks_only():
    found = alone(seeded(Shrink(share=0.5), seed=5), settings={"momentum": 0.0})
    plain = alone(PLAIN_METHOD, settings={"momentum": 0.0})
    ((row,),) = run(found, [0], tasks=1)
    run(plain, [0], tasks=1)
    assert "boundaries" not in row
    assert_equal(weights(found), weights(plain))
    expected = weights(plain)
    generator = torch.Generator().manual_seed(child_seed(5, "shrink"))
    fan_in = {"conv1": 9, "fc1": 12, "fc2": 6}
    for name, each in expected.items():
        bound = 1 / math.sqrt(fan_in[name.split(".")[0]])
        each.lerp_(torch.empty_like(each).uniform_(-bound, bound, generator=generator), 0.5)
    assert not found.train(RandomTask(1, [0]), lambda: True)  # stopped before its first step
    for name, each in expected.items():
        torch.testing.assert_close(weights(found)[name], each)
    ((row,),) = run(found, [0], first=1)
    assert row["boundaries"] == 1  # not again


def test_reset_units_have_fresh_weights_right_after_the_step():
    """With momentum, so that a reset before the step would be moved by it."""
    method = seeded(ReDo(every=4, tau=1e9), seed=9)  # every unit, after the last step of the task
    found = alone(method, activation="relu")
    run(found, [0], tasks=1)
    generator = torch.Generator().manual_seed(child_seed(9, "redo"))
    after = weights(found)
    for layer, fan_in in (("conv1", 9), ("fc1", 12)):
        expected = torch.empty_like(after[f"{layer}.weight"])
        expected.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
        if layer == "fc1":
            expected.zero_()  # its inputs were reset, too
        assert torch.equal(after[f"{layer}.weight"], expected)
        assert (after[f"{layer}.bias"] == 0).all()
    assert (after["fc2.weight"] == 0).all()
    state = found.optimizer.state_dict()["state"]
    buffers = {
        tuple(each["momentum_buffer"].shape): each["momentum_buffer"] for each in state.values()
    }
    for shape in ((3, 1, 3, 3), (6, 12), (3, 6)):
        assert (buffers[shape] == 0).all()


# ---- composition, and what must not change ---------------------------------------------------------


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("method", [(ReDo(every=1, tau=0.0),), (Noise(sigma=0.0),)])
def test_a_mitigation_without_effect_leaves_every_bit(method, stacked):
    """tanh units are never exactly silent, so ReDo with tau=0 looks at each step and resets none."""
    seeds = [0, 1] if stacked else [0]
    if stacked:
        found = together([seeded(*method, seed=seed) for seed in seeds], seeds)
        plain = together([PLAIN_METHOD] * 2, seeds)
    else:
        found, plain = alone(seeded(*method)), alone(PLAIN_METHOD)
    torch.manual_seed(0)
    rows = run(found, seeds)
    random = torch.get_rng_state()
    torch.manual_seed(0)
    expected = run(plain, seeds)
    assert torch.equal(random, torch.get_rng_state())
    for own, other in zip(rows, expected, strict=True):
        for row, plain_row in zip(own, other, strict=True):
            assert {name: row[name] for name in plain_row} == plain_row
            assert all(number in (0, 4) for name, number in row.items() if name not in plain_row)
    for index in range(len(seeds)):
        assert_equal(weights(found, index), weights(plain, index))


def test_mitigations_act_in_the_order_written():
    """Noise and then clipping stays in the range; clipping and then noise does not."""

    def largest(*method):
        classifier = alone(seeded(*method))
        run(classifier, [0])
        return max(each.abs().max().item() for each in classifier.parameters.values())

    clip, noise = Clip(every=1, bound=0.1), Noise(sigma=0.1)
    assert largest(noise, clip) <= 0.1
    assert largest(clip, noise) > 0.1


def test_each_mitigation_has_its_own_noise():
    """The noise of one is the same with another that draws, too."""
    quiet = {"learning_rate": 1e-300}
    noise = alone(seeded(Noise(sigma=0.5)), settings=quiet)
    both = alone(seeded(Shrink(share=0.0), Noise(sigma=0.5)), settings=quiet)
    run(noise, [0])
    run(both, [0])
    assert_equal(weights(both), weights(noise))


# ---- stacked -----------------------------------------------------------------------------------------

PAIRS = [
    [(L2Penalty(strength=strength),) for strength in (0.0, 0.1, 0.5)],
    [(FeaturePenalty(strength=strength),) for strength in (0.0, 0.3, 1.0)],
    [(GradientScale(factor=factor),) for factor in (0.5, 1.0, 2.0)],
    [(BiasGradients(),)] * 3,
    [(Clip(every=3, bound=bound),) for bound in (0.05, 0.1, 0.3)],
    [(Noise(sigma=sigma),) for sigma in (0.0, 0.01, 0.1)],
    [(Average(rate=rate),) for rate in (0.01, 0.1, 1.0)],
    [(Shrink(share=share),) for share in (0.0, 0.5, 0.9)],
    [(ReDo(every=3, tau=tau),) for tau in (0.0, 0.8, 1.1)],
    [(Replace(share=share),) for share in (0.0, 0.8, 1.0)],
    [(LayerNorm(), ReDo(every=3, tau=tau)) for tau in (0.5, 0.8, 1.0)],
    [ALL] * 3,
    [
        (Syre(strength=0.1), ReDo(every=3, tau=0.9)),
        (ReDo(every=3, tau=0.9),),
        (ReDo(every=3, tau=0.5), Shift(sigma=0.5)),
    ],
]
SEEDS = [4, 5, 4]


@pytest.mark.parametrize("methods", PAIRS, ids=lambda pair: "+".join(m.name for m in pair[0]))
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stacked_networks_train_like_separate_ones(methods, optimizer):
    """Three networks with three channels, so that a setting along the wrong axis would be no error."""
    settings = {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    given = [seeded(*method, seed=seed) for method, seed in zip(methods, SEEDS, strict=True)]
    stacked = together(given, SEEDS, settings)
    rows = run(stacked, SEEDS, tasks=3)
    for index, (method, seed) in enumerate(zip(given, SEEDS, strict=True)):
        single = alone(method, seed, settings=settings)
        for found, (expected,) in zip(rows, run(single, [seed], tasks=3), strict=True):
            assert found[index].keys() == expected.keys()
            for name, number in expected.items():
                assert found[index][name] == pytest.approx(number, rel=1e-8, abs=1e-10), name
        for name, each in weights(single).items():
            torch.testing.assert_close(weights(stacked, index)[name], each, rtol=1e-8, atol=1e-10)


def test_each_network_is_drawn_anew_with_the_spread_of_its_own_weights():
    """Networks that declare no initial distributions: reset units have the spread that they had at first."""

    def undeclared(seed):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        made[1].weight.data *= 1 + seed
        return made

    methods = [seeded(ReDo(every=2, tau=1.0), seed=seed) for seed in SEEDS]
    networks = [undeclared(seed) for seed in SEEDS]
    stacked = StackedClassifier(networks, config(), methods, data_order_seeds=SEEDS)
    found = run(stacked, SEEDS)
    for index, (seed, method) in enumerate(zip(SEEDS, methods, strict=True)):
        single = Classifier(undeclared(seed), config(), method, data_order_seed=seed)
        (expected,) = zip(*run(single, [seed]), strict=True)
        assert [row["reset_units/1"] for row in expected] == [
            rows[index]["reset_units/1"] for rows in found
        ]
        assert expected[0]["reset_units/1"] > 0
        for name, each in weights(single).items():
            torch.testing.assert_close(weights(stacked, index)[name], each, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
def test_convolutions_as_matrix_products_have_the_same_features(downsampling):
    methods = [
        seeded(ReDo(every=3, tau=tau), seed=seed)
        for tau, seed in zip((0.5, 0.8, 1.1), SEEDS, strict=True)
    ]
    architecture = partial(CNN, downsampling=downsampling)

    def make(convolution):
        made = architecture(channels=(3, 4), hidden=(6,), activation="tanh")
        networks = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            networks.append(made.build(made.spec((1, 4, 4), CLASSES)).double())
        return StackedClassifier(
            networks, config(), methods, data_order_seeds=SEEDS, convolution=convolution
        )

    found, expected = make("products"), make("grouped")
    rows = run(found, SEEDS), run(expected, SEEDS)
    resets = [name for name in rows[0][0][0] if name.startswith("reset_units/conv")]
    assert resets == ["reset_units/conv1", "reset_units/conv2"]
    for own, other in zip(*rows, strict=True):
        assert [{name: row[name] for name in resets} for row in own] == [
            {name: row[name] for name in resets} for row in other
        ]
    for index in range(3):
        for name, each in weights(expected, index).items():
            torch.testing.assert_close(weights(found, index)[name], each, rtol=1e-8, atol=1e-10)


def test_methods_that_cannot_be_stacked_are_refused():
    with pytest.raises(ValueError, match=r"redo\.every must be equal in all stacked networks"):
        together([seeded(ReDo(every=3)), seeded(ReDo(every=4))], [0, 1])
    with pytest.raises(ValueError, match="must be of one kind, not"):
        together([seeded(ReDo()), seeded()], [0, 1])
    with pytest.raises(ValueError, match="must be of one kind: redo, noise"):
        together([seeded(ReDo()), seeded(Noise())], [0, 1])


@pytest.mark.parametrize("method", [ALL, (ReDo(every=1, tau=1.0),)], ids=["all", "redo"])
def test_a_frozen_network_stays_as_it_is(method):
    given = [seeded(*method, seed=seed) for seed in SEEDS]
    stacked, expected = together(given, SEEDS), together(given, SEEDS)
    run(stacked, SEEDS, tasks=1)
    run(expected, SEEDS, tasks=1)
    stacked.freeze(1)
    before = weights(stacked, 1)
    run(stacked, SEEDS, first=1)
    run(expected, SEEDS, first=1)
    assert_equal(weights(stacked, 1), before)
    for index in (0, 2):
        assert_equal(weights(stacked, index), weights(expected, index))


# ---- saving and loading ------------------------------------------------------------------------------


def stop_after(steps):
    remaining = iter(range(steps))
    return lambda: next(remaining, None) is None


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("steps", [0, 1, 3, 4])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("method", [ALL, (ReDo(every=3, tau=0.9),)], ids=["all", "redo"])
def test_training_continues_to_the_bit_from_any_step(task, steps, stacked, method):
    seeds = SEEDS if stacked else SEEDS[:1]
    given = [seeded(*method, seed=seed) for seed in seeds]

    def make():
        return together(given, seeds) if stacked else alone(given[0], seeds[0])

    whole, first, second = make(), make(), make()
    rows = run(whole, seeds)
    run(first, seeds, tasks=task)
    assert first.train(RandomTask(task, seeds), stop_after(steps)) == (steps == 4)
    for index in range(len(seeds)):
        second.load_state_dict(copy.deepcopy(first.state_dict(index)), index)
        # as saved again before it goes on
        again = second.state_dict(index)["mitigations"]
        assert again.keys() == first.state_dict(index)["mitigations"].keys()
    found = run(second, seeds, first=task)
    assert found == rows[task:]
    for index in range(len(seeds)):
        assert_equal(weights(second, index), weights(whole, index))


@pytest.mark.parametrize("method", [ALL, (ReDo(every=3, tau=0.9),)], ids=["all", "redo"])
def test_states_go_from_single_to_stacked_and_back(method):
    given = [seeded(*method, seed=seed) for seed in SEEDS]
    singles = [alone(each, seed) for each, seed in zip(given, SEEDS, strict=True)]
    stacked = together(given, SEEDS)
    for index, (single, seed) in enumerate(zip(singles, SEEDS, strict=True)):
        run(single, [seed], tasks=1)
        single.train(RandomTask(1, [seed]), stop_after(2))
        stacked.load_state_dict(copy.deepcopy(single.state_dict()), index)
    stacked.train(RandomTask(1, SEEDS), stop_after(1))
    for index, (each, seed) in enumerate(zip(given, SEEDS, strict=True)):
        back, whole = alone(each, seed), alone(each, seed)
        back.load_state_dict(copy.deepcopy(stacked.state_dict(index)))
        ((row,),) = run(back, [seed], first=1)
        expected = run(whole, [seed])[1][0]
        assert row.keys() == expected.keys()
        for name, number in expected.items():
            assert row[name] == pytest.approx(number, rel=1e-8, abs=1e-10), name
        for name, own in weights(whole).items():
            torch.testing.assert_close(weights(back)[name], own, rtol=1e-8, atol=1e-10)


def test_a_state_from_the_beginning_undoes_what_was_trained():
    """Loaded into a network that has trained, a state from before the first step has the first average."""
    method = seeded(Average(), Noise())
    found, whole = alone(method), alone(method)
    beginning = copy.deepcopy(found.state_dict())
    run(found, [0])
    found.load_state_dict(beginning)
    assert run(found, [0]) == run(whole, [0])
    assert_equal(weights(found), weights(whole))


@pytest.mark.parametrize(
    ("saved", "here"), [((ReDo(),), (Noise(),)), ((), (ReDo(),)), ((ReDo(),), ()), (ALL, ALL[:3])]
)
def test_a_state_of_other_mitigations_is_refused_and_changes_nothing(saved, here):
    state = alone(seeded(*saved), seed=1).state_dict()
    found = alone(seeded(*here))
    before = weights(found)
    with pytest.raises(ValueError, match="The state belongs to the mitigations"):
        found.load_state_dict(state)
    assert_equal(weights(found), before)


def test_a_loaded_average_is_not_measured_before_it_is_in_use():
    found = alone(seeded(Average()))
    saved = copy.deepcopy(found.state_dict())
    with found._evaluating():  # nothing was trained: the weights themselves
        pass
    other = alone(seeded(Average()))
    other.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="train before you measure"), other._evaluating():
        pass


# ---- compiled ----------------------------------------------------------------------------------------

COMPILED = [
    (ReDo(every=3, tau=0.9),),
    (Replace(),),
    (FeaturePenalty(),),
    (L2Penalty(), Clip(every=2), Noise()),
]
# all that a captured step may contain: products, vectors that follow, further passes, copies of parameters
PENALTIES = [
    (Parseval(), Wasserstein(strength=0.1)),
    (Spectral(strength=0.1),),
    (Isometry(), EffectiveRank(every=3, examples=12)),
    (Churn(strength=1.0, memory=20), ProximalFeatures(every=3)),
    (InFeR(scale=2.0),),
]


@pytest.mark.parametrize("method", COMPILED, ids=lambda m: "+".join(each.name for each in m))
@pytest.mark.parametrize("stacked", [False, True])
def test_a_compiled_forward_pass_records_features(monkeypatch, method, stacked):
    """Traced by torch.compile as one graph, without the compiler behind it."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    seeds = SEEDS if stacked else SEEDS[:1]
    given = [seeded(*method, seed=seed) for seed in seeds]
    rows = []
    for settings in ({"compile": True}, {}):
        classifier = (
            together(given, seeds, settings)
            if stacked
            else alone(given[0], seeds[0], settings=settings)
        )
        rows.append((run(classifier, seeds), [weights(classifier, i) for i in range(len(seeds))]))
    (found, found_weights), (expected, expected_weights) = rows
    assert found == expected
    for own, other in zip(found_weights, expected_weights, strict=True):
        assert_equal(own, other)


@pytest.mark.parametrize(
    "method", COMPILED + PENALTIES, ids=lambda m: "+".join(each.name for each in m)
)
@pytest.mark.parametrize("stacked", [False, True])
def test_a_captured_step_equals_the_eager_step(cuda_graphs_on_cpu, method, stacked):
    seeds = SEEDS if stacked else SEEDS[:1]
    given = [seeded(*method, seed=seed) for seed in seeds]

    def make(settings):
        if stacked:
            return together(given, seeds, settings)
        return alone(given[0], seeds[0], settings=settings)

    captured, eager = make({"compile": True}), make({})
    assert run(captured, seeds, tasks=4) == run(eager, seeds, tasks=4)
    for index in range(len(seeds)):
        assert_equal(weights(captured, index), weights(eager, index))
    assert len(cuda_graphs_on_cpu) >= 1


# ---- other forms ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Watch(Mitigation):
    """Mitigation that notes what it sees after each step, on the host."""

    name: ClassVar[str] = "watch"
    claims: ClassVar[str] = "nothing"
    reads_units: ClassVar[bool] = True
    seen: ClassVar[list] = []

    def after_step(self, context):
        features = {layer: context.features(layer).clone() for layer in context.units}
        self.seen.append((context.step, context.task, context.inputs.clone(), features))

    def boundary(self, context):
        batches = list(context.batches())
        self.seen.append(("boundary", context.task, len(batches), batches[0][0].shape))


@pytest.mark.parametrize("architecture", [CNN, MLP])
def test_a_mitigation_sees_step_task_inputs_and_features(architecture):
    Watch.seen.clear()
    found = alone(seeded(Watch()), architecture=architecture)
    run(found, [0])
    steps = [each[:2] for each in Watch.seen]
    assert steps == [
        *[(1, 0), (2, 0), (3, 0), (4, 0)],
        ("boundary", 1),
        *[(5, 1), (6, 1), (7, 1), (8, 1)],
    ]
    assert Watch.seen[4][2:] == (1, (TRAIN, 1, 4, 4))
    net, (_, _, inputs, features) = network(0, architecture=architecture), Watch.seen[0]
    expected = {}
    handles = [
        net.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, outputs, layer=layer: expected.update({layer: outputs})
        )
        for layer in features
    ]
    net(inputs)
    assert handles
    for layer, found_features in features.items():
        outputs = expected[layer].detach()
        if outputs.dim() == 4:
            outputs = outputs.permute(1, 0, 2, 3).flatten(1).mT
        for unit in range(outputs.shape[1]):
            own, other = (each[:, unit].sort().values for each in (found_features, outputs))
            torch.testing.assert_close(own, other)


def test_units_of_a_crelu_are_reset_in_both_columns():
    method = seeded(CReLU(keep_units=True), ReDo(every=4, tau=1e9))
    found = alone(method, activation="relu")
    ((row,),) = run(found, [0], tasks=1)
    assert (row["reset_units/conv1"], row["reset_units/fc1"]) == (3, 6)
    assert weights(found)["fc2.weight"].shape == (CLASSES, 12)
    assert (weights(found)["fc2.weight"] == 0).all()
    assert (weights(found)["fc1.weight"] == 0).all()
