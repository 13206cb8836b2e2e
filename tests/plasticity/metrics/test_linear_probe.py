"""Linear probe: separable and useless features, scikit-learn's ridge, and what must not matter."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from plasticity import linear_probe_accuracy


def blobs(seed, distance, count=300):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = torch.randn(count, 5, generator=generator)
    features[:, :3] += distance * torch.eye(3)[labels]
    return features, labels


def probe(distance, transform=lambda x: x, **settings):
    (train, labels), (test, test_labels) = blobs(0, distance), blobs(1, distance)
    return linear_probe_accuracy(
        transform(train), labels, transform(test), test_labels, **settings
    ).item()


def test_separable_and_useless_features():
    assert probe(20.0) == 1.0
    assert abs(probe(0.0) - 1 / 3) < 0.11  # four deviations of 300 guesses
    constant = probe(1.0, torch.zeros_like)
    assert constant == pytest.approx(1 / 3)  # the same class for all


def test_equals_scikit_learns_ridge():
    (train, labels), (test, test_labels) = blobs(0, 1.5), blobs(1, 1.5)
    features = train.double().numpy()
    deviation = np.sqrt(((features - features.mean(0)) ** 2).mean())
    model = Ridge(alpha=0.5 * len(train) * deviation**2)
    model.fit(features, np.eye(3)[labels])
    guesses = model.predict(test.double().numpy()).argmax(1)
    expected = (guesses == test_labels.numpy()).mean()
    assert 0.5 < expected < 1.0
    assert linear_probe_accuracy(train, labels, test, test_labels, 0.5).item() == expected


def test_scale_shift_and_rotation_do_not_matter():
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)))[0]
    assert probe(1.5) == probe(1.5, lambda x: 100 * x @ turn + 7)
    assert probe(1.5) != probe(1.5, lambda x: x[:, :1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="strength must be above 0"):
        probe(1.0, strength=0.0)
    with pytest.raises(ValueError, match="a feature is not finite"):
        probe(1.0, lambda x: x / 0)
