# SPDX-License-Identifier: Apache-2.0
"""What a model's configuration may ask for: it may come in a stranger's checkpoint; it is checked before building."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gaussianocc_core.bounded import memory_bytes
from gaussianocc_core.labels import CLASS_NAMES, OCCUPIED
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.names import name_fault, shorten

# The published network has 384 x 640 pixels, 2.2 million cells, 32 channels in 3 hourglasses, 512 in its encoder.
MOST_SIDE, MOST_PIXELS = 4096, 1 << 22  # of the input images
MOST_AXIS, MOST_CELLS = 2048, 20_000_000  # of the lattice, and of the published grid
MOST_CHANNELS, MOST_BLOCKS = 4096, 16
MOST_CLASSES = 254  # the values beyond are the message's "occluded" and "unobserved"
_FARTHEST, _FLOAT = 1e5, 4  # m; bytes
_USUAL_CAMERAS = 6


def check_limits(config: ModelConfig) -> None:
    """ValueError, with the setting and its limit, where a configuration asks for what no machine or robot has."""
    for name, value, low, high in _numbers(config):
        whole = isinstance(low, int)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            kind = "whole number" if whole else "number"
            raise ValueError(f"{name}: expected a {kind} from {low:g} to {high:g}, got {shorten(value)}")
    for name, shape in (("lattice.shape", config.lattice.shape), ("grid.shape", config.grid.shape)):
        if math.prod(shape) > MOST_CELLS:
            raise ValueError(f"{name}: {math.prod(shape)} cells; at most {MOST_CELLS} are possible")
    if config.image_height * config.image_width > MOST_PIXELS:
        raise ValueError(f"image_height, image_width: {config.image_height}x{config.image_width} is too large")
    _check_class_names(config)
    needed, there = estimate_bytes(config), memory_bytes()
    if there and needed > there:
        raise ValueError(
            f"the model needs about {needed / 1e9:.1f} GB of memory for one forward pass, this machine has "
            f"{there / 1e9:.1f} GB; use a smaller lattice, fewer channels or smaller images"
        )


def _numbers(config: ModelConfig) -> Iterator[tuple[str, Any, float, float]]:
    """(setting, value, least, most)"""
    encoder, decoder, pose, depth = config.encoder, config.decoder, config.pose, config.depth
    yield "image_height", config.image_height, 16, MOST_SIDE
    yield "image_width", config.image_width, 16, MOST_SIDE
    yield "encoder.width", encoder.width, 1e-3, 8.0
    yield "encoder.feature_channels", encoder.feature_channels, 1, MOST_CHANNELS
    for channels in encoder.up_channels:
        yield "encoder.up_channels", channels, 1, MOST_CHANNELS
    yield "decoder.channels", decoder.channels, 1, MOST_CHANNELS
    yield "decoder.hourglasses", decoder.hourglasses, 0, MOST_BLOCKS
    yield "decoder.head_blocks", decoder.head_blocks, 0, MOST_BLOCKS
    for count in config.lattice.shape:
        yield "lattice.shape", count, 2, MOST_AXIS
    for count in config.grid.shape:
        yield "grid.shape", count, 1, MOST_AXIS
    for name, place in (
        ("lattice.low", config.lattice.low),
        ("lattice.high", config.lattice.high),
        ("grid.origin", config.grid.origin),
    ):
        for value in place:
            yield name, value, -_FARTHEST, _FARTHEST
    yield "grid.voxel_size", config.grid.voxel_size, 1e-3, 1e3
    for scale in config.gaussians.scale:
        yield "gaussians.scale", scale, 1e-6, 1e3
    yield "reach", config.reach, 0.0, _FARTHEST
    yield "caution", config.caution, 0.001, 0.999
    yield "fisheye_fov_deg", config.fisheye_fov_deg, 1.0, 179.0
    yield "depth.near", depth.near, 1e-3, _FARTHEST
    yield "depth.far", depth.far, 1e-3, _FARTHEST
    matching = config.matching
    yield "matching.depths", matching.depths, 1, 1024
    yield "matching.channels", matching.channels, 1, MOST_CHANNELS
    yield "matching.hidden", matching.hidden, 1, MOST_CHANNELS
    yield "matching.nearest", matching.nearest, 1e-3, _FARTHEST
    yield "matching.spacing", matching.spacing, 1e-3, 100.0
    yield "pose.width", pose.width, 1e-3, 8.0
    yield "pose.channels", pose.channels, 1, MOST_CHANNELS
    yield "pose.reduction", pose.reduction, 1, 64


def _check_class_names(config: ModelConfig) -> None:
    names = config.class_names
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(f"class_names: expected 2 to {MOST_CLASSES}, free space last, got {len(names)}")
    if len(set(names)) != len(names):
        raise ValueError("class_names: a name is there twice")
    if "free" in names[:-1] or names[-1] in (*CLASS_NAMES[:-1], OCCUPIED):  # obstacles would be published as free
        raise ValueError(f"class_names: the last one is free space, got {shorten(names[-1])}; put free last")
    for name in (*names, config.name):
        if fault := name_fault(name):
            raise ValueError(f"class_names, name: {shorten(name)} is refused: {fault}")


def estimate_bytes(config: ModelConfig) -> int:
    """Roughly what weights and one forward pass of six cameras take in float32; too little rather than too much."""
    encoder, decoder = config.encoder, config.decoder
    cells, columns = math.prod(config.lattice.shape), math.prod(config.lattice.shape[:2])
    classes, channels = len(config.class_names), decoder.channels
    values = cells * (encoder.feature_channels + classes + 3)
    if decoder.kind == "hourglass":
        values += 3 * cells * channels
        values += 27 * channels * channels * (6 * decoder.hourglasses + decoder.head_blocks)
    else:
        heights = config.lattice.shape[2]
        values += columns * (2 * channels + heights * classes) + 80 * channels * channels
        values += channels * heights * classes
    pixels = _USUAL_CAMERAS * config.image_height * config.image_width
    up = encoder.up_channels
    values += pixels * 3 + pixels // 16 * (encoder.feature_channels + up[1]) + pixels // 64 * up[0]
    values += 9 * (up[0] * up[0] + up[1] * (up[0] + up[1]))
    if config.matching.enabled:
        values += pixels // 16 * config.matching.depths * 4
    values += math.prod(config.grid.shape) * 2
    return _FLOAT * values
