# SPDX-License-Identifier: Apache-2.0
"""The procedural worlds: embedded default data, the truth that tests measure against, draws for pretraining."""

from gaussianocc_core.synthetic.draw import WORLDS, RandomScene, random_scene
from gaussianocc_core.synthetic.fleet import Rig, Vehicle, draw_rig
from gaussianocc_core.synthetic.rig import Lidar, default_rig, fisheye_rig
from gaussianocc_core.synthetic.world import Frame, World, occupancy, render_frame, scan_lidar

__all__ = [
    "WORLDS",
    "Frame",
    "Lidar",
    "RandomScene",
    "Rig",
    "Vehicle",
    "World",
    "default_rig",
    "draw_rig",
    "fisheye_rig",
    "occupancy",
    "random_scene",
    "render_frame",
    "scan_lidar",
]
