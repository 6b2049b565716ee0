# SPDX-License-Identifier: Apache-2.0
"""What lens, shutter, sensor and codec make of a clean picture, drawn at random by seed.

Lengths are in shares of the image's width, so that one `Optics` fits every image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_TAPS = 5  # pictures averaged along the motion of each pixel


@dataclass(frozen=True)
class Optics:
    """One rig's cameras: what they have in common, and how each differs (one entry per camera)."""

    gains: tuple[float, ...]  # exposure, relative
    tints: tuple[tuple[float, float, float], ...]  # white balance, relative RGB
    gamma: float  # of the tone curve, 1: as rendered
    vignetting: float  # share of the brightness missing in the corners
    defocus: float  # standard deviation of the blur, share of the width
    shutter: float  # s; things move across the image while it is open
    noise: float  # standard deviation at black, grey levels
    shot: float  # standard deviation of the part that grows with brightness, grey levels at white
    quality: int  # of JPEG, 0: none
    seed: int

    @staticmethod
    def draw(rng: np.random.Generator, cameras: int, dark: float = 0.0) -> Optics:
        """`dark` 0 (day) to 1 (night) lengthens the shutter and raises the noise."""
        spread = rng.choice([0.01, 0.04, 0.10])
        gains = np.exp(rng.normal(0.0, spread, cameras)) * np.exp(rng.normal(0.0, 0.18))
        tint = np.exp(rng.normal(0.0, 0.04, 3))
        tints = tint * np.exp(rng.normal(0.0, 0.015, (cameras, 3)))
        noisy = float(rng.exponential(1.2)) + 3.0 * dark * float(rng.random())
        return Optics(
            gains=tuple(float(g) for g in np.clip(gains, 0.45, 1.9)),
            tints=tuple((float(r), float(g), float(b)) for r, g, b in tints),
            gamma=float(np.exp(rng.normal(0.0, 0.12))),
            vignetting=float(rng.uniform(0.0, 0.5)) if rng.random() < 0.5 else 0.0,
            defocus=float(rng.uniform(0.0008, 0.0035)) if rng.random() < 0.25 else 0.0,
            shutter=float(rng.uniform(0.002, 0.012) * (1.0 + 2.0 * dark)) if rng.random() < 0.5 else 0.0,
            noise=0.4 + noisy,
            shot=float(rng.uniform(0.3, 3.0)) * (1.0 + 1.5 * dark),
            quality=int(rng.integers(45, 97)) if rng.random() < 0.7 else 0,
            seed=int(rng.integers(1 << 31)),
        )

    def expose(
        self,
        index: int,
        color: Float[np.ndarray, "H W 3"],
        flow: Float[np.ndarray, "H W 2"] | None = None,
        moment: int = 0,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The picture that camera `index` delivers of a clean one (RGB, 0-255 as displayed).

        `flow` holds by how many pixels (x, y) each point moves while the shutter is open; `moment` seeds the noise.
        """
        height, width = color.shape[:2]
        image: Any = np.ascontiguousarray(color, dtype=np.float32)
        if flow is not None:
            image = _smear(image, flow)
        if self.defocus * width > 0.25:
            image = cv2.GaussianBlur(image, (0, 0), self.defocus * width)
        gain = self.gains[index] * np.asarray(self.tints[index], dtype=np.float32)
        # The display curve has a gamma of about 2: a gain of light is its root in grey levels.
        image = image * np.sqrt(gain)
        if self.vignetting > 0.0:
            image *= _falloff(width, height, self.vignetting)
        if self.gamma != 1.0:
            image = 255.0 * np.power(np.clip(image / 255.0, 0.0, 1.0), np.float32(self.gamma))
        rng = np.random.default_rng([self.seed, index, moment])
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        deviation = np.sqrt(self.noise**2 + self.shot**2 * np.clip(image, 0.0, 255.0) / 255.0)
        result = np.clip(image + grain * deviation + 0.5, 0, 255).astype(np.uint8)
        return recompress(result, self.quality) if self.quality else result


def recompress(image: UInt8[np.ndarray, "H W 3"], quality: int) -> UInt8[np.ndarray, "H W 3"]:
    """An RGB image after JPEG of this quality."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])


def _smear(image: Float[np.ndarray, "H W 3"], flow: Float[np.ndarray, "H W 2"]) -> Float[np.ndarray, "H W 3"]:
    """Mean over the way that each pixel goes; much less than a pixel changes nothing."""
    if np.percentile(np.abs(flow), 95) < 0.25:
        return image
    height, width = image.shape[:2]
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    flow = np.clip(flow, -0.06 * width, 0.06 * width).astype(np.float32)  # at the rim of a lens it runs away
    total = np.zeros_like(image)
    for k in range(_TAPS):
        share = np.float32((k + 0.5) / _TAPS - 0.5)
        total += cv2.remap(
            image, u + share * flow[..., 0], v + share * flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return total / _TAPS


def _falloff(width: int, height: int, strength: float) -> Float[np.ndarray, "H W 1"]:
    x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
    r2 = (x[None] ** 2 + (y[:, None] * height / width) ** 2) / (0.25 + 0.25 * (height / width) ** 2)
    return np.sqrt(1.0 - strength * r2)[..., None].astype(np.float32)
