# SPDX-License-Identifier: Apache-2.0
"""Depth and class colours."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Num, UInt8

from gaussianocc_core.labels import FREE, PALETTE

FREE_RGB = (27, 34, 46)  # free space and sky: a calm dark blue-grey
ERROR_RGB = ((49, 94, 214), (238, 238, 232), (203, 37, 41))  # too small, right, too large


def colorize_depth(
    depth: Num[np.ndarray, "H W"], near: float | int = 1.0, far: float | int = 60.0
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of z-depth in metres, near red to far blue on a logarithmic scale; black where it is not positive or finite.

    Equal ratios of depth get equal steps of colour: 2 m against 4 m is as distinct as 20 m against 40 m.
    """
    if not 0 < near < far:
        raise ValueError(f"near, far: expected 0 < near < far, got {near} and {far}")
    valid = np.isfinite(depth) & (depth > 0)
    position = np.log(np.where(valid, depth, far) / near) / np.log(far / near)
    # 0.04 and 0.92 keep off the nearly black ends of the colour map.
    shade = (255 * (0.92 - 0.88 * np.clip(position, 0, 1))).astype(np.uint8)
    image = cv2.cvtColor(cv2.applyColorMap(shade, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    image[~valid] = 0
    return image


def height_colors(count: int) -> UInt8[np.ndarray, "n 3"]:
    """RGB from low, blue, to high, red, with equal steps."""
    # As for depth: the ends of the colour map are nearly black.
    shade = np.linspace(255 * 0.04, 255 * 0.92, count).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(shade[:, None], cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)[:, 0]


def voxel_colors(labels: UInt8[np.ndarray, "X Y Z"], by_height: bool = False) -> Float[np.ndarray, "X Y Z 3"]:
    """RGB, 0-1, of Occ3D class ids, or by height: from the grid's lowest layer, blue, to its highest, red.

    By height where a model knows no classes: then an id says only that something is there.
    """
    if by_height:
        return np.broadcast_to(height_colors(labels.shape[2]) / 255.0, (*labels.shape, 3))
    return PALETTE[np.minimum(labels, FREE)] / 255.0


def colorize_confidence(confidence: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """RGB, 0-1, of a probability: dark violet 0.5 and below, to yellow 1."""
    shade = np.rint(255 * ((np.asarray(confidence) - 0.5) * 2).clip(0, 1)).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1] / 255.0
    return table[shade]


def colorize_error(error: Num[np.ndarray, "H W"], limit: float | int = 0.5) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of a signed error: blue at -limit, nearly white at 0, red at limit and beyond; dark where it is NaN."""
    known = np.isfinite(error)
    position = np.clip(np.where(known, error, 0.0) / limit, -1, 1)
    image = np.stack([np.interp(position, (-1, 0, 1), stops) for stops in zip(*ERROR_RGB, strict=True)], axis=-1)
    image[~known] = FREE_RGB
    return np.rint(image).astype(np.uint8)


def colorize_labels(labels: Num[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of Occ3D class ids; free, occluded, unobserved and other ids get the dark FREE_RGB."""
    table = np.tile(np.array(FREE_RGB, dtype=np.uint8), (256, 1))
    table[:FREE] = PALETTE[:FREE]
    return table[labels.astype(np.uint8)]


def overlay(
    image: UInt8[np.ndarray, "H W 3"], colors: UInt8[np.ndarray, "H W 3"], opacity: float | Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Colours laid over an image; opacity 0-1, one number or one per pixel."""
    share = np.asarray(opacity, dtype=np.float32)
    if share.ndim == 2:
        share = share[..., None]
    mixed = image.astype(np.float32) * (1 - share) + colors.astype(np.float32) * share
    return np.rint(mixed).clip(0, 255).astype(np.uint8)
