"""Networks for images: their published sizes, their formulas written out, and whose units can be reset."""

import pickle

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks.images import IMAGE_NETWORKS, ImageFormat, image_network
from plasticity.mitigations.hidden_units import resettable_units
from plasticity.network_spec import LayerSpec
from plasticity.units.flow import trace_units

SCREEN, PLANES = ImageFormat((4, 84, 84), 255), ImageFormat((10, 10, 10), 1)
PLAIN = LayerSpec()


def size_of(network):
    return sum(each.numel() for each in network.parameters())


def pixels(images, batch=3):
    generator = torch.Generator().manual_seed(0)
    shape = (batch, torch.Size(images.shape).numel())
    return torch.randint(images.highest + 1, shape, generator=generator, dtype=torch.uint8)


def test_natures_size_by_hand():
    # 84 -> (84 - 8) / 4 + 1 = 20 -> (20 - 4) / 2 + 1 = 9 -> 9 - 3 + 1 = 7 pixels
    convolutions = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
    dense = (64 * 7 * 7 + 1) * 512 + (512 + 1) * 6
    assert size_of(image_network("nature", SCREEN, 6, (512,), PLAIN)) == convolutions + dense


def test_impalas_size_by_hand():
    images = ImageFormat((3, 64, 64), 255)
    # A stage: a convolution, and four of its width in two blocks. 64 -> 32 -> 16 -> 8 pixels.
    stages = sum((9 * i + 1) * o + 4 * (9 * o + 1) * o for i, o in ((3, 16), (16, 32), (32, 32)))
    dense = (32 * 8 * 8 + 1) * 256 + (256 + 1) * 15
    assert size_of(image_network("impala", images, 15, (256,), PLAIN)) == stages + dense


def test_minatars_size_by_hand():
    # 10 -> 8 pixels
    by_hand = (10 * 9 + 1) * 16 + (16 * 8 * 8 + 1) * 128 + (128 + 1) * 6
    assert size_of(image_network("minatar", PLANES, 6, (128,), PLAIN)) == by_hand


def test_pixels_are_scaled_to_one():
    network = image_network("minatar", ImageFormat((1, 3, 3), 255), 1, (2,), PLAIN).double()
    flat = pixels(ImageFormat((1, 3, 3), 255))
    images = flat.view(3, 1, 3, 3).double() / 255
    hidden = functional.relu(network.fc1(functional.relu(network.conv1(images)).flatten(1)))
    torch.testing.assert_close(network(flat), network.fc2(hidden))


def test_impala_written_out():
    images = ImageFormat((2, 9, 7), 255)
    network = image_network("impala", images, 3, (5,), PLAIN).double()
    flat, p = pixels(images), dict(network.named_parameters())

    def conv(maps, name):
        return functional.conv2d(maps, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    maps = flat.view(3, 2, 9, 7).double() / 255
    for stage in ("stage1", "stage2", "stage3"):
        maps = functional.max_pool2d(conv(maps, f"{stage}.conv"), 3, 2, 1)
        for block in ("block1", "block2"):
            inner = conv(maps.relu(), f"{stage}.{block}.conv1").relu()
            maps = maps + conv(inner, f"{stage}.{block}.conv2")
    rows = maps.relu().flatten(1)
    rows = functional.linear(rows, p["fc1.weight"], p["fc1.bias"]).relu()
    expected = functional.linear(rows, p["fc2.weight"], p["fc2.bias"])
    torch.testing.assert_close(network(flat), expected)


def test_the_units_that_can_be_reset():
    images = ImageFormat((3, 16, 16), 255)
    network = image_network("impala", images, 3, (5,), PLAIN)
    layers, faults = resettable_units(trace_units(network, pixels(images)), network)
    # The sum of a residual block has no units of its own; what is inside of a block has.
    assert set(layers) == set(network.hidden_layers)
    assert all(name.endswith(("conv", "conv2")) for name in faults)
    nature = image_network("nature", SCREEN, 3, (5,), PLAIN)
    layers, faults = resettable_units(trace_units(nature, pixels(SCREEN)), nature)
    assert (list(layers), faults) == (["conv1", "conv2", "conv3", "fc1"], {})


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("keep_units", [False, True])
def test_several_activations_share_or_multiply_the_outputs(name, keep_units):
    images = ImageFormat((3, 40, 40), 255)
    layer = LayerSpec(activations=crelu_pair(), keep_units=keep_units)
    network = image_network(name, images, 2, (6,), layer)
    assert network(pixels(images)).shape == (3, 2)
    assert network.fc1.out_features == (6 if keep_units else 3)


def crelu_pair():
    return (functional.relu, negative_relu)


def negative_relu(sums):
    return functional.relu(-sums)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_a_copy_by_pickle_scales_too(name):
    images = ImageFormat((3, 40, 40), 255)
    network = image_network(name, images, 2, (6,), PLAIN)
    flat = pixels(images)
    torch.testing.assert_close(pickle.loads(pickle.dumps(network))(flat), network(flat))


# 36 pixels become 8 by the first convolution, 3 by the second, and 1 by the third
@pytest.mark.parametrize(("name", "least"), [("nature", 36), ("minatar", 3)])
def test_images_too_small_for_the_convolutions(name, least):
    image_network(name, ImageFormat((1, least, least), 255), 2, (6,), PLAIN)
    message = f"image_network='{name}' needs images of at least {least} x {least} pixels"
    with pytest.raises(ValueError, match=message):
        image_network(name, ImageFormat((1, least - 1, 99), 255), 2, (6,), PLAIN)
