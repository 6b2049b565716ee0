#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Convert scenes of DDAD, or of any data set in the DGP scene format, to rosbag2, one bag per scene. Needs no ROS."""

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
  python tools/ddad_to_rosbag.py --dataroot ~/data/ddad_train_val --split val --scene 000150 000151 --output bags
  ros2 bag play bags/000150 --clock

  # all of a split by four processes; the same command again goes on where it was stopped, and with --verify in place
  # of --jobs it compares every message with the data set
  python tools/ddad_to_rosbag.py --dataroot ~/data/ddad_train_val --split val --output bags --jobs 4

Each bag holds, per camera, /<CAM>/image_raw/compressed (the JPEG or PNG files' own bytes) and /<CAM>/camera_info, the
lidar as /LIDAR/points, the vehicle's motion as /tf (odom -> base_link) and the sensors' mounting as /tf_static. Stamps
are those of the file names; the dates in the data set's JSON files are wrong by centuries and are not used.
"""


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run tidies up as an interrupted one does
    return run_command(lambda: convert(arguments), "interrupted; complete bags stay, those in progress were removed")


def convert(arguments: argparse.Namespace) -> int:
    # Imported here, because torch takes seconds and --help should not.
    from gaussianocc_core.data.ddad import DdadSource

    source = DdadSource(arguments.dataroot, follow_outside=arguments.follow_outside)
    return convert_scenes(
        choose_scenes(source, arguments),
        lambda scene: source.recording(scene, lidar=not arguments.no_lidar),
        source.recording_like,
        arguments,
    )


def choose_scenes(source, arguments: argparse.Namespace) -> tuple[str, ...]:
    from gaussianocc_core.errors import DatasetError

    available = source.scene_names(arguments.split)
    scenes = tuple(dict.fromkeys(arguments.scene or available))
    for scene in scenes:
        if arguments.split and scene in source.scene_names() and scene not in available:
            raise DatasetError(f"scene {scene} is not in split {arguments.split}; leave --split out or choose another")
    if not scenes:
        raise DatasetError(f"split {arguments.split} of {arguments.dataroot} has no scenes; choose another")
    return scenes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataroot", type=Path, required=True, help="folder of the scene index (ddad.json, or any name) and the scenes"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="scenes of this split (default: of all)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="folders of the scenes to convert (default: all)")
    add_bag_options(parser)
    parser.add_argument("--follow-outside", action="store_true", help="follow links that lead out of the data root")
    parser.add_argument("--no-lidar", action="store_true", help="leave the lidar out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
