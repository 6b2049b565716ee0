#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Convert scenes of a database in the nuScenes schema to rosbag2, one bag per scene. Needs no ROS."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import add_bag_options, convert_scenes, run_command, run_tool

EXAMPLE = """\
examples:
  python tools/nuscenes_to_rosbag.py --dataroot ~/data/nuscenes --version v1.0-mini --scene scene-0061 --output bags
  ros2 bag play bags/scene-0061 --clock

  # a split (also: a file of scene names or sample tokens) by four processes; the same command again goes on where it
  # was stopped, and with --verify in place of --jobs it compares every message with the data set
  python tools/nuscenes_to_rosbag.py --dataroot ~/data/nuscenes --split mini_val --output bags --jobs 4

Each bag holds, per camera, /<CAM>/image_raw/compressed (the JPEG files' own bytes) and /<CAM>/camera_info, the lidar as
/LIDAR_TOP/points, the vehicle's motion as /tf (odom -> base_link) and the sensors' mounting as /tf_static. Where the
data set has them: 2D labels (nuscenes_semantic/) as /<CAM>/semantic/image_raw, mono8 Occ3D ids, 255 = ignore; Occ3D's
truth (gts/) as /occupancy_gt, at the lidar's stamp in base_link, with the label 255 where mask_camera says that no
camera sees the voxel. With --masks: /<CAM>/mask, mono8, 255 = the camera sees the world, once, latched.
"""


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run tidies up as an interrupted one does
    return run_command(lambda: convert(arguments), "interrupted; complete bags stay, those in progress were removed")


def convert(arguments: argparse.Namespace) -> int:
    # Imported here, because torch takes seconds and --help should not.
    from gaussianocc_core.data.nuscenes import NuScenesSource
    from gaussianocc_core.data.nuscenes_splits import select_scenes

    source = NuScenesSource(arguments.dataroot, arguments.version, follow_outside=arguments.follow_outside)
    contents = {
        "sweeps": not arguments.no_sweeps,
        "lidar": not arguments.no_lidar,
        "labels": not arguments.no_labels,
        "masks": arguments.masks,
    }
    return convert_scenes(
        select_scenes(source, arguments.scene, arguments.split),
        lambda scene: source.recording(scene, **contents),
        lambda scene, provenance: source.recording_like(scene, provenance, arguments.masks),
        arguments,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataroot", type=Path, required=True, help="folder that holds samples/, sweeps/ and VERSION/")
    add("--version", default="v1.0-mini", help="name of the folder with the tables (%(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--scene", nargs="+", metavar="NAME", help="scenes to convert (default: all of the version)")
    which.add_argument(
        "--split",
        metavar="SPLIT",
        help="train, val, mini_train, mini_val, test, or a file with a scene name or sample token on each line",
    )
    add_bag_options(parser)
    add("--follow-outside", action="store_true", help="follow links that lead out of the data root")
    add("--no-sweeps", action="store_true", help="keyframes only (2 Hz instead of 12 Hz images)")
    add("--no-lidar", action="store_true", help="leave the lidar out")
    add("--no-labels", action="store_true", help="leave 2D labels and Occ3D occupancy out")
    add("--masks", type=Path, metavar="DIR", help="folder of <camera>_mask.png, zero where a camera sees the vehicle")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
