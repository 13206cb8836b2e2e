"""Random augmentations of images, as tensor operations on their device: crops, flips, colours.

Each image of a batch has draws of its own, from a generator on the images' device. Images are float, from 0
to 1; those of colours have the channels red, green and blue.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels in either direction; what comes in is black.

    Args:
        images: Shape: (batch, channels, height, width).
        padding: Largest shift.
        generator: Generator on the images' device.

    Returns:
        Images of the same shape.
    """
    top, left = torch.randint(
        2 * padding + 1, (2, len(images)), generator=generator, device=images.device
    )
    return shifted_crop(images, padding, top, left)


def shifted_crop(
    images: Tensor,
    padding: int,
    top: Tensor,
    left: Tensor,
    mode: Literal["constant", "reflect"] = "constant",
) -> Tensor:
    """Cut images of their own size out of the padded ones.

    Args:
        images: Shape: (batch, channels, height, width).
        padding: Pixels that are added on each side.
        top: First row of each image, 0 to 2 * `padding`, int64. Shape: (batch,).
        left: First column, likewise.
        mode: Values of these pixels: constant 0, or the reflected image.

    Returns:
        Images of the same shape.
    """
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4, mode=mode)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its centre, counter-clockwise; each pixel is that nearest to its place before.

    Args:
        images: Shape: (batch, channels, height, width).
        degrees: Angle of each. Shape: (batch,).

    Returns:
        Images of the same shape; what comes in is 0.
    """
    height, width = images.shape[-2:]
    angles = torch.deg2rad(degrees)
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # coordinates of a grid are from -1 to 1 along either side, whatever its length
    rows = [
        torch.stack([cosine, -sine * height / width, zero], 1),
        torch.stack([sine * width / height, cosine, zero], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="nearest", padding_mode="zeros", align_corners=False
    )


def random_flip(images: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirror each image left to right with some probability. Shape: (batch, channels, height, width)."""
    return torch.where(_chosen(images, probability, generator), images.flip(-1), images)


def random_resized_crop(
    images: Tensor,
    generator: torch.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Cut a rectangle out of each image, and enlarge it to the image's size (Szegedy et al., 2015).

    The area is uniform, the ratio of the sides log-uniform. A side that would be longer than the image is cut
    to it.

    Args:
        images: Shape: (batch, channels, height, width).
        generator: Generator on the images' device.
        area: Smallest and largest area, relative to the image.
        ratio: Smallest and largest ratio of width to height, relative to the image's.

    Returns:
        Images of the same shape, interpolated bilinearly.
    """
    draws = torch.rand(4, len(images), generator=generator, device=images.device)
    areas = area[0] + (area[1] - area[0]) * draws[0]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = torch.exp(low + (high - low) * draws[1])
    sides = torch.stack([(areas * ratios).sqrt(), (areas / ratios).sqrt()]).clamp(max=1.0)
    centres = (1 - sides) * (2 * draws[2:] - 1)
    return crop_and_resize(images, sides, centres)


def crop_and_resize(images: Tensor, sides: Tensor, centres: Tensor) -> Tensor:
    """Cut a rectangle out of each image and enlarge it to the image's size, bilinearly.

    Args:
        images: Shape: (batch, channels, height, width).
        sides: Width and height of each rectangle, relative to the image. Shape: (2, batch).
        centres: Horizontal and vertical place of its centre, from -1 to 1. Shape: (2, batch).
    """
    zeros = torch.zeros_like(sides[0])
    rows = [
        torch.stack([sides[0], zeros, centres[0]], 1),
        torch.stack([zeros, sides[1], centres[1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def random_colours(
    images: Tensor,
    generator: torch.Generator,
    strength: float = 0.5,
    probability: float = 0.8,
    grey_probability: float = 0.2,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, then make some images grey.

    With a strength of s, the first three have factors uniform within 1 ± 0.8 s, and the hue shifts by up to
    0.2 s of its circle (Chen et al., 2020, "A Simple Framework for Contrastive Learning", App. A; there the
    order is random).

    Args:
        images: Shape: (batch, 3, height, width).
        generator: Generator on the images' device.
        strength: Strength of the change, 0 to 1.
        probability: Probability that an image's colours change.
        grey_probability: Probability that it becomes grey.

    Returns:
        Images of the same shape.
    """
    draws = 2 * torch.rand(4, len(images), generator=generator, device=images.device) - 1
    brightness, contrast, saturation = (1 + 0.8 * strength * draws[:3])[..., None, None, None]
    changed = (images * brightness).clamp(0, 1)
    changed = _blended(changed, grey(changed).mean((-3, -2, -1), keepdim=True), contrast)
    changed = _blended(changed, grey(changed), saturation)
    changed = shift_hue(changed, 0.2 * strength * draws[3])
    images = torch.where(_chosen(images, probability, generator), changed, images)
    return torch.where(_chosen(images, grey_probability, generator), grey(images), images)


def grey(images: Tensor) -> Tensor:
    """Return images whose three channels are the luma. Shape: (batch, 3, height, width)."""
    weights = torch.tensor(GREY_WEIGHTS, dtype=images.dtype, device=images.device)
    luma = torch.einsum("bchw,c->bhw", images, weights)
    return luma[:, None].expand_as(images)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of each image in HSV, where saturation and value stay.

    Args:
        images: Shape: (batch, 3, height, width).
        shift: Shift on the circle of hues, of length 1: a third turns red into green. Shape: (batch,).
    """
    red, green, blue = images.unbind(1)
    value, lowest = images.amax(1), images.amin(1)
    chroma = value - lowest
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sector = sector + 6 * shift[:, None, None]
    # f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + H / 60°) mod 6, with n = 5, 3, 1 for R, G, B.
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device)
    place = (offsets[:, None, None] + sector[:, None]) % 6
    share = torch.minimum(place, 4 - place).clamp(0, 1)
    return value[:, None] - chroma[:, None] * share


def _blended(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Return others + factor * (images - others), from 0 to 1."""
    return torch.lerp(others.expand_as(images), images, factor).clamp(0, 1)


def _chosen(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(len(images), generator=generator, device=images.device)
    return (drawn < probability)[:, None, None, None]
