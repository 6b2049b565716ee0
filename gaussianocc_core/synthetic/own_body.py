# SPDX-License-Identifier: Apache-2.0
"""The vehicle as its own cameras see it: it does not move in their images, so each camera's picture is made once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic.shapes import CLASS, PrimitiveTable
from gaussianocc_core.synthetic.world import NONE, camera_key, camera_rays, rotate
from gaussianocc_core.types import Cameras

if TYPE_CHECKING:
    from gaussianocc_core.synthetic.places.site import Site

_MARK = CLASS_ID["others"]  # the ground around the body has another class, so this one tells the body


class OwnBody:
    """A body in the ego frame under the light of a site, as it falls at time 0."""

    def __init__(self, body: PrimitiveTable, site: Site) -> None:
        # Numba is imported on first use of a world, never with the package.
        from gaussianocc_core.synthetic import ground as gr
        from gaussianocc_core.synthetic.scene import SUN_X, SUN_Y, Caster

        T = site.pose(0.0)
        yaw = math.atan2(T[1, 0], T[0, 0])
        c, s = math.cos(yaw), math.sin(yaw)
        light = site.light.copy()
        light[SUN_X] = c * site.light[SUN_X] + s * site.light[SUN_Y]
        light[SUN_Y] = -s * site.light[SUN_X] + c * site.light[SUN_Y]
        ground = np.zeros(gr.PARAMETERS)
        ground[gr.OPEN], ground[gr.BASE_SCALE], ground[gr.BASE_CLASS] = 1.0, 1.0, CLASS_ID["driveable_surface"]
        ints = body.ints.copy()
        ints[:, CLASS] = _MARK
        line = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
        caster = Caster(PrimitiveTable(body.floats, ints), line, np.zeros((0, 7)), ground, light)
        self._scene = caster.scene(PrimitiveTable.concatenate([]))
        self._seen: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def seen_by(self, cameras: Cameras, index: int) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
        """Colour 0-255 as displayed, and where the body is."""
        from gaussianocc_core.synthetic import raycast

        T_ego_cam = cameras.T_ego_cam[index].double().numpy()
        key = camera_key(cameras, index) + T_ego_cam.tobytes()
        if key not in self._seen:
            rays = rotate(T_ego_cam, camera_rays(cameras, index))
            color, _, label = raycast.render(
                self._scene, T_ego_cam[:3, 3], rays, NONE
            )  # a smooth outline would blend with nothing
            self._seen[key] = color, label == _MARK
        return self._seen[key]
