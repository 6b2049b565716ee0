#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Find where each camera sees the robot itself, from a drive, and write masks for training. No ROS, no labels."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_command, run_tool

EXAMPLES = """\
examples:
  python tools/make_masks.py --bag recordings/ --output masks/my_robot
  # look at masks/my_robot/review.png, then train with them
  python tools/inspect_bag.py recordings/ --masks masks/my_robot --write-config config/my_robot.yaml
  python -m gaussianocc_core.train config/my_robot.yaml data.masks=masks/my_robot

  # a data set in the nuScenes schema
  python tools/make_masks.py --dataroot ~/data/nuscenes --version v1.0-mini --scene scene-0061 --output masks/nuscenes

While the robot drives, everything in its images changes but the robot. Drive a minute through changing surroundings
and turn a few times. Too much is red in the review: a lower --threshold, or a longer drive; a part of the robot is not
red: a higher --threshold. Masks are grey PNGs, 255 where the camera sees the world: any paint program mends the rest.
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return run_command(lambda: make(options), "interrupted; no masks were written")


def make(options: argparse.Namespace) -> int:
    # Imported here, because torch takes seconds and --help should not.
    from tqdm import tqdm

    from gaussianocc_core.config import load_config
    from gaussianocc_core.data.bag_cameras import BagConfig
    from gaussianocc_core.onboarding import masks
    from gaussianocc_core.onboarding.masks_picture import mask_review
    from gaussianocc_core.onboarding.moments import bag_moments, dataset_moments
    from gaussianocc_core.viz.files import write_png

    config = masks.MaskConfig(
        options.images,
        options.width,
        options.threshold,
        options.least_share,
        options.close,
        options.grow,
        options.least_travel,
    )
    if options.bag:
        moments = bag_moments(replace(load_config(None, BagConfig, options.settings), path=str(options.bag)))
    else:
        moments = dataset_moments(options.dataroot, options.version, options.scene or (), True, options.follow_outside)
    names = list(dict.fromkeys(name for moment in moments for name in moment.cameras.names))
    if not options.overwrite:
        masks.refuse_existing(options.output, names)
    chosen = masks.spread_moments(moments, config)
    with tqdm(total=len(chosen), unit="moment", desc="reading", disable=None, leave=False) as bar:
        found = masks.find_masks(chosen, config, bar.update)
    masks.write_masks(options.output, found)
    review = options.output / "review.png"
    write_png(review, mask_review(found, config.threshold))
    for each in found:
        sees = f"{100 * each.robot_share:.1f} % of the image is the robot" if each.robot_share else "no robot in view"
        print(f"{each.camera}: {sees} ({each.images} images)")
        if each.robot_share > 0.5:
            print("  that is more than half: does the world change in front of this camera?")
    print(f"look at {review}; training uses the masks with data.masks={options.output}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--bag", type=Path, metavar="PATH", help="rosbag2: folder or file, or a folder of bags")
    where.add_argument("--dataroot", type=Path, metavar="DIR", help="data set: folder with samples/ and VERSION/")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of bags: settings of data.bag")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the masks and review.png")
    parser.add_argument("--version", default="v1.0-mini", help="of data sets: folder with the tables (%(default)s)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="of data sets: scenes to look at (default: all)")
    parser.add_argument("--follow-outside", action="store_true", help="follow links that lead out of the data root")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="images to look at (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.3, help="robot: varies less, times typical (%(default)s)")
    parser.add_argument("--least-share", type=float, default=0.003, help="smallest part of an image (%(default)s)")
    parser.add_argument("--grow", type=int, default=2, help="added at the edge, px of the reduced image (%(default)s)")
    parser.add_argument("--close", type=int, default=9, help="gaps to close, px of the reduced image (%(default)s)")
    parser.add_argument("--width", type=int, default=320, help="of the reduced image, px (%(default)s)")
    parser.add_argument("--least-travel", type=float, default=5.0, help="m by odometry, else refuse (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace masks that are there")
    options = parser.parse_intermixed_args(arguments)
    if options.dataroot and options.settings:
        parser.error("key=value are settings of bags")
    if options.bag and options.scene:
        parser.error("--scene is for data sets; to use one bag, give its path")
    return options


if __name__ == "__main__":
    sys.exit(run_tool(main))
