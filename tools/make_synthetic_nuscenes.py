#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make synthetic scenes as a nuScenes-format data set: streets, yards, halls, parks. No ROS, no GPU, no downloads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_tool

EXAMPLES = """examples:
  # two scenes of ten keyframes (5 s each), six cameras at 400x225 and 12 Hz
  python tools/make_synthetic_nuscenes.py --output data/synthetic --scenes 2 --frames 10

  # another rig: four fisheyes; keyframes only
  python tools/make_synthetic_nuscenes.py --output data/fisheye --rig config/rig/surround_fisheye.yaml --no-sweeps

  # another place and another light in every scene, a rig and a vehicle drawn by the seed
  python tools/make_synthetic_nuscenes.py --output data/any --world mixed --rig random --scenes 4 --seed 7

  # then, for example
  python -c "from nuscenes import NuScenes; NuScenes('v1.0-mini', 'data/synthetic').list_scenes()"

The same seed gives the same bytes; different seeds share no scene, so hold out a seed for evaluation. The output holds
images, lidar, poses, 3D boxes, Occ3D labels (gts/), 2D labels (nuscenes_semantic/) and true depth (depth_full/); its
README.md explains.
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make; must not exist")
    parser.add_argument(
        "--scenes", type=int, default=1, metavar="N", help="number of scenes, each another place (default 1)"
    )
    parser.add_argument("--frames", type=int, default=10, metavar="N", help="keyframes per scene, at 2 Hz (default 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="what to draw (default 0)")
    parser.add_argument(
        "--world",
        default="classic",
        metavar="PLACE",
        help="classic (default): the streets that published figures refer to; street, yard, hall, park: places of any "
        "light, texture, blur and noise, and drives that turn, stop and reverse; mixed: another of these per scene",
    )
    parser.add_argument(
        "--rig",
        metavar="FILE|random",
        help="camera rig as YAML, see config/rig/, or random: 1 to 8 cameras, 0.3 to "
        "2.5 m high, 50 to 190 degrees, on a robot, forklift, car or lorry (default: six cameras, 400x225)",
    )
    parser.add_argument(
        "--no-sweeps", dest="sweeps", action="store_false", help="keyframe images only: six times faster"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a synthetic data set that is already there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    from gaussianocc_core.errors import GaussianOccError
    from gaussianocc_core.mistakes import one_line
    from gaussianocc_core.synthetic.writer import write_dataset

    try:
        cameras = options.rig
        if options.rig not in (None, "random"):
            from gaussianocc_core.geometry.rig_file import load_rig

            cameras = load_rig(options.rig)
        folder = write_dataset(
            options.output,
            options.scenes,
            options.frames,
            options.seed,
            cameras,
            options.sweeps,
            options.overwrite,
            progress=not options.quiet,
            world=options.world,
        )
    except GaussianOccError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
