# SPDX-License-Identifier: Apache-2.0
"""A few synthetic images through a network that was just loaded: what cannot be right is refused before it is used.

Weights can be finite, of the right names and shapes, and still say nothing: then everything would be free, or NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.errors import PredictionError
from gaussianocc_core.finite import check_finite
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.types import Cameras

_IMAGES = 3
_WIDTH = 256  # px, most of the images: networks of convolutions take any size
_SIDE = 48  # cells along x and y around the middle of the lattice: as telling as all of it, and cheap at any size
_HEIGHT_M, _FOCAL = 1.5, 0.8  # of the camera above the ground; in widths of its image


@torch.inference_mode()
def self_test(model: GaussianOcc, width: int, height: int, trained: bool) -> None:
    """PredictionError where the network, in eval mode on its device, cannot be right.

    That is: logits or depths that are no numbers; of one that is said to be trained, exactly one and the same answer
    at every point for every one of several quite different images. A young network that has begun to tell anything
    from anything passes. width, height: of the network's input, pixels.
    """
    width, height = _shrink(width, height)
    device = model.points.device
    plan = model.plan(_camera(width, height).to(device), points=_middle(model.points))
    images = torch.stack([_draw(width, height, seed) for seed in range(_IMAGES)])[:, None].to(device)
    field = model(images, [plan] * _IMAGES)
    check_finite("logits of the self-test", field.logits)
    if field.inv_depth is not None:
        check_finite("depths of the self-test", field.inv_depth)
    if not trained:
        return
    logits = field.logits.float()
    if model.quirks.occupied_by_argmax:
        labels = logits.argmax(dim=1)
    else:  # occupied where the opacity is above one half
        labels = torch.where(logits[:, -1] < 0, logits[:, :-1].argmax(dim=1), logits.shape[1] - 1)
    if labels.min() == labels.max():
        free = int(labels.max()) == logits.shape[1] - 1
        raise PredictionError(
            f"the network answers {_IMAGES} different images with {'free space' if free else 'one and the same class'} "
            "everywhere, so it sees nothing: the weights are damaged, or were saved before training taught them "
            "anything. Use another checkpoint"
        )


def _shrink(width: int, height: int) -> tuple[int, int]:
    """At most _WIDTH wide; multiples of 16, as encoders need."""
    factor = max(1.0, width / _WIDTH)
    return max(16, 16 * round(width / factor / 16)), max(16, 16 * round(height / factor / 16))


def _middle(points: Float[Tensor, "X Y Z 3"]) -> Float[Tensor, "X2 Y2 Z 3"]:
    """The columns of the lattice around its middle, a multiple of 4 of them, as decoders need."""
    for axis in range(2):
        size = points.shape[axis]
        kept = min(size, _SIDE)
        points = points.narrow(axis, (size - kept) // 2, kept)
    return points


def _camera(width: int, height: int) -> Cameras:
    """A pinhole camera that looks forward over level ground."""
    f = _FOCAL * width
    K = torch.tensor([[[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]]])
    T_ego_cam = torch.from_numpy(make_transform(view_rotation(0.0), np.array([0.0, 0.0, _HEIGHT_M]))).float()[None]
    return Cameras(("self_test",), K, T_ego_cam, (width,), (height,))


def _draw(width: int, height: int, seed: int) -> Float[Tensor, "3 h w"]:
    """RGB 0-1: a bright sky, a darker ground, and blocks in between; another one for each seed."""
    random = np.random.default_rng(seed)
    image = np.empty((3, height, width), dtype=np.float32)
    horizon = int(height * random.uniform(0.4, 0.6))
    image[:, :horizon] = random.uniform(0.5, 1.0, (3, 1, 1))
    image[:, horizon:] = random.uniform(0.1, 0.5, (3, 1, 1))
    for _ in range(8):
        wide, tall = random.integers(width // 16, width // 4 + 1), random.integers(height // 8, height // 2 + 1)
        left, top = random.integers(0, width - wide), random.integers(max(0, horizon - int(tall)), height - tall + 1)
        image[:, top : top + tall, left : left + wide] = random.uniform(0.0, 1.0, (3, 1, 1))
    image += random.normal(0.0, 0.05, image.shape).astype(np.float32)
    return torch.from_numpy(image.clip(0.0, 1.0))
