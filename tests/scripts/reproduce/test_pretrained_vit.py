"""Figure pretrained-vit: heads of made-up weights with known degrees and ranks, files, and the verdict."""

import json

import pytest
import torch
from made_figures import failed_claims, made_results, train

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.probe.loading import ProbeError
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.pretrained_vit import PretrainedWeights, measured_heads
from plasticity.scripts.reproduce.verdict import FAILS, HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["pretrained-vit"]


def head(weights, width, first):
    """A head whose i-th direction reads input first + i, with these weights."""
    matrix = torch.zeros(len(weights), width)
    matrix[range(len(weights)), range(first, first + len(weights))] = torch.tensor(weights)
    return matrix


def block(width=8):
    """Queries and keys of two heads of four directions.

    Head 1: queries 1, 1, 1, 1 and keys 1, 1, 0, 0; nothing is lost, as its queries are all in use, but of
    W_Qᵀ W_K two directions are left. Head 2: weights 1, 0.2, 0.09 and 0 of both, eigenvalues 2 (1, 0.04,
    0.0081, 0): two are at most a hundredth of the largest.
    """
    query = torch.cat([head([1.0, 1, 1, 1], width, 0), head([1, 0.2, 0.09, 0], width, 0)])
    key = torch.cat([head([1.0, 1, 0, 0], width, 0), head([1, 0.2, 0.09, 0], width, 4)])
    return query, key


def fused(width=8, name="encoder.layers.encoder_layer_{}.self_attention.in_proj_weight", blocks=2):
    weight = torch.cat([*block(width), torch.randn(8, width)])
    return {name.format(index): weight for index in range(blocks)}


def separate(width=8, blocks=2):
    query, key = block(width)
    path = "vit.encoder.layer.{}.attention.attention.{}.weight"
    return {
        path.format(index, name): each.clone()
        for index in range(blocks)
        for name, each in (("query", query), ("key", key), ("value", torch.randn(8, width)))
    }


@pytest.mark.parametrize("state", [fused(), separate(), fused(name="blocks.{}.attn.qkv.weight")])
def test_the_degree_and_the_rank_of_each_head(state):
    found = measured_heads(state, 4, 0.01)
    assert [found[f"degree_{n}"] for n in (1, 2, 3, 4)] == [0, 2, 0, 2]
    assert found["lost_share"] == 4 / 16
    # singular values of W_Qᵀ W_K: 1, 1 (two directions); and 1, 0.04, 0.0081
    shares = torch.tensor([1, 0.04, 0.0081])
    shares /= shares.sum()
    expected = torch.exp(-(shares * shares.log()).sum()).item()
    assert found["rank_1"] == pytest.approx(2.0, rel=1e-5)
    assert found["rank_2"] == pytest.approx(expected, rel=1e-4)
    assert found["rank_share"] == pytest.approx((2 + expected) / 8, rel=1e-4)
    assert (found["width"], found["head_dim"]) == (8, 4)


def test_the_threshold_is_a_share_of_the_largest():
    scaled = {name: 1000 * each for name, each in fused().items()}
    assert measured_heads(scaled, 4, 0.01)["lost_share"] == 4 / 16
    assert measured_heads(scaled, 4, 0.05)["lost_share"] == 6 / 16
    assert measured_heads(scaled, 4, 0.001)["lost_share"] == 2 / 16


def test_published_sizes_of_heads():
    def size(width, rows):
        weight = torch.randn(3 * rows, width, dtype=torch.float16)
        return measured_heads({"blocks.0.attn.qkv.weight": weight}, None, 0.01)["head_dim"]

    assert (size(128, 128), size(1280, 160)) == (64, 80)
    with pytest.raises(
        ValueError, match="8 queries are not of heads of 64 dimensions: give --head-"
    ):
        measured_heads(fused(), None, 0.01)


# ---- files ------------------------------------------------------------------------------------------


def made(*files, **changes):
    values = {"stream.weights": tuple(map(str, files)), "stream.head_dim": 4, **changes}
    return with_values(FIGURE.config, {**values, "seed": 0})


def test_a_row_for_each_file(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    torch.save({"model": fused(), "epoch": 3}, tmp_path / "narrow.pt")
    save_file(separate(width=12), tmp_path / "wide.safetensors")
    config = made(tmp_path / "narrow.pt", tmp_path / "wide.safetensors")
    calls = iter(range(10**6))
    assert not train(tmp_path / "run", config, lambda: next(calls) >= 1)  # stopped after a file
    assert train(tmp_path / "run", config)
    rows = [
        json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(row["step"], row["width"], row["lost_share"]) for row in rows] == [
        (1, 8, 0.25),
        (2, 12, 0.25),
    ]


def test_what_is_missing_is_said(tmp_path):
    from plasticity.scripts.reproduce.pretrained_vit import PretrainedHeads

    with pytest.raises(ValueError, match="measures weights of yours: give --weights FILE"):
        PretrainedHeads.require_runnable([made()])
    with pytest.raises(ProbeError, match=r"There is no file .*absent.pt"):
        PretrainedHeads.require_runnable([made(tmp_path / "absent.pt")])
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    experiment = PretrainedHeads([made(tmp_path / "other.pt")], stacked=False)
    with pytest.raises(ValueError, match=r"other\.pt: The state has no attention"):
        experiment.step()
    with pytest.raises(TypeError, match="weights must be a tuple of paths"):
        PretrainedWeights(weights="a.pt")


def test_reproduce_all_leaves_it_out():
    assert FIGURE.requires == "--weights FILE …"


# ---- the verdict ------------------------------------------------------------------------------------


def values(shares):
    """Rows of models of width 384, 768, … with these shares of lost directions, in two heads of 64."""

    def of(arm, step):
        share = shares[step - 1]
        heads = {"degree_1": 64 * share, "degree_2": 64 * share, "rank_1": 32.0, "rank_2": 16.0}
        return {
            "width": 384.0 * step,
            "head_dim": 64.0,
            "lost_share": share,
            "rank_share": 0.375,
            **heads,
        }

    return of


def results(shares):
    steps = range(1, 1 + len(shares))
    found = made_results(FIGURE, values(shares), num_seeds=1, steps=steps)
    files = [f"models/vit_{step}.pt" for step in steps]
    for _, (run,) in found.arms:
        run.config["stream"] = {"weights": files}
    return found


@pytest.mark.parametrize(
    ("shares", "outcome", "failed"),
    [
        ((0.05, 0.3), HOLDS, []),
        ((0.01, 0.02, 0.05), PARTLY, [0]),
        ((0.4, 0.3), PARTLY, [1]),
        ((0.05, 0.05), FAILS, [0, 1]),
        ((0.3,), NOT_SEEN, [1]),
    ],
)
def test_the_verdict(shares, outcome, failed):
    from plasticity.scripts.reproduce.verdict import Verdict

    found = results(shares)
    verdict = Verdict(FIGURE.requirements(found), FIGURE.claims(found))
    assert verdict.outcome == outcome
    assert failed_claims(verdict) == failed


def test_the_sentence_and_the_panels():
    found = results((0.25, 0.5))
    assert FIGURE.sentence(found) == (
        "vit_1 (width 384): 25.0% of the directions lost, rank 37.5% of its heads' dimensions; vit_2 (width"
        " 768): 50.0% of the directions lost, rank 37.5% of its heads' dimensions"
    )
    ((degree, rank),) = FIGURE.panels(found)
    assert [line.label for line in degree.lines] == ["vit_1", "vit_2"]
    assert degree.lines[1].positions.tolist() == [0.5, 1.0]
    assert degree.lines[1].mean.tolist() == [0.5, 0.5]
    assert rank.lines[0].mean.tolist() == [0.5, 0.25]
    FIGURE.draw(found, "caption")
