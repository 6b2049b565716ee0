# SPDX-License-Identifier: Apache-2.0
"""Pictures without a display: depth and label colours, camera mosaics, 3D views, demo frames, video."""

from gaussianocc_core.viz.colors import colorize_depth, colorize_error, colorize_labels, overlay
from gaussianocc_core.viz.files import write_png, write_video
from gaussianocc_core.viz.frame import DemoFrame, compose_frame
from gaussianocc_core.viz.keyframe import KeyframePicture, compose_keyframe
from gaussianocc_core.viz.mosaic import camera_mosaic, surround_rows
from gaussianocc_core.viz.scene import DARK, LIGHT, Background, Viewpoint, occupancy_view, top_view

__all__ = [
    "DARK",
    "LIGHT",
    "Background",
    "DemoFrame",
    "KeyframePicture",
    "Viewpoint",
    "camera_mosaic",
    "colorize_depth",
    "colorize_error",
    "colorize_labels",
    "compose_frame",
    "compose_keyframe",
    "occupancy_view",
    "overlay",
    "surround_rows",
    "top_view",
    "write_png",
    "write_video",
]
