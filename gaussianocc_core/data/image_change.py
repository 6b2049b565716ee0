# SPDX-License-Identifier: Apache-2.0
"""How much the images of a bag change over time: standing still, where there is no odometry to tell."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.bags import messages
from gaussianocc_core.bags.message_ref import MessageRef
from gaussianocc_core.bags.reader import open_reader
from gaussianocc_core.data.bag import BagEntry


def image_change(entry: BagEntry) -> float:
    """Mean grey levels by which the anchor's image differs from its neighbours', the lesser of them; inf without."""
    here = _small(entry.path, entry.frame.images[0])
    others = [_small(entry.path, frame.images[0]) for _, frame in entry.neighbours]
    changes = [float(cv2.absdiff(here, other).mean()) for other in others if other.shape == here.shape]
    return min(changes, default=float("inf"))


@lru_cache(maxsize=16)
def _small(path: Path, ref: MessageRef) -> UInt8[np.ndarray, "h w"]:
    """Grey, an eighth of the size; smoothed, so that noise does not count. Entries in time order share most images."""
    (message,) = open_reader(path).read([ref])
    if not hasattr(message, "format"):  # raw, or of video
        try:
            grey = cv2.cvtColor(messages.decode_image(message), cv2.COLOR_RGB2GRAY)
        except messages.ImageError:
            return np.zeros((1, 1), np.uint8)
        return cv2.resize(grey, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    decoded = cv2.imdecode(message.data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return np.zeros((1, 1), np.uint8) if decoded is None else decoded
