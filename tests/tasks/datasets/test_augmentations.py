"""Augmentations: against cases computed by hand, colorsys, and the ranges of their draws."""

import colorsys

import pytest
import torch

from plasticity.tasks.datasets.augmentations import (
    crop_and_resize,
    grey,
    random_colours,
    random_crop,
    random_flip,
    random_resized_crop,
    rotated,
    shift_hue,
    shifted_crop,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count=1, channels=1, side=3):
    """Images of different pixels, from 1 on."""
    return 1 + torch.arange(count * channels * side * side, dtype=torch.float32).view(
        count, channels, side, side
    )


def coloured(*colours):
    """Images of one pixel."""
    return torch.tensor(colours, dtype=torch.float32)[:, :, None, None]


def test_crops_are_all_shifts_and_move_the_channels_together():
    images = numbered(channels=2).expand(400, -1, -1, -1)
    found = random_crop(images, 1, generator())
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    shifts = [padded[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    counts = [sum(torch.equal(each, shift) for each in found) for shift in shifts]
    assert sum(counts) == 400
    # binomial(400, 1/9): 44 with a deviation of 6.3
    assert all(20 < count < 70 for count in counts)
    assert torch.equal(random_crop(images, 0, generator()), images)


def test_crops_at_given_places():
    images = numbered(count=2, channels=2)
    found = shifted_crop(images, 1, torch.tensor([0, 2]), torch.tensor([1, 1]))
    assert torch.equal(found[0, :, 1:], images[0, :, :-1])
    assert not found[0, :, 0].any()
    assert torch.equal(found[1, :, :-1], images[1, :, 1:])
    reflected = shifted_crop(images, 1, torch.tensor([0, 2]), torch.tensor([1, 1]), "reflect")
    assert torch.equal(reflected[0], images[0][:, [1, 0, 1]])
    assert torch.equal(reflected[1], images[1][:, [1, 2, 1]])


def test_rotations():
    images = numbered(count=4, channels=2, side=5)
    found = rotated(images, torch.tensor([0.0, 90.0, 180.0, 15.0]))
    for each, (image, turns) in enumerate(zip(images, (0, 1, 2), strict=False)):
        assert torch.equal(found[each], torch.rot90(image, turns, (1, 2)))  # counter-clockwise
    # 15 degrees: the pixel in column 2 + u, row 2 - v, counted from the centre, is that at the place turned
    # back: u cos + v sin, v cos - u sin
    cosine, sine = 0.9659258, 0.2588190
    for row in range(5):
        for column in range(5):
            u, v = column - 2, 2 - row
            x, y = round(u * cosine + v * sine) + 2, 2 - round(v * cosine - u * sine)
            inside = 0 <= x < 5 and 0 <= y < 5
            expected = images[3, :, y, x] if inside else torch.zeros(2)
            assert torch.equal(found[3, :, row, column], expected), (row, column)
    wide = numbered(side=4)[..., :2]
    assert torch.equal(rotated(wide, torch.tensor([180.0])), wide.flip(-1, -2))
    quarter = rotated(wide, torch.tensor([90.0]))  # of a tall image, the middle remains
    assert torch.equal(quarter[..., 1:3, :], torch.rot90(wide[..., 1:3, :], 1, (2, 3)))
    assert not quarter[..., [0, 3], :].any()


def test_flips():
    images = numbered(channels=2).expand(400, -1, -1, -1)
    found = random_flip(images, generator())
    flipped = sum(torch.equal(each, images[0].flip(-1)) for each in found)
    kept = sum(torch.equal(each, images[0]) for each in found)
    assert flipped + kept == 400
    assert 150 < flipped < 250  # 200 with a deviation of 10
    assert torch.equal(random_flip(images, generator(), 0.0), images)
    assert torch.equal(random_flip(images, generator(), 1.0), images.flip(-1))


def test_a_crop_of_the_whole_image_is_the_image():
    images = torch.rand(4, 3, 5, 7, generator=generator())
    torch.testing.assert_close(crop_and_resize(images, torch.ones(2, 4), torch.zeros(2, 4)), images)
    whole = random_resized_crop(images, generator(), area=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(whole, images)


def test_a_quarter_is_enlarged_bilinearly():
    # Pixels 1 2 | 3 4 in each row: the left half, twice as wide. Its samples lie at a quarter and three
    # quarters of the pixels: 0.75 (the border, mirrored: 1), 1.25, 1.75, 2.25.
    images = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 4, 4)
    half = crop_and_resize(images, torch.tensor([[0.5], [1.0]]), torch.tensor([[-0.5], [0.0]]))
    torch.testing.assert_close(half[0, 0], torch.tensor([1.0, 1.25, 1.75, 2.25]).expand(4, 4))
    upright = crop_and_resize(
        images.mT, torch.tensor([[1.0], [0.5]]), torch.tensor([[0.0], [-0.5]])
    )
    torch.testing.assert_close(upright, half.mT)


def test_random_crops_lie_within_the_image_and_have_the_areas_asked_for():
    side = 64
    ramp = torch.linspace(0, 1, side)
    across = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])
    found = random_resized_crop(across.expand(300, -1, -1, -1), generator(), area=(0.2, 0.6))
    # The first channel is the horizontal place, the second the vertical one: their ranges are the sides.
    width = (found[:, 0].amax((1, 2)) - found[:, 0].amin((1, 2))).clamp(max=1)
    height = (found[:, 1].amax((1, 2)) - found[:, 1].amin((1, 2))).clamp(max=1)
    areas, ratios = width * height, width / height
    assert 0.18 < areas.min() < 0.25
    assert 0.5 < areas.max() < 0.62
    assert 0.74 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.35
    places = found[:, 0].mean((1, 2))
    assert places.min() < 0.35
    assert places.max() > 0.65


def test_grey_is_the_luma():
    images = coloured([1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5])
    assert grey(images)[:, 0].flatten().tolist() == pytest.approx([0.299, 0.587, 0.114, 0.5])
    assert torch.equal(grey(images)[:, 0], grey(images)[:, 2])


def test_hues_shift_as_in_colorsys():
    images = torch.rand(200, 3, 1, 1, generator=generator())
    images[0], images[1], images[2] = 0.3, 0.0, 1.0  # grey, black, white
    images[3] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    shift = torch.rand(200, generator=generator(1)) - 0.5
    shift[3] = 1 / 3
    found = shift_hue(images, shift)[..., 0, 0]
    pixels = images[..., 0, 0].tolist()
    for pixel, amount, other in zip(pixels, shift.tolist(), found.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((hue + amount) % 1, saturation, value)
        assert other == pytest.approx(expected, abs=1e-5)
    assert found[3].tolist() == pytest.approx([0, 1, 0], abs=1e-6)  # red turned into green


def test_colours_by_hand():
    # Two grey images of one pixel: only the brightness acts, with factors within 1 ± 0.4.
    images = torch.full((1000, 3, 1, 1), 0.5)
    found = random_colours(images, generator(), 0.5, probability=1.0, grey_probability=0.0)
    assert torch.allclose(found[:, 0], found[:, 2], atol=1e-6)
    assert 0.3 <= found.min() < 0.31
    assert 0.69 < found.max() <= 0.7
    # Strength 0 changes nothing; a probability of 1 makes all grey.
    colours = torch.rand(50, 3, 2, 2, generator=generator())
    same = random_colours(colours, generator(), 0.0, grey_probability=0.0)
    torch.testing.assert_close(same, colours)
    all_grey = random_colours(colours, generator(), 0.0, grey_probability=1.0)
    torch.testing.assert_close(all_grey, grey(colours))


def test_the_order_and_the_factors_of_the_colours():
    # One image of the pixels a and b, and the draws from -1 to 1 of brightness, contrast and saturation.
    image = torch.tensor([[0.2, 0.6], [0.4, 0.5], [0.3, 0.1]])[None, :, None]
    draws = 2 * torch.rand(4, 1, generator=generator()) - 1
    bright, contrast, saturation = (1 + 0.4 * draws[:3, 0]).tolist()

    def luma(red, green, blue):
        return 0.299 * red + 0.587 * green + 0.114 * blue

    a, b = ([bright * channel for channel in pixel] for pixel in ((0.2, 0.4, 0.3), (0.6, 0.5, 0.1)))
    mean = (luma(*a) + luma(*b)) / 2
    pixels = [[mean + contrast * (channel - mean) for channel in pixel] for pixel in (a, b)]
    pixels = [[luma(*p) + saturation * (channel - luma(*p)) for channel in p] for p in pixels]
    expected = []
    for pixel in pixels:
        hue, other, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + 0.1 * draws[3].item()) % 1, other, value))
    found = random_colours(image, generator(), probability=1.0, grey_probability=0.0)
    assert found[0, :, 0, 0].tolist() == pytest.approx(expected[0], abs=1e-5)
    assert found[0, :, 0, 1].tolist() == pytest.approx(expected[1], abs=1e-5)


def test_shares_of_changed_and_grey_images_and_draws_of_a_seed():
    images = torch.rand(1000, 3, 2, 2, generator=generator())
    found = random_colours(images, generator())
    is_grey = ((found[:, 0] - found[:, 1]).abs() < 1e-6).flatten(1).all(1)
    assert 150 < is_grey.sum() < 250  # 200 with a deviation of 13
    unchanged = (found == images).flatten(1).all(1)
    assert 110 < unchanged.sum() < 210  # 0.2 of 0.8: 160 with a deviation of 12
    assert torch.equal(found, random_colours(images, generator()))
    assert not torch.equal(found, random_colours(images, generator(1)))
    assert found.min() >= 0
    assert found.max() <= 1
