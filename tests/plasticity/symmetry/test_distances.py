import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plasticity.symmetry.distances import (
    attention_heads,
    degree_of_symmetry,
    double_rotation_degree,
    neuron_swap_projector,
    neuron_vectors,
    permutation_distance,
    rescaling_distance,
    rotation_eigenvalues,
    sign_flip_distance,
    split_heads,
    tie_neurons_,
)
from plasticity.symmetry.projectors import (
    group_projector,
    reflection_matrix,
    symmetry_distance,
)

examples = settings(max_examples=30, deadline=None, database=None, derandomize=True)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def layer_weights(kind, neurons, seed=0):
    """Draw incoming weights, outgoing weights and incoming bias of a hidden layer."""
    incoming_shape, outgoing_shape = {
        "dense": ((neurons, 5), (4, neurons)),
        "convolution": ((neurons, 2, 3, 3), (3, neurons, 3, 3)),
        "flattened": ((neurons, 2, 3, 3), (4, neurons * 6)),
        "one-dimensional": ((neurons, 2, 3), (3, neurons, 5)),
    }[kind]
    return (
        normal(*incoming_shape, seed=seed),
        normal(*outgoing_shape, seed=seed + 1),
        normal(neurons, seed=seed + 2),
    )


def relabelled(kind, incoming, outgoing, bias, order):
    """Return the same network with its neurons in another order."""
    if kind == "flattened":
        by_channel = outgoing.unflatten(1, (len(order), -1))
        return incoming[order], by_channel[:, order].flatten(1), bias[order]
    return incoming[order], outgoing[:, order], bias[order]


def as_copy(kind, incoming, outgoing, bias, source, target):
    """Return the network with one neuron replaced by a copy of another."""
    order = list(range(len(bias)))
    order[target] = source
    return relabelled(kind, incoming, outgoing, bias, order)


kinds = st.sampled_from(["dense", "convolution", "flattened", "one-dimensional"])
seeds = st.integers(0, 10_000)

# Permutation


def test_hand_computed_dense_layer():
    # Vectors (incoming, bias, outgoing): a = (3, 4, 0, 0), b = (0, 0, 1, 0), c = (0, 0, 0, 2).
    # Norms 5, 1, 2: sorted b, c, a. |b - c| = √(1 + 4), |c - a| = √(9 + 16 + 4).
    incoming = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    bias = torch.tensor([0.0, 1.0, 0.0])
    outgoing = torch.tensor([[0.0, 0.0, 2.0]])
    distances = permutation_distance(incoming, outgoing, bias)
    torch.testing.assert_close(distances, torch.tensor([5.0, 29.0]).sqrt())
    # Without the bias, b is 0: sorted b, c, a. |b - c| = 2.
    torch.testing.assert_close(
        permutation_distance(incoming, outgoing), torch.tensor([4.0, 29.0]).sqrt()
    )
    torch.testing.assert_close(
        sign_flip_distance(incoming, outgoing, bias), torch.tensor([5.0, 1.0, 2.0])
    )
    torch.testing.assert_close(
        rescaling_distance(incoming, outgoing, bias), torch.tensor([5.0, 1.0, 2.0])
    )


def test_hand_computed_flattened_convolution():
    # Two channels of 1 × 1 kernels; the dense layer reads 2 positions of each, channel 0 first.
    # Vectors: (1, 1, 2) and (2, 4, 6); difference (1, 3, 4): √26.
    incoming = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    outgoing = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    torch.testing.assert_close(
        permutation_distance(incoming, outgoing), torch.tensor([26.0]).sqrt()
    )


def test_hand_computed_convolution_pair():
    # Channel c goes out through outgoing[:, c]: (1, 2 | 5, 6) and (3, 4 | 7, 8) and incoming 1 and 0.
    # Difference (1, -2, -2, -2, -2): √17.
    incoming = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    outgoing = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]).unsqueeze(2)
    assert outgoing.shape == (2, 2, 1, 2)
    torch.testing.assert_close(
        permutation_distance(incoming, outgoing), torch.tensor([17.0]).sqrt()
    )


@examples
@given(kinds, st.integers(2, 8), seeds, st.randoms(use_true_random=False))
def test_distances_do_not_depend_on_the_neurons_labels(kind, neurons, seed, random):
    weights = layer_weights(kind, neurons, seed)
    order = random.sample(range(neurons), neurons)
    torch.testing.assert_close(
        permutation_distance(*relabelled(kind, *weights, order)), permutation_distance(*weights)
    )
    torch.testing.assert_close(
        sign_flip_distance(*relabelled(kind, *weights, order)), sign_flip_distance(*weights)[order]
    )


@examples
@given(kinds, st.integers(2, 8), seeds, st.data())
def test_zero_exactly_for_identical_neurons(kind, neurons, seed, data):
    weights = layer_weights(kind, neurons, seed)
    assert (permutation_distance(*weights) > 0).all()
    source = data.draw(st.integers(0, neurons - 1))
    target = data.draw(st.integers(0, neurons - 1).filter(lambda other: other != source))
    distances = permutation_distance(*as_copy(kind, *weights, source, target))
    assert distances.shape == (neurons - 1,)
    assert (distances == 0).sum() == 1


@pytest.mark.parametrize("part", [0, 1, 2], ids=["incoming", "outgoing", "bias"])
def test_neurons_that_differ_in_one_part_are_not_identical(part):
    copies = list(as_copy("dense", *layer_weights("dense", 4), 0, 2))
    neuron = (2,) if part != 1 else (slice(None), 2)
    copies[part][neuron] += 0.5
    differing = {0: math.sqrt(5 * 0.25), 1: math.sqrt(4 * 0.25), 2: 0.5}[part]
    vectors = neuron_vectors(*copies)
    assert torch.linalg.vector_norm(vectors[0] - vectors[2]).item() == pytest.approx(differing)
    assert (permutation_distance(*copies) > 0).all()


def test_neighbours_match_a_plain_sort():
    incoming, outgoing, bias = layer_weights("flattened", 7)
    rows = []
    for neuron in range(7):
        columns = outgoing[:, neuron * 6 : (neuron + 1) * 6].flatten()
        rows.append([*incoming[neuron].flatten().tolist(), bias[neuron].item(), *columns.tolist()])
    rows.sort(key=lambda row: math.hypot(*row))
    expected = [math.dist(one, other) for one, other in itertools.pairwise(rows)]
    assert permutation_distance(incoming, outgoing, bias).tolist() == pytest.approx(expected)


def test_identical_neurons_of_a_wide_float32_layer_stay_neighbours():
    # 4000 norms within a few per cent: in float32 many would coincide, and separate the copies.
    incoming, outgoing = normal(4000, 300).float(), normal(1, 4000, seed=1).float()
    incoming[2000:], outgoing[:, 2000:] = incoming[:2000], outgoing[:, :2000]
    distances = permutation_distance(incoming, outgoing)
    assert distances.dtype == torch.float32
    assert (distances == 0).sum() == 2000


def test_a_single_neuron_has_no_pairs():
    distances = permutation_distance(torch.ones(1, 3), torch.ones(2, 1))
    assert distances.shape == (0,)
    assert degree_of_symmetry(distances, 0.1).item() == 0


def test_low_precision_and_graphs():
    weights = [weight.float().requires_grad_() for weight in layer_weights("dense", 5)]
    assert not permutation_distance(*weights).requires_grad
    halves = [weight.detach().bfloat16() for weight in weights]
    distances = permutation_distance(*halves)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(
        distances, permutation_distance(*(half.double() for half in halves)).float()
    )


def test_a_diverged_neuron_gives_nan():
    incoming, outgoing, bias = layer_weights("dense", 4)
    incoming[1, 0] = math.nan
    distances = permutation_distance(incoming, outgoing, bias)
    assert distances.isnan().sum() == 1
    assert distances[:2].isfinite().all()
    norms = sign_flip_distance(incoming, outgoing, bias)
    assert norms.isnan().tolist() == [False, True, False, False]


def test_stacked_networks_are_measured_by_vmap():
    layers = [layer_weights("convolution", 5, seed) for seed in (0, 10)]
    stacked = [torch.stack(parts) for parts in zip(*layers, strict=True)]
    batched = torch.vmap(permutation_distance)(*stacked)
    for index, weights in enumerate(layers):
        torch.testing.assert_close(batched[index], permutation_distance(*weights))


# The symmetries themselves: transforming a neuron's vector must leave the function unchanged


@pytest.mark.parametrize("kind", ["dense", "convolution", "flattened"])
def test_swapping_two_neurons_leaves_the_function_unchanged(kind):
    weights = layer_weights(kind, 4)
    theta = torch.cat([weights[0].flatten(), weights[2], weights[1].flatten()])
    projector = neuron_swap_projector(1, 3, *weights)
    swapped = reflection_matrix(projector) @ theta
    incoming, bias, outgoing = (
        part.view(shape)
        for part, shape in zip(
            swapped.split([weights[0].numel(), 4, weights[1].numel()]),
            (weights[0].shape, (4,), weights[1].shape),
            strict=True,
        )
    )
    expected = relabelled(kind, *weights, [0, 3, 2, 1])
    torch.testing.assert_close((incoming, outgoing, bias), expected)

    def function(incoming, outgoing, bias):
        if kind == "dense":
            return torch.relu(normal(6, 5, seed=9) @ incoming.T + bias) @ outgoing.T
        # Maps of 2 × 3 keep their size.
        features = nn.functional.conv2d(normal(6, 2, 2, 3, seed=9), incoming, bias, padding=1)
        if kind == "flattened":
            return torch.relu(features).flatten(1) @ outgoing.T
        return nn.functional.conv2d(torch.relu(features), outgoing, padding=1)

    torch.testing.assert_close(function(*weights), function(incoming, outgoing, bias))
    assert not torch.allclose(incoming, weights[0])
    # |P theta| is the distance between the two vectors, divided by √2.
    vectors = neuron_vectors(*weights)
    distance = torch.linalg.vector_norm(vectors[1] - vectors[3]) / math.sqrt(2)
    torch.testing.assert_close(symmetry_distance(projector, theta), distance)


def test_swap_projector_without_bias_acts_on_the_weights_only():
    incoming, outgoing, _ = layer_weights("dense", 3)
    projector = neuron_swap_projector(0, 2, incoming.float(), outgoing.float())
    assert projector.shape == (27, 27)
    assert projector.dtype == torch.float32
    # Exchanged: 5 incoming and 4 outgoing weights.
    assert projector.trace().item() == 9


# Degree of symmetry


def test_degree_counts_distances_below_the_threshold():
    distances = torch.tensor([[0.0, 0.05, 0.1, 2.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    degree = degree_of_symmetry(distances, 0.1)
    assert degree.dtype == torch.int64
    assert degree.tolist() == [2, 0]
    assert degree_of_symmetry(distances, 0.11).tolist() == [3, 0]
    # Identical neurons count under any threshold.
    assert degree_of_symmetry(distances, 0.0).tolist() == [1, 0]


def test_relative_degree():
    initial = torch.tensor([0.0, 1.0, 2.0, 10.0])
    distances = torch.tensor([0.0, 0.2, 0.1, 0.9])
    # Bounds 0, 0.1, 0.2, 1; the identical pair counts although its bound is 0.
    assert degree_of_symmetry(distances, 0.1, reference=initial).item() == 3
    # The mean is 3.25: bound 0.325.
    assert degree_of_symmetry(distances, 0.1, reference=initial.mean()).item() == 3
    # Thresholds by pair.
    thresholds = torch.tensor([1.0, 0.1, 0.1, 1.0])
    assert degree_of_symmetry(distances, 1.0, reference=thresholds).item() == 2
    both = torch.stack([distances, distances / 3])
    assert degree_of_symmetry(both, 0.1, reference=initial).tolist() == [3, 4]


def test_nan_is_not_counted():
    distances = torch.tensor([math.nan, 0.0])
    assert degree_of_symmetry(distances, 0.1).item() == 1
    assert double_rotation_degree(distances, 0.1).item() == 1


@examples
@given(st.lists(st.floats(0, 10), min_size=1, max_size=9), st.floats(0, 10), st.floats(0, 10))
def test_degree_grows_with_the_threshold(values, one, other):
    distances = torch.tensor(values, dtype=torch.float64)
    low, high = sorted((one, other))
    assert degree_of_symmetry(distances, low) <= degree_of_symmetry(distances, high)
    assert degree_of_symmetry(distances, 10.1).item() == len(values)


# Attention


def test_hand_computed_eigenvalues():
    # W_Q = diag(3, 0), W_K = diag(4, 1): 9 + 16 = 25 and 0 + 1 = 1.
    query = torch.diag(torch.tensor([3.0, 0.0]))
    key = torch.diag(torch.tensor([4.0, 1.0]))
    eigenvalues = rotation_eigenvalues(query, key)
    torch.testing.assert_close(eigenvalues, torch.tensor([1.0, 25.0]))
    assert double_rotation_degree(eigenvalues, 1.0).item() == 1
    assert double_rotation_degree(eigenvalues, 0.99).item() == 0
    assert double_rotation_degree(eigenvalues, 25.0).item() == 2
    initial = torch.tensor([10.0, 10.0])
    assert double_rotation_degree(eigenvalues, 0.1, reference=initial).item() == 1


@examples
@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
def test_eigenvalues_are_those_of_the_joint_singular_values(seed, heads, size, width, key_width):
    query, key = (
        normal(heads, size, width, seed=seed),
        normal(heads, size, key_width, seed=seed + 1),
    )
    eigenvalues = rotation_eigenvalues(query, key)
    singular = torch.linalg.svdvals(torch.cat([query, key], dim=-1))
    expected = torch.zeros(heads, size, dtype=torch.float64)
    expected[:, : singular.shape[-1]] = singular**2
    torch.testing.assert_close(eigenvalues, expected.flip(-1), rtol=1e-7, atol=1e-12)
    assert (eigenvalues >= 0).all()
    rotation, _ = torch.linalg.qr(normal(heads, size, size, seed=seed + 2))
    torch.testing.assert_close(rotation_eigenvalues(rotation @ query, rotation @ key), eigenvalues)


def test_directions_that_neither_queries_nor_keys_use():
    query, key = normal(3, 4, 6), normal(3, 4, 6, seed=1)
    direction = nn.functional.normalize(normal(4, seed=2), dim=0)
    away = torch.eye(4, dtype=torch.float64) - torch.outer(direction, direction)
    query[1], key[1] = away @ query[1], away @ key[1]
    # In head 2 only the queries lack it.
    query[2] = away @ query[2]
    for dtype in (torch.float64, torch.float32):
        eigenvalues = rotation_eigenvalues(query.to(dtype), key.to(dtype))
        assert eigenvalues.dtype == dtype
        assert double_rotation_degree(eigenvalues, 1e-6).tolist() == [0, 1, 0]


def test_a_diverged_head_gives_nan():
    query, key = normal(2, 3, 5), normal(2, 3, 5, seed=1)
    healthy = rotation_eigenvalues(query, key)
    query[0, 1, 1] = math.inf
    eigenvalues = rotation_eigenvalues(query, key)
    assert eigenvalues[0].isnan().all()
    assert torch.equal(eigenvalues[1], healthy[1])


@pytest.mark.parametrize("key_width", [None, 5], ids=["joint", "separate"])
def test_heads_match_those_of_torch(key_width):
    # Rotating one head's queries and keys (biases too) leaves the module's output unchanged; a wrong
    # split would mix heads.
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, kdim=key_width, dtype=torch.float64, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    inputs = normal(2, 7, 12)
    keys = inputs if key_width is None else normal(2, 7, key_width, seed=1)

    def output():
        return attention(inputs, keys, inputs, need_weights=False)[0].detach()

    before, eigenvalues = output(), rotation_eigenvalues(*attention_heads(attention))
    assert eigenvalues.shape == (3, 4)
    assert not eigenvalues.requires_grad
    rotation, _ = torch.linalg.qr(normal(4, 4, seed=2))
    query, key = attention_heads(attention)
    assert key.shape == (3, 4, 12 if key_width is None else key_width)
    with torch.no_grad():
        biases = attention.in_proj_bias.chunk(3)[:2]
        query[1] = rotation @ query[1]
        for bias in biases:
            bias.view(3, 4)[1] = rotation @ bias.view(3, 4)[1]
        assert not torch.allclose(output(), before)
        key[1] = rotation @ key[1]
        torch.testing.assert_close(output(), before)
    torch.testing.assert_close(rotation_eigenvalues(*attention_heads(attention)), eigenvalues)


def test_split_heads_takes_blocks_of_rows():
    weight = torch.arange(12).view(6, 2)
    assert split_heads(weight, 3).tolist() == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9], [10, 11]],
    ]


# Bad input


dense = (torch.ones(3, 5), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: permutation_distance(dense[0], torch.ones(2, 4)), ValueError, "have 4 inputs, expected 3:"),
        # A multiple is valid only for a flattened convolution.
        (lambda: permutation_distance(dense[0], torch.ones(2, 6)), ValueError, "have 6 inputs, expected 3:"),
        (
            lambda: permutation_distance(torch.ones(3, 5, 1, 1), torch.ones(2, 7)),
            ValueError,
            "have 7 inputs, expected 3 or a multiple",
        ),
        (
            lambda: permutation_distance(torch.ones(3, 5, 1, 1), torch.ones(2, 6, 1, 1)),
            ValueError,
            "have 6 inputs, expected 3:",
        ),
        (lambda: permutation_distance(torch.ones(3), dense[1]), ValueError, "incoming weights have shape"),
        (lambda: permutation_distance(torch.ones(0, 5), torch.ones(2, 0)), ValueError, "no dimension 0"),
        (lambda: permutation_distance(*dense, torch.ones(5)), ValueError, r"incoming_bias has shape \(5,\)"),
        (lambda: permutation_distance(dense[0].long(), dense[1]), TypeError, "int64"),
        (lambda: rescaling_distance(dense[0], dense[1].long()), TypeError, "int64"),
        (lambda: degree_of_symmetry(torch.ones(3), -0.1), ValueError, "threshold"),
        (lambda: degree_of_symmetry(torch.ones(3), math.nan), ValueError, "threshold"),
        (lambda: degree_of_symmetry(torch.ones(3), True), TypeError, "threshold"),
        (
            lambda: degree_of_symmetry(torch.ones(3), 1, reference=torch.ones(4)),
            ValueError,
            r"reference has shape \(4,\)",
        ),
        (lambda: degree_of_symmetry(torch.ones(3), 1, reference=torch.ones(2, 3)), ValueError, "reference"),
        (lambda: double_rotation_degree(torch.ones(3), math.inf), ValueError, "threshold"),
        (lambda: rotation_eigenvalues(torch.ones(2, 3), torch.ones(3, 3)), ValueError, r"key \(3, 3\)"),
        (lambda: rotation_eigenvalues(torch.ones(2), torch.ones(2)), ValueError, "head_dim, width"),
        (lambda: rotation_eigenvalues(torch.ones(2, 2).long(), torch.ones(2, 2)), TypeError, "int64"),
        (lambda: split_heads(torch.ones(6, 2), 4), ValueError, "cannot be split into 4 heads"),
        (lambda: split_heads(torch.ones(6, 2), 0), ValueError, "num_heads"),
        (lambda: neuron_swap_projector(1, 1, *dense), ValueError, "both neuron 1"),
        (lambda: neuron_swap_projector(0, 3, *dense), ValueError, "second must be at least 0 and at most 2"),
        (lambda: neuron_swap_projector(0, 1, dense[0].long(), dense[1]), TypeError, "int64"),
    ],
)  # fmt: skip
def test_errors_name_the_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- tied neurons -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_tied_neurons_are_projected_by_the_group_of_their_permutations(count):
    incoming, outgoing, bias = layer_weights("dense", 4)
    vectors = neuron_vectors(incoming, outgoing, bias)
    rest = tuple(range(count, 4))
    orders = [(*first, *rest) for first in itertools.permutations(range(count))]
    symmetric = group_projector(torch.stack([torch.eye(4).double()[list(o)] for o in orders]))
    tie_neurons_(count, incoming, outgoing, bias)
    assert torch.allclose(neuron_vectors(incoming, outgoing, bias), symmetric @ vectors, atol=1e-15)


def test_tied_neurons_without_biases_in_a_network():
    first, second = nn.Linear(5, 4), nn.Linear(4, 2)
    biases = first.bias.clone()
    tie_neurons_(3, first.weight, second.weight)
    assert torch.equal(first.bias, biases)
    distances = permutation_distance(first.weight, second.weight)
    assert degree_of_symmetry(distances, 0.0).item() == 2


def test_neurons_that_cannot_be_tied_are_refused():
    with pytest.raises(ValueError, match="count must be at least 0 and at most 4"):
        tie_neurons_(5, torch.ones(4, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="two dense layers in a row"):
        tie_neurons_(2, torch.ones(4, 3), torch.ones(2, 3))
