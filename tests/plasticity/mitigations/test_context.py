import math

import pytest
import torch
from networks_in_training import (
    adam,
    context_of,
    everything,
    images,
    marker,
    single,
    stacked,
    step,
)

from plasticity.initialization import Constant, Normal
from plasticity.mitigations import Churn
from plasticity.mitigations.context import Context
from plasticity.mitigations.hooks import Hooks
from plasticity.mitigations.progress import Progress


def alone(seed=0):
    model = marker()
    optimizer = adam(model)
    return model, optimizer, context_of(single(model, optimizer, images()), seed)


def three(*seeds):
    networks, run, optimizer = stacked([marker(seed) for seed in range(3)], images())
    return networks, run, optimizer, context_of(networks, *(seeds or (1, 2, 3)))


def test_gradients_are_of_the_parameters_that_have_one():
    model, _, context = alone()
    assert context.gradients == {}
    model.fc.weight.square().sum().backward()
    assert context.gradients.keys() == {"fc.weight"}
    assert context.gradients["fc.weight"] is model.fc.weight.grad


def test_features_come_from_the_layer_that_reads_them():
    _, _, context = alone()
    with pytest.raises(RuntimeError, match="features of 'conv' are not recorded: set reads_units"):
        context.features("conv")
    flat, features = torch.randn(4, 12), torch.randn(4, 5)
    context._progress.layer_inputs = {"fc": [flat], "head": [features]}
    assert torch.equal(context.features("fc"), features)
    by_channel = flat.view(4, 3, 4)
    for channel in range(3):
        found = context.features("conv")[:, channel]
        assert torch.equal(found.sort().values, by_channel[:, channel].flatten().sort().values)
    with pytest.raises(KeyError):
        context.features("head")  # the output has none


def test_features_of_several_forward_passes_are_joined():
    _, _, context = alone()
    first, second = torch.randn(4, 5), torch.randn(3, 5)
    context._progress.layer_inputs = {"head": [first, second]}
    assert torch.equal(context.features("fc"), torch.cat([first, second]))


def test_a_setting_of_each_network_broadcasts_along_the_networks():
    """Three networks of three units: a plain (3,) would go along the units, without an error."""
    _, _, _, context = three()
    tau = torch.tensor([0.1, 0.2, 0.3])
    scores = torch.full((3, 3), 0.2)
    found = scores <= context.per_run(tau, scores)
    assert found.tolist() == [[False] * 3, [True] * 3, [True] * 3]
    assert found.tolist() != (scores <= tau).tolist()
    assert context.per_run(tau, torch.zeros(3, 4, 5)).shape == (3, 1, 1)
    assert context.per_run(tau, torch.zeros(3)).shape == (3,)
    assert context.per_run(0.5, scores) == 0.5
    half = context.per_run(tau, scores.bfloat16())
    assert half.dtype == torch.bfloat16  # as a number would be rounded


def test_statistics_over_samples():
    _, _, context = alone()
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 6.0]])
    assert context.mean_over_samples(values).tolist() == [2.0, 2.0]
    assert context.any_over_samples(values > 2).tolist() == [True, True]
    assert context.any_over_samples(values > 5).tolist() == [False, True]
    assert context.mean_over_samples(torch.stack([values, 2 * values])).tolist() == [[2, 2], [4, 4]]


def test_each_network_draws_from_its_own_generator():
    _, _, _, context = three(5, 6, 5)
    noise = context.draw(Normal(2.0), torch.empty(3, 4, 2))
    for seed, own in zip((5, 6, 5), noise, strict=True):
        expected = torch.empty(4, 2).normal_(
            0.0, 2.0, generator=torch.Generator().manual_seed(seed)
        )
        assert torch.equal(own, expected)
    _, _, single_context = alone(6)
    assert torch.equal(single_context.draw(Normal(2.0), torch.empty(4, 2)), noise[1])


def test_a_fresh_parameter_is_a_draw_of_its_initial_weights():
    _, _, _, context = three(5, 6, 7)
    random = torch.get_rng_state()
    found = context.fresh("fc.weight").clone()
    bound = 1 / math.sqrt(12)
    for seed, own in zip((5, 6, 7), found, strict=True):
        expected = torch.empty(5, 12).uniform_(
            -bound, bound, generator=torch.Generator().manual_seed(seed)
        )
        assert torch.equal(own, expected)
    assert not torch.equal(context.fresh("fc.weight"), found)  # another draw
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    _, _, own = alone(6)
    assert torch.equal(own.fresh("fc.weight"), found[1])


def test_batches_are_there_at_a_boundary_only():
    _, _, context = alone()
    with pytest.raises(RuntimeError, match="no batches of the task that begins"):
        context.batches()


def test_counted_numbers_add_up():
    _, _, _, context = three()
    context.count("resets", torch.tensor([1, 2, 3]))
    context.count("resets", torch.tensor([10, 0, 0]))
    assert context.counts["resets"].tolist() == [11, 2, 3]


def test_one_of_several_networks_acts_on_their_memory():
    networks, run, optimizer, context = three()
    step(run, optimizer, images().expand(3, *images().shape))
    context.state = {"age": torch.zeros(3, 5), "bound": torch.zeros(3)}
    before = networks.parameters["fc.weight"].detach().clone()
    own = context.of_run(1)
    assert own.lead == ()
    own.state["age"].add_(1)
    own.state["bound"] = torch.tensor(4.0)  # another tensor, not in place
    own.reset_units({"fc": torch.tensor([True, False, False, False, False])})
    context.take_back(own, 1)
    context.take_back(context.of_run(0), 0)
    assert context.state["age"].sum(1).tolist() == [0, 5, 0]
    assert context.state["bound"].tolist() == [0, 4, 0]
    assert context.counts["reset_units/fc"].tolist() == [0, 1, 0]
    after = networks.parameters["fc.weight"]
    assert (after != before).any(-1).nonzero().tolist() == [[1, 0]]
    moments = networks.optimizer.moments("fc.weight")["exp_avg"]
    assert (moments == 0).all(-1).nonzero().tolist() == [[1, 0]]


def test_a_state_is_loaded_into_one_network():
    _, _, _, context = three()
    context.state = {"age": torch.zeros(3, 2)}
    context.count("resets", torch.tensor([1, 2, 3]))
    context.count("others", torch.tensor([1, 2, 3]))
    context.load({"age": torch.tensor([4.0, 5.0])}, {"resets": torch.tensor(9.0)}, 2)
    assert context.state["age"].tolist() == [[0, 0], [0, 0], [4, 5]]
    assert context.counts["resets"].tolist() == [1, 2, 9]
    assert context.counts["others"].tolist() == [1, 2, 0]


def test_progress_is_shared():
    networks = single(marker(), adam(marker()), images())
    progress = Progress(step=4, task=2, inputs=images())
    context = Context(networks, progress, [torch.Generator()])
    assert (context.step, context.task) == (4, 2)
    assert context.inputs is progress.inputs
    progress.forget_step()
    with pytest.raises(RuntimeError, match=r"no inputs between two steps: .* batches\(\)"):
        _ = context.inputs
    progress.step = 5
    assert context.step == 5
    outputs = context.forward(images(), {"head.weight": torch.zeros(2, 5)})
    assert torch.equal(outputs, networks.parameters["head.bias"].expand(6, -1))


def test_a_constant_needs_no_generator():
    _, _, _, context = three()
    states = [each.get_state() for each in context.generators]
    assert (context.draw(Constant(0.5), torch.empty(3, 2)) == 0.5).all()
    for state, each in zip(states, context.generators, strict=True):
        assert torch.equal(state, each.get_state())


# ---- entries, moments, rates ---------------------------------------------------------------------


def test_replaced_entries_lose_their_moments_and_no_others():
    networks, run, optimizer, context = three()
    step(run, optimizer, images().expand(3, *images().shape))
    before = everything(networks)
    chosen = torch.zeros(3, 5, 12, dtype=torch.bool)
    chosen[0, 1, 2] = chosen[2, 4, 0] = True
    context.replace("fc.weight", chosen, torch.tensor(7.0))
    after = everything(networks)
    for name, each in after.items():
        changed = each != before[name]
        if name.startswith("fc.weight"):
            assert torch.equal(changed, chosen), name
            assert (each[chosen] == (0 if "/" in name else 7)).all()
        else:
            assert not changed.any(), name


def test_cleared_moments_are_zero_and_weights_stay():
    networks, run, optimizer, context = three()
    step(run, optimizer, images().expand(3, *images().shape))
    before = everything(networks)
    context.clear_moments("head.bias")
    changed = {name for name, each in everything(networks).items() if (each != before[name]).any()}
    assert changed == {"head.bias/0", "head.bias/1"}


def test_a_learning_rate_broadcasts_to_its_parameter():
    _, _, optimizer, context = three()
    optimizer.set_learning_rate([1.0, 2.0, 3.0])
    assert (context.learning_rate("conv.weight") * torch.ones(3, 3, 1, 2, 2))[1].unique() == 2
    assert context.of_run(2).learning_rate("fc.bias") == 3


def test_a_pass_with_features_is_that_of_the_network():
    networks, run, _, context = three()
    inputs = torch.stack([images(seed=seed) for seed in range(3)])
    outputs, features = context.forward_with_features(inputs)
    torch.testing.assert_close(outputs, run(inputs))
    assert {name: tuple(each.shape) for name, each in features.items()} == {
        "conv": (3, 24, 3),
        "fc": (3, 6, 5),
    }
    alone = context_of(networks.of_run(1))
    _, own = alone.forward_with_features(inputs[1])
    torch.testing.assert_close(own["conv"], features["conv"][1])
    (gradient,) = torch.autograd.grad(features["fc"].sum(), networks.parameters["fc.bias"])
    expected = (1 - features["fc"].square()).sum(1)  # of tanh
    torch.testing.assert_close(gradient, expected)


def test_a_setting_is_read_once_as_the_decimals_that_were_given():
    networks, _, _ = stacked([marker(seed) for seed in range(2)], images())
    context = context_of(networks, 0, 1)
    assert context.plain_numbers(0.3) == [0.3, 0.3]
    rates = torch.tensor([1e-4, 0.3])  # in float32, neither is the number that Python has
    assert context.plain_numbers(rates) == [1e-4, 0.3]
    assert context.plain_numbers(rates) is context.plain_numbers(rates)


def test_an_average_has_the_digits_of_float32_at_least():
    context = context_of(single(marker(), adam(marker()), images()))
    values = torch.ones(3, 5000, 2, dtype=torch.bfloat16) * torch.tensor([1.0, 3.0])
    found = context.averaged(values.to(torch.bfloat16), (0, 1))
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, 3.0]
    assert context.averaged(values.double(), (0, 1)).dtype == torch.float64


def test_an_example_has_the_shape_of_one_input():
    networks, _, _, context = three()
    with pytest.raises(RuntimeError, match="set reads_example=True"):
        _ = context.example
    hooks = Hooks([(Churn(memory=4),)] * 3, networks, range(3))
    hooks.begin(lambda: images().expand(3, *images().shape))
    assert hooks.state_dict(1)["churn"]["state"]["recent"].shape == (4, 1, 3, 3)
