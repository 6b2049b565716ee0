#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Labels in 3D from a recording's own depth: what a second stage trains on. Needs no ROS, no lidar and no labels.

    tools/carve_labels.py data/street --checkpoint tiny_matching --output labels
    tools/carve_labels.py recordings/drive_7 --checkpoint runs/gsp/model.safetensors --output labels --motion images
    tools/carve_labels.py --config config/my_robot_gsv.yaml --checkpoint runs/my_robot/model.safetensors --output labels

SOURCE is a data set in the nuScenes schema, DDAD, a rosbag2 or a folder of them; or --config names a training, whose
recordings, cameras and masks are then used, without what it leaves out to be measured on. Each set of images gets
OUTPUT/<scene>/<token>/labels.npz as Occ3D has them: semantics (class, 17 free, 255 unknown) and mask_camera (1 where
known), in the ego frame of the anchor camera's image. OUTPUT/carved.json says how. Classes are those of 2D labels,
where the recording has any; else all that is occupied is of class 0. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import add_shard_option, choose_shard, run_command, run_tool

DEPTH = """\
--depth: DIR/<scene>/<camera>/<image>.png or .npy, one file for each image and of its size: z-depth (along the optical
axis), in a grey PNG of 16 bits as millimetres or in a .npy as metres, 0 where it is not known. <image> is the name of
the image's file without its ending; of a bag, its stamp in nanoseconds.
"""


def main() -> int:
    arguments = parse_arguments()
    return run_command(
        lambda: carve_labels(arguments), "stopped; what was written is complete, and the same command goes on"
    )


def carve_labels(arguments: argparse.Namespace) -> int:

    from tqdm import tqdm

    from gaussianocc_core.checkpoint import parse_image_size
    from gaussianocc_core.config import load_config
    from gaussianocc_core.data.bag_cameras import BagConfig
    from gaussianocc_core.errors import ConfigError
    from gaussianocc_core.mapping.depth_files import DepthFolder
    from gaussianocc_core.mapping.entries import Recordings, SourceOptions, recordings_of
    from gaussianocc_core.mapping.recording import RecordingSettings, load_matching
    from gaussianocc_core.mapping.review import review_all
    from gaussianocc_core.mapping.run import carve_all
    from gaussianocc_core.mistakes import one_line
    from gaussianocc_core.training.config import TrainConfig

    if arguments.jobs < 1 or arguments.pictures < 0:
        raise ConfigError("--jobs, --pictures: expected at least 1 and 0")
    if arguments.shard and arguments.overwrite:
        raise ConfigError("--overwrite takes away what the other shares made; remove the folder first, then start all")
    if (arguments.source is None) == (arguments.config is None):
        raise ConfigError("give either SOURCE, a data set or recording, or --config FILE, a training configuration")
    bag = BagConfig(
        cameras=tuple(arguments.cameras or ()),
        rig=str(arguments.rig or ""),
        odometry_topic=arguments.odometry_topic,
        fixed_frame=arguments.fixed_frame,
        ego_frame=arguments.ego_frame,
        labels=str(arguments.labels or ""),
    )
    options = SourceOptions(
        arguments.schema or "", arguments.version, arguments.moments, str(arguments.masks or ""),
        arguments.follow_outside, bag,
    )  # fmt: skip
    depth = DepthFolder(arguments.depth, arguments.depth_error, arguments.follow_outside) if arguments.depth else None
    size = parse_image_size(arguments.size, "--size") if arguments.size else None
    settings = RecordingSettings(motion=arguments.motion, depth=depth, size=size)
    if arguments.config:
        data = load_config(arguments.config, TrainConfig).data
        recordings = recordings_of(data)
        scenes = recordings.choose(arguments.scene or data.scenes)
    else:
        recordings = Recordings(arguments.source, options)
        scenes = recordings.choose(arguments.scene)
    scenes = choose_shard(scenes, arguments.shard)
    failed = []
    with tqdm(unit="sets", disable=None, leave=False) as bar:
        for outcome in carve_all(
            recordings, scenes, arguments.checkpoint, arguments.output, settings,
            overwrite=arguments.overwrite, jobs=arguments.jobs, on_total=bar.reset, on_step=bar.update,
        ):  # fmt: skip
            if outcome.error:
                failed.append(outcome)
            else:
                bar.write(f"{outcome.name}: {outcome.result.describe()}")
    for outcome in failed:
        sys.stderr.write(f"error: {one_line(f'{outcome.name}: {outcome.error}')}\n")
    good = [name for name in scenes if name not in {each.name for each in failed}]
    if arguments.pictures and good:
        grid = load_matching(arguments.checkpoint).config.grid
        for path in review_all(recordings, good, arguments.output, arguments.pictures, grid):
            print(path)
    return 2 if failed and not good else int(bool(failed))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=DEPTH, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, nargs="?", metavar="SOURCE", help="data set, or rosbag2, or a folder of bags")
    add("--config", type=Path, metavar="FILE", help="training whose recordings are used, in place of SOURCE")
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="first stage, such as tiny_matching")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the labels")
    add("--motion", choices=("auto", "recorded", "images"), default="auto", help="where the rig was (%(default)s)")
    add("--size", metavar="WxH", help="of the images that depth is matched in, px, multiples of 16 and of their shape; "
        "with shipped weights twice their size finds more, in more time (default: the checkpoint's)")  # fmt: skip
    add("--scene", nargs="+", metavar="NAME", help="scenes or bags (default: all)")
    add("--jobs", type=int, default=1, metavar="N", help="processes (%(default)s)")
    add_shard_option(parser)
    add("--overwrite", action="store_true", help="labels of other settings are made anew")
    add("--pictures", type=int, default=0, metavar="N", help="a picture of each Nth moment, a video of the first scene")
    add("--depth", type=Path, metavar="DIR", help="depth images from elsewhere, see below")
    add("--depth-error", type=float, default=0.05, help="their expected error, a share of the depth (%(default)s)")
    add("--masks", type=Path, metavar="DIR", help="<camera>_mask.png, zero where a camera sees the robot itself")
    data = parser.add_argument_group("data sets")
    data.add_argument("--schema", choices=("nuscenes", "ddad", "bag"), help="default: by what is there")
    data.add_argument("--version", default="", help="nuScenes' folder of tables (default: the one that is there)")
    data.add_argument("--moments", choices=("sweeps", "keyframes"), default="sweeps", help="nuScenes (%(default)s)")
    data.add_argument("--follow-outside", action="store_true", help="follow links that lead out of SOURCE or --depth")
    bags = parser.add_argument_group("bags")
    bags.add_argument("--cameras", nargs="+", metavar="NAME", help="anchor first (default: all)")
    bags.add_argument("--rig", type=Path, metavar="FILE", help="calibration in place of CameraInfo and /tf_static")
    bags.add_argument("--odometry-topic", default="", help="nav_msgs/Odometry, where /tf does not hold the motion")
    bags.add_argument("--fixed-frame", default="odom", help="(%(default)s)")
    bags.add_argument("--ego-frame", default="base_link", help="(%(default)s)")
    bags.add_argument("--labels", type=Path, metavar="DIR", help="2D labels of tools/label_semantics.py")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
