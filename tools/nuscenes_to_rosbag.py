#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Convert scenes of a database in the nuScenes schema to rosbag2, one bag per scene. Needs no ROS."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by path, a clone uses the package beside it

from gaussianocc_core.command_line import run_tool

EXAMPLE = """\
example:
  python tools/nuscenes_to_rosbag.py --dataroot ~/data/nuscenes --version v1.0-mini --scene scene-0061 --output bags
  ros2 bag play bags/scene-0061 --clock

Each bag holds, per camera, /<CAM>/image_raw/compressed (the JPEG files' own bytes) and /<CAM>/camera_info, the lidar as
/LIDAR_TOP/points, the vehicle's motion as /tf (odom -> base_link) and the sensors' mounting as /tf_static.
"""


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run tidies up as an interrupted one does
    # Imported here, because torch takes seconds and --help should not.
    from gaussianocc_core.data.bag_writer import refuse_existing
    from gaussianocc_core.data.nuscenes import NuScenesSource
    from gaussianocc_core.errors import GaussianOccError

    try:
        source = NuScenesSource(arguments.dataroot, arguments.version)
        scenes = tuple(dict.fromkeys(arguments.scene or source.scene_names()))
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


def convert(source, scene: str, arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from gaussianocc_core.data.bag_writer import PoseRecord
    from gaussianocc_core.data.nuscenes import write_scene_bag

    sweeps, lidar = not arguments.no_sweeps, not arguments.no_lidar
    files = source.count_files(scene, sweeps=sweeps, lidar=lidar)
    with tqdm(total=files, desc=scene, unit="files", disable=None, leave=False) as bar:  # silent where no terminal is
        report = write_scene_bag(
            source,
            scene,
            arguments.output / scene,
            storage=arguments.storage,
            overwrite=arguments.overwrite,
            sweeps=sweeps,
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
    parser.add_argument("--dataroot", type=Path, required=True, help="folder that holds samples/, sweeps/ and VERSION/")
    parser.add_argument("--version", default="v1.0-mini", help="name of the folder with the tables (%(default)s)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="scenes to convert (default: all of the version)")
    parser.add_argument("--output", type=Path, required=True, help="each scene becomes the bag OUTPUT/NAME")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="rosbag2 storage (%(default)s)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace bags that exist, once the new one is complete"
    )
    parser.add_argument("--no-sweeps", action="store_true", help="keyframes only (2 Hz instead of 12 Hz images)")
    parser.add_argument("--no-lidar", action="store_true", help="leave the lidar out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
