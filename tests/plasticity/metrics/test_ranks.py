import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.metrics.ranks import (
    approximate_rank,
    effective_rank,
    feature_rank,
    numerical_rank,
    rank_summary,
    srank,
    stable_rank,
)

RANKS = {
    "effective_rank": effective_rank,
    "srank": srank,
    "approximate_rank": approximate_rank,
    "stable_rank": stable_rank,
    "numerical_rank": numerical_rank,
    "feature_rank": feature_rank,
}
COUNTS = ("srank", "approximate_rank", "numerical_rank", "feature_rank")
SCALE_FREE = [name for name in RANKS if name != "feature_rank"]
FLOATS = (torch.float32, torch.float64)
SHAPES = ((40, 12), (12, 40), (12, 12))

examples = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def orthogonal(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


def with_spectrum(values, batch, width, seed=0):
    """Return a float64 matrix with these singular values (and zeros), in random directions."""
    count = len(values)
    spectrum = torch.tensor(values, dtype=torch.float64)
    return orthogonal(batch, count, seed) * spectrum @ orthogonal(width, count, seed + 1).T


def random_features(seed, batch, width, rank):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(batch, rank, generator=generator, dtype=torch.float64)
    return left @ torch.randn(rank, width, generator=generator, dtype=torch.float64)


matrices = st.builds(
    random_features,
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 12),
)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("batch", "width"), SHAPES)
def test_known_spectrum(batch, width, dtype):
    # s = 4, 2, 1, 1: Σs = 8, p = 1/2, 1/4, 1/8, 1/8, entropy (1/2 + 2/4 + 3/8 + 3/8) ln 2 = 1.75 ln 2.
    # Shares of s:  4/8, 6/8, 7/8, 8/8; of s² (Σ = 22): 16/22, 20/22, 21/22, 22/22.
    features = with_spectrum([4, 2, 1, 1], batch, width).to(dtype)
    assert effective_rank(features).item() == pytest.approx(2**1.75, rel=1e-6)
    assert stable_rank(features).item() == pytest.approx(22 / 16, rel=1e-6)
    assert [srank(features, delta).item() for delta in (0.6, 0.5, 0.3, 0.2, 0.01)] == [
        1,
        1,
        2,
        3,
        4,
    ]
    assert [approximate_rank(features, d).item() for d in (0.3, 0.2, 0.08, 0.01)] == [1, 2, 3, 4]
    assert numerical_rank(features).item() == 4
    # s / sqrt(batch) > eps at eps = x / sqrt(batch) counts s > x.
    bounds = [x / math.sqrt(batch) for x in (0.5, 1.5, 3, 5)]
    assert [feature_rank(features, bound).item() for bound in bounds] == [4, 2, 1, 0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("batch", "width"), SHAPES)
def test_equal_singular_values_make_every_bound_a_tie(batch, width, dtype):
    features = orthogonal(max(batch, width), min(batch, width), seed=3).to(dtype)
    features = features if batch >= width else features.T
    assert effective_rank(features).item() == pytest.approx(12, rel=1e-6)
    assert stable_rank(features).item() == pytest.approx(12, rel=1e-6)
    # 9 of 12 equal values hold exactly 1 - 0.25 of the sum, and of the squares.
    assert srank(features, 0.25).item() == 9
    assert approximate_rank(features, 0.25).item() == 9
    assert srank(features, 0.0).item() == 12
    assert numerical_rank(features).item() == 12


@pytest.mark.parametrize("dtype", FLOATS)
def test_hundred_equal_values_need_ninety_nine(dtype):
    features = orthogonal(300, 100, seed=5).to(dtype)
    assert srank(features).item() == 99
    assert approximate_rank(features).item() == 99


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_never_leaves_the_range_of_the_effective_rank(dtype):
    for width in range(1, 60):
        assert 1 <= effective_rank(torch.eye(width, dtype=dtype) / 3).item() <= width


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 1), (1, 6), (6, 1)])
def test_zero_features_have_rank_zero_in_every_sense(shape, dtype):
    for name, rank in rank_summary(torch.zeros(shape, dtype=dtype)).items():
        assert rank.item() == 0, name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(700, 5), (5, 700), (64, 64), (1, 1), (1, 6), (6, 1)])
def test_constant_features_and_single_rows_have_rank_one(shape, dtype):
    for name, rank in rank_summary(torch.full(shape, -0.7, dtype=dtype)).items():
        assert rank.item() == pytest.approx(1, abs=1e-6), name


def test_single_row_has_rank_one_whatever_its_values():
    for name, rank in rank_summary(torch.randn(1, 50)).items():
        assert rank.item() == pytest.approx(1, abs=1e-6), name


@pytest.mark.parametrize("shape", [(3, 3), (40, 12), (12, 40), (300, 200)])
def test_rank_deficient_float32_features_have_no_rounding_noise(shape):
    # Integer factors: the product is exact in float32, so all singular values but two are exactly 0.
    generator = torch.Generator().manual_seed(1)
    left = torch.randint(-4, 5, (shape[0], 2), generator=generator).float()
    right = torch.randint(-4, 5, (2, shape[1]), generator=generator).float()
    features = left @ right
    assert feature_rank(features, eps=0.0).item() == 2
    assert srank(features, delta=0.0).item() == 2
    exact = np.linalg.svd(features.double().numpy(), compute_uv=False)[:2]
    shares = exact / exact.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(features).item() == pytest.approx(expected, rel=1e-6)


def reference(features, delta=0.01, eps=0.01):
    """Compute the ranks by definition from NumPy's singular values."""
    values = np.linalg.svd(features, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return {
        "effective_rank": math.exp(-sum(p * math.log(p) for p in shares)),
        "srank": next(k + 1 for k in range(len(values)) if sum(shares[: k + 1]) >= 1 - delta),
        "approximate_rank": next(
            k + 1
            for k in range(len(values))
            if (values[: k + 1] ** 2).sum() / (values**2).sum() >= 1 - delta
        ),
        "stable_rank": np.linalg.norm(features, "fro") ** 2 / np.linalg.norm(features, 2) ** 2,
        "numerical_rank": np.linalg.matrix_rank(features),
        "feature_rank": int((values / math.sqrt(len(features)) > eps).sum()),
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (64, 64), (2, 9)])
def test_relu_features_agree_with_numpy(shape, dtype):
    generator = torch.Generator().manual_seed(7)
    features = (torch.randn(shape, generator=generator) * torch.logspace(0, -3, shape[1])).relu()
    expected = reference(features.double().numpy())
    expected["numerical_rank"] = torch.linalg.matrix_rank(features.to(dtype)).item()
    for name, rank in rank_summary(features.to(dtype)).items():
        assert rank.item() == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("batch", "width"), [(512, 128), (128, 512), (5000, 16), (20, 20), (3, 2)])
def test_numerical_rank_decides_on_both_sides_of_its_bound(batch, width, dtype):
    # The smallest of the values is 3 times, then a third of max(n, m) eps: a float32 Gram matrix, which
    # resolves no better than sqrt(eps) = 3e-4, would miss both.
    bound = max(batch, width) * torch.finfo(dtype).eps
    for factor, expected in ((3.0, 2), (1 / 3, 1)):
        features = torch.zeros(batch, width, dtype=dtype)
        features[0, 0], features[1, 1] = 1.0, factor * bound
        assert numerical_rank(features).item() == expected
        assert torch.linalg.matrix_rank(features).item() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_as_float32(dtype):
    features = with_spectrum([4, 2, 1, 1], 3000, 8).mul(50).to(dtype)
    half, single = rank_summary(features), rank_summary(features.float())
    for name in RANKS:
        assert half[name].dtype == single[name].dtype
        assert torch.equal(half[name], single[name]), name


def test_results_do_not_depend_on_autocast():
    features = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    expected = rank_summary(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rank_summary(features)
    assert all(torch.equal(inside[name], expected[name]) for name in RANKS)


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e30, 1e37])
def test_extreme_scales_neither_overflow_nor_vanish_in_float32(factor):
    features = with_spectrum([4, 2, 1, 1], 30, 10)
    scaled = (features * factor).float()
    for name in SCALE_FREE:
        expected = RANKS[name](features).item()
        assert RANKS[name](scaled).item() == pytest.approx(expected, rel=1e-5), name
    assert feature_rank(scaled).item() == (4 if factor > 1 else 0)


@pytest.mark.parametrize("factor", [1e-300, 1e300, 1e307])
def test_extreme_scales_neither_overflow_nor_vanish_in_float64(factor):
    features = with_spectrum([4, 2, 1, 1], 30, 4)
    for name in SCALE_FREE:
        expected = RANKS[name](features).item()
        assert RANKS[name](features * factor).item() == pytest.approx(expected, rel=1e-9), name
    assert feature_rank(features * factor).item() == (4 if factor > 1 else 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_summary_equals_its_parts_bit_for_bit(dtype):
    features = torch.randn(3, 2, 40, 9, generator=torch.Generator().manual_seed(2)).to(dtype)
    summary = rank_summary(features, delta=0.05, eps=0.5)
    assert list(summary) == list(RANKS)
    settings_of = {"srank": (0.05,), "approximate_rank": (0.05,), "feature_rank": (0.5,)}
    for name, rank in RANKS.items():
        alone = rank(features, *settings_of.get(name, ()))
        assert alone.shape == (3, 2)
        assert alone.dtype == (torch.int64 if name in COUNTS else dtype)
        assert torch.equal(alone, summary[name]), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(2, 3, 30, 8), (2, 3, 8, 30)])
def test_batched_equals_looped(shape, dtype):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(4)).relu().to(dtype)
    features[1, 2] = 0
    features[0, 1] *= 1e20
    summary = rank_summary(features)
    for i in range(2):
        for j in range(3):
            for name, rank in rank_summary(features[i, j]).items():
                torch.testing.assert_close(summary[name][i, j], rank, rtol=1e-6, atol=0)


def test_leading_dimension_of_size_zero_gives_no_ranks():
    assert effective_rank(torch.zeros(0, 4, 3)).shape == (0,)


def test_features_are_unchanged_and_no_graph_is_recorded():
    features = torch.randn(20, 5, requires_grad=True)
    before = features.detach().clone()
    summary = rank_summary(features)
    assert torch.equal(features.detach(), before)
    assert not any(rank.requires_grad for rank in summary.values())


@examples
@given(matrices)
def test_ranks_are_bounded_and_ordered(features):
    smaller = min(features.shape)
    ranks = {name: rank.item() for name, rank in rank_summary(features).items()}
    assert 1 <= ranks["effective_rank"] <= smaller
    assert 1 - 1e-12 <= ranks["stable_rank"] <= ranks["numerical_rank"] + 1e-9
    assert ranks["stable_rank"] <= ranks["effective_rank"] + 1e-9
    assert ranks["effective_rank"] <= ranks["numerical_rank"] + 1e-6
    # Squaring concentrates the shares.
    assert 1 <= ranks["approximate_rank"] <= ranks["srank"] <= ranks["numerical_rank"] <= smaller


@examples
@given(matrices, st.integers(0, 10**6))
def test_rotations_permutations_and_transposition_change_nothing(features, seed):
    batch, width = features.shape
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    expected = rank_summary(features)
    moved = {
        "rotated samples": orthogonal(batch, batch, seed) @ features,
        "rotated units": features @ orthogonal(width, width, seed + 1),
        "permuted units": features[:, order],
    }
    for change, other in moved.items():
        for name, rank in rank_summary(other).items():
            torch.testing.assert_close(
                rank, expected[name], rtol=1e-6, atol=0, msg=f"{name}: {change}"
            )
    for name in SCALE_FREE:
        torch.testing.assert_close(RANKS[name](features.T), expected[name], rtol=1e-6, atol=0)


@examples
@given(matrices, st.sampled_from([-1e6, -1.0, 1e-9, 3.0]))
def test_scaling_changes_only_the_feature_rank(features, factor):
    for name in SCALE_FREE:
        torch.testing.assert_close(RANKS[name](features * factor), RANKS[name](features))
    # In the unit of the features, the bound scales with them.
    assert feature_rank(features * factor, 0.1 * abs(factor)) == feature_rank(features, 0.1)


@examples
@given(matrices)
def test_float32_agrees_with_float64(features):
    single = rank_summary(features.float())
    for name, rank in rank_summary(features.float().double()).items():
        # The two bounds of numerical_rank differ by design.
        if name != "numerical_rank":
            torch.testing.assert_close(single[name].double(), rank.double(), rtol=1e-5, atol=0)


@examples
@given(matrices)
def test_numerical_rank_matches_torch(features):
    for matrix in (features, features.float()):
        assert numerical_rank(matrix).item() == torch.linalg.matrix_rank(matrix).item()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
@pytest.mark.parametrize("rank", [*RANKS.values(), rank_summary])
def test_the_first_entry_that_is_not_finite_is_named(rank, dtype, value):
    features = torch.ones(2, 5, 4, dtype=dtype)
    features[1, 3, 2] = value
    features[1, 4, 0] = value
    with pytest.raises(ValueError, match=rf"features\[1, 3, 2\] is {value}"):
        rank(features)


@pytest.mark.parametrize("rank", [*RANKS.values(), rank_summary])
def test_wrong_shapes_and_dtypes_are_rejected(rank):
    with pytest.raises(ValueError, match=r"\(\.\.\., batch, width\), got \(4,\)"):
        rank(torch.ones(4))
    for shape in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="empty"):
            rank(torch.ones(shape))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        rank(torch.ones(4, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        rank(torch.ones(4, 4, dtype=torch.complex64))
    with pytest.raises(TypeError, match="ndarray"):
        rank(np.ones((4, 4)))


@pytest.mark.parametrize("delta", [-0.1, 1.0, math.nan])
def test_delta_out_of_range_is_rejected(delta):
    for call in (srank, approximate_rank, lambda x, d: rank_summary(x, delta=d)):
        with pytest.raises(ValueError, match="delta"):
            call(torch.ones(2, 2), delta)


@pytest.mark.parametrize("eps", [-0.1, math.inf, math.nan])
def test_eps_out_of_range_is_rejected(eps):
    for call in (feature_rank, lambda x, e: rank_summary(x, eps=e)):
        with pytest.raises(ValueError, match="eps"):
            call(torch.ones(2, 2), eps)
