# SPDX-License-Identifier: Apache-2.0
"""The procedural street world: embedded default data and the truth that tests measure against."""

from gaussianocc_core.synthetic.rig import Lidar, default_rig, fisheye_rig
from gaussianocc_core.synthetic.world import Frame, World, occupancy, render_frame, scan_lidar

__all__ = ["Frame", "Lidar", "World", "default_rig", "fisheye_rig", "occupancy", "render_frame", "scan_lidar"]
