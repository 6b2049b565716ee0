#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Convert scenes of DDAD, or of any data set in the DGP scene format, to rosbag2, one bag per scene. Needs no ROS."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by path, a clone uses the package beside it

from gaussianocc_core.command_line import run_tool

EXAMPLE = """\
examples:
  python tools/ddad_to_rosbag.py --dataroot ~/data/ddad_train_val --split val --scene 000150 000151 --output bags
  ros2 bag play bags/000150 --clock

Each bag holds, per camera, /<CAM>/image_raw/compressed (the JPEG or PNG files' own bytes) and /<CAM>/camera_info, the
lidar as /LIDAR/points, the vehicle's motion as /tf (odom -> base_link) and the sensors' mounting as /tf_static. Stamps
are those of the file names; the dates in the data set's JSON files are wrong by centuries and are not used.
"""


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run tidies up as an interrupted one does
    # Imported here, because torch takes seconds and --help should not.
    from gaussianocc_core.data.bag_writer import refuse_existing
    from gaussianocc_core.data.ddad import DdadSource
    from gaussianocc_core.errors import GaussianOccError

    try:
        source = DdadSource(arguments.dataroot)
        scenes = choose_scenes(source, arguments)
        for scene in scenes:  # a mistake in the last name should not show after an hour of writing
            source.rig(scene)
            refuse_existing(arguments.output / scene, arguments.overwrite)
        for scene in scenes:
            convert(source, scene, arguments)
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the bag in progress was removed", file=sys.stderr)
        return 130
    return 0


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


def convert(source, scene: str, arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from gaussianocc_core.data.bag_writer import PoseRecord
    from gaussianocc_core.data.ddad import write_scene_bag

    lidar = not arguments.no_lidar
    files = source.count_files(scene, lidar=lidar)
    with tqdm(total=files, desc=scene, unit="files", disable=None, leave=False) as bar:  # silent where no terminal is
        report = write_scene_bag(
            source,
            scene,
            arguments.output / scene,
            storage=arguments.storage,
            overwrite=arguments.overwrite,
            lidar=lidar,
            on_record=lambda record: bar.update(not isinstance(record, PoseRecord)),
        )
    megabytes = report.bytes / 1e6
    print(
        f"{scene}: {report.messages} messages, {megabytes:.1f} MB in {report.seconds:.1f} s "
        f"({megabytes / report.seconds:.0f} MB/s)\n"
        f"  play it:  ros2 bag play {report.path} --clock\n"
        f"  or:       python -m gaussianocc_ros.bag_player {report.path} --clock"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataroot", type=Path, required=True, help="folder of the scene index (ddad.json, or any name) and the scenes"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="scenes of this split (default: of all)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="folders of the scenes to convert (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="each scene becomes the bag OUTPUT/NAME")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="rosbag2 storage (%(default)s)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace bags that exist, once the new one is complete"
    )
    parser.add_argument("--no-lidar", action="store_true", help="leave the lidar out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
