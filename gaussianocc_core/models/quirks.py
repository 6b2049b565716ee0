# SPDX-License-Identifier: Apache-2.0
"""What the published code does oddly, as values of one dataclass; no code asks for a "mode".

`Quirks()` is how this project does it, `PUBLISHED` what the released weights were trained with. A model's configuration
holds one, so a checkpoint always runs the way it was trained; functions take the values they need.

Not here, because they are settings elsewhere: the contracted lattice with its moved border (`types.Lattice`), the fixed
scales (`config.GaussianConfig`) and the position channels (`config.DecoderConfig.position`). Not reproduced at all:
what went wrong around the networks (docs/method.md#m), such as batch norms of frozen pose networks that keep changing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gaussianocc_core.geometry.pixel_centers import PIXEL_CENTER
from gaussianocc_core.models.lifting import OUR_LIFT, PUBLISHED_LIFT, LiftConstants
from gaussianocc_core.rendering.geometry import GSPLAT, RasterConstants
from gaussianocc_core.rendering.geometry import PUBLISHED as PUBLISHED_RASTER
from gaussianocc_core.rendering.march import DEFAULT_MARCH, PUBLISHED_PROB, MarchSettings

# The least blur that still covers the gaps between pixel centres. gsplat's 0.3 px^2 is half a pixel in standard
# deviation: in an image of 88 pixels the road 28 m away then ends 0.2 m above itself, 7 m too near.
OUR_RASTER = replace(GSPLAT, blur=0.05)
HALF_SPACES = ("+x", "-x", "+y", "-y")


@dataclass(frozen=True)
class Quirks:
    """Oddities of the published code (docs/method.md#m and where each is described). Defaults: ours."""

    NAMED: ClassVar[Mapping[str, Quirks]] = {}  # for configuration files: `quirks: published`

    # docs/method.md#b.2: sampling misaligned by up to half a feature pixel, zero padding, camera mean per
    # channel over non-zeros.
    lift: LiftConstants = OUR_LIFT
    # docs/method.md#e.4, #e.5: vertical size of footprints from the horizontal field of view, and where that
    # rasteriser is not gsplat.
    raster: RasterConstants = OUR_RASTER
    # docs/method.md#c.3: only the first so many hourglasses add the skip from the input; None: all. Published: 2 of 3.
    skipping_hourglasses: int | None = None
    # docs/method.md#e.7: rendered depth divided by alpha; published: accumulated only, so too near where a
    # surface is thin.
    normalize_depth: bool = True
    # docs/method.md#e: rendered depth is clamped to this, m; None: not at all. Published: (0.1, 80), also
    # for DDAD's 200 m.
    depth_range: tuple[float, float] | None = None
    # docs/method.md#e: Gaussians a camera draws, as camera name -> half space of the ego frame beyond the camera's
    # centre ("+x": x greater). Cameras of other names draw the half space that they look into most. (): every
    # camera draws all.
    half_spaces: tuple[tuple[str, str], ...] = ()
    # docs/method.md#e.11, #e.12, volume rendering: rays that end at a wall, dropped samples that read ones.
    march: MarchSettings = DEFAULT_MARCH
    # docs/method.md#g.1: where the photometric warp takes pixel centres to lie; everything else has them at
    # 0.5. Published: 0.
    warp_pixel_center: float = PIXEL_CENTER
    # Principal points are taken as calibrations have them, counted from the centre of the first pixel, by code that has
    # pixel centres at 0.5: half a native pixel off. Ours: converted (`geometry.pixel_centers`).
    intrinsics_as_recorded: bool = False
    # docs/method.md#i.2: a voxel is occupied where any class has a higher logit than free space. That is not what
    # rendering saw: a class logit of 5 beside a free logit of 3 is a voxel of 5 % opacity. Ours: where the opacity
    # is above one half.
    occupied_by_argmax: bool = False
    # docs/method.md#i.2: the occupancy query stands half a mean lattice cell above a voxel's low corner,
    # whatever the voxel size.
    lattice_shift: bool = False

    def __post_init__(self) -> None:
        for name, half_space in self.half_spaces:
            if half_space not in HALF_SPACES:
                raise ValueError(f"half_spaces: {name} has {half_space!r}, expected one of {HALF_SPACES}")
        if self.depth_range is not None and not 0 <= self.depth_range[0] < self.depth_range[1]:
            raise ValueError(f"depth_range: expected 0 <= near < far in metres, got {self.depth_range}")


# The published ring, counter-clockwise from the front, as this project's rigs, nuScenes and DDAD name it.
_RING = ("+x", "+y", "+y", "-x", "-y", "-y")
_RING_NAMES = (
    ("front", "front_left", "back_left", "back", "back_right", "front_right"),
    ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT", "CAM_FRONT_RIGHT"),
    ("CAMERA_01", "CAMERA_05", "CAMERA_07", "CAMERA_09", "CAMERA_08", "CAMERA_06"),
)

PUBLISHED = Quirks(
    lift=PUBLISHED_LIFT,
    raster=PUBLISHED_RASTER,
    skipping_hourglasses=2,
    normalize_depth=False,
    depth_range=(0.1, 80.0),
    half_spaces=tuple(pair for names in _RING_NAMES for pair in zip(names, _RING, strict=True)),
    march=PUBLISHED_PROB,
    warp_pixel_center=0.0,
    intrinsics_as_recorded=True,
    occupied_by_argmax=True,
    lattice_shift=True,
)

Quirks.NAMED = {"ours": Quirks(), "published": PUBLISHED}
