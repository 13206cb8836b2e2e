"""Prompts of in-context linear regression."""

import pytest
import torch

from plasticity.tasks.synthetic.in_context_regression import regression_prompts


def prompts(*sizes, seed=0, **settings):
    return regression_prompts(*sizes, torch.Generator().manual_seed(seed), **settings)


def test_the_examples_of_a_prompt_determine_its_label():
    tokens, labels = prompts(4, 3, 3)
    assert tokens.shape == (4, 4, 4)
    assert labels.shape == (4,)
    inputs, outputs = tokens[:, :3, :3].double(), tokens[:, :3, 3:].double()
    weights = torch.linalg.solve(inputs, outputs)  # three equations for three weights
    found = (tokens[:, 3, :3].double()[:, None] @ weights).flatten()
    torch.testing.assert_close(found, labels.double(), rtol=1e-3, atol=1e-4)
    assert tokens[:, 3, 3].tolist() == [0.0] * 4  # the query has no label
    assert len(set(labels.tolist())) == 4


def test_labels_have_a_variance_of_1_and_noise_is_the_examples_alone():
    clean, labels = prompts(20_000, 2, 5)
    noisy, same = prompts(20_000, 2, 5, label_noise=0.5)
    assert labels.square().mean().item() == pytest.approx(1.0, rel=0.05)
    assert torch.equal(labels, same)
    noise = noisy - clean
    assert noise[:, :2, 5].std().item() == pytest.approx(0.5, rel=0.03)
    assert not noise[:, :, :5].any()
    assert not noise[:, 2].any()


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="num_examples must be at least 1: 0"):
        prompts(1, 0, 2)
    with pytest.raises(ValueError, match="label_noise"):
        prompts(1, 1, 2, label_noise=-1.0)
