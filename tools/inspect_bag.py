#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a rosbag2 of your robot holds, what it is good for, and a configuration to train on it. Needs no ROS."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_command, run_tool

EXAMPLE = """\
examples:
  python tools/inspect_bag.py recordings/                                  # look first
  python tools/inspect_bag.py recordings/ --write-config config/my_robot.yaml
  python -m gaussianocc_core.train config/my_robot.yaml                    # stage 1: depth, ego motion, scale
  python tools/carve_labels.py --config config/my_robot_gsv.yaml \\
      --checkpoint runs/my_robot/model.safetensors --output labels/my_robot # labels in 3D from that depth
  python -m gaussianocc_core.train config/my_robot_gsv.yaml \\
      first_stage=runs/my_robot/model.safetensors                          # stage 2: occupancy
  python -m gaussianocc_core.evaluate runs/my_robot_gsv/model.safetensors \\
      --config config/my_robot_gsv.yaml --left-out                         # how good it is
  ros2 launch gaussianocc_ros occ.launch.py params_file:=config/my_robot_node.yaml

Cameras are found by their topics' types; name them with --cameras if the bag has more than you want to use. Settings of
the data that need changing (another base frame, a rig file, odometry on a topic of its own) are given as in training:
  python tools/inspect_bag.py recordings/ ego_frame=base_footprint odometry_topic=/wheel/odometry
  python tools/inspect_bag.py recordings/ stamp=log     # where drivers do not stamp, or by clocks of their own

The doctor then judges each camera by its images: fine, look or wrong, each with its reason, size and fix, and says what
the recording can teach. --json prints that for machines. It changes nothing.

What is wrong with a recording or hard to believe of its calibration is printed as "problem: ...", with what to do.
"""


def main() -> int:
    arguments = parse_arguments()
    if arguments.json and arguments.no_doctor:
        print("error: --json prints what the doctor finds: leave --no-doctor out", file=sys.stderr)
        return 2
    if arguments.recover:
        return run_command(lambda: save(arguments), "interrupted; nothing was saved")
    return run_command(lambda: look(arguments), "interrupted; what it had written before is complete")


def save(arguments: argparse.Namespace) -> int:
    from gaussianocc_core.bags.recover import recover

    count = recover(arguments.bag, arguments.recover)
    print(f"{arguments.recover}: {count} messages saved; {arguments.bag} is as it was")
    return 0


def look(arguments: argparse.Namespace) -> int:
    # Imported here, because torch takes seconds and --help should not.
    from gaussianocc_core.bags.indexing import find_bags
    from gaussianocc_core.config import load_config
    from gaussianocc_core.data.bag_cameras import BagConfig
    from gaussianocc_core.errors import GaussianOccError
    from gaussianocc_core.mistakes import one_line
    from gaussianocc_core.onboarding.doctor.ground import judge_grounds
    from gaussianocc_core.onboarding.inspection_picture import inspection_picture
    from gaussianocc_core.onboarding.proposal import Runs, check_free, measure_step, propose, write_proposal
    from gaussianocc_core.onboarding.teaching import find_obstacles
    from gaussianocc_core.viz.files import write_png

    # Not as settings: names of files and cameras are no YAML.
    config = replace(load_config(None, BagConfig, arguments.settings), path=str(arguments.bag))
    if arguments.cameras:
        config = replace(config, cameras=tuple(arguments.cameras))
    if arguments.write_config:
        check_free(arguments.write_config)
    looked_at, visits = [], {}
    paths = find_bags(arguments.bag)
    for path in paths:
        try:
            looked_at.append(look_at(path, config, arguments))
            if not arguments.no_doctor:
                source, entries, _ = looked_at[-1]
                visits[id(source)] = call_doctor(source, entries, arguments)
        except GaussianOccError as error:
            if len(paths) == 1:
                raise
            print(f"left out: {one_line(error)}", file=sys.stderr)
    if not looked_at:
        return 1
    source, entries, found = max(looked_at, key=lambda each: each[2].samples)
    if arguments.json:
        print(json.dumps([each.diagnosis.as_json() for each in visits.values()], indent=2))
        return 0
    complete = [entry for entry in entries if len(entry.neighbours) == 2]
    if not complete:
        clocks = any("stamp=log" in problem for problem in source.problems)
        short = "no image has one before and one after it: record longer"
        print(short if entries and not clocks else source.explain_no_sets())
        return 1
    picture = arguments.picture or Path("out") / f"{source.index.name}.png"
    write_png(picture, inspection_picture(source, complete[len(complete) // 2]))
    print(f"picture: {picture}")
    obstacles = find_obstacles(looked_at)
    for obstacle in obstacles:
        print(f"{'cannot teach' if obstacle.refuses else 'teaches little'}: {obstacle.text}")
    if any(obstacle.refuses for obstacle in obstacles) and not arguments.anyway:
        print("nothing is proposed; --anyway proposes all the same")
        return 1
    samples = sum(each.samples for _, _, each in looked_at)
    visit = visits.get(id(source))
    ground = judge_grounds(source.cameras.names, visit.grounds) if visit is not None else None
    proposal = propose(source, found, samples, str(arguments.masks or ""), arguments.voxel_size, ground)
    steps = proposal.stage1["steps"], proposal.stage2["steps"]
    print(f"proposed: voxels of {proposal.voxel_size} m, {steps[0]} steps of stage 1, {steps[1]} of stage 2")
    print(proposal.ground)
    if not arguments.no_timing:
        seconds = measure_step(proposal, complete[len(complete) // 2])
        hours = (steps[0] + 1.5 * steps[1]) * seconds / 3600  # a step of stage 2 takes about 1.5 times as long
        print(f"training: {seconds:.1f} s a step on this machine, about {hours:.1f} h for both stages")
    if arguments.write_config:
        for written in write_proposal(proposal, source, arguments.write_config):
            print(f"wrote {written}")
        print(Runs.of(arguments.write_config).describe(arguments.bag))
    return 0


def look_at(path: Path, config, arguments: argparse.Namespace):
    from tqdm import tqdm

    from gaussianocc_core.bags.indexing import open_index
    from gaussianocc_core.data.bag import BagSource
    from gaussianocc_core.onboarding.inspection import describe, inspect

    with tqdm(total=100, desc=f"indexing {path.name}", unit="%", disable=None, leave=False) as bar:
        index = open_index(path, on_progress=lambda share: bar.update(int(100 * share) - bar.n))
    source = BagSource(index, config)
    entries = source.entries(arguments.masks or None)
    found = inspect(source, entries)
    if not arguments.json:
        print(describe(found))
    return source, entries, found


def call_doctor(source, entries, arguments: argparse.Namespace):
    from tqdm import tqdm

    from gaussianocc_core.onboarding.doctor.examine import examine
    from gaussianocc_core.onboarding.doctor.findings import describe
    from gaussianocc_core.onboarding.doctor.picture import doctor_picture
    from gaussianocc_core.viz.files import write_png

    name = source.index.name
    with tqdm(total=100, desc=f"doctor {name}", unit="%", disable=None, leave=False) as bar:
        visit = examine(source, entries, on_progress=lambda share: bar.update(int(100 * share) - bar.n))
    if not arguments.json:
        print(describe(visit.diagnosis))
    if visit.sampled.moments:
        beside = arguments.picture or Path("out") / f"{name}.png"
        picture = beside.with_name(f"{beside.stem}_doctor.png")
        write_png(picture, doctor_picture(visit))
        if not arguments.json:
            print(f"doctor's picture: {picture}")
    return visit


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 10:
        raise argparse.ArgumentTypeError(f"expected metres between 0 and 10, got {text}")
    return value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "bag",
        type=Path,
        help="rosbag2: folder (splits without metadata.yaml are one bag), .mcap or .db3 file, or a folder of bags",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of data.bag, as in training")
    parser.add_argument("--cameras", nargs="+", metavar="NAME", help="cameras to use, the anchor first (default: all)")
    parser.add_argument("--masks", type=Path, help="folder of <camera>_mask.png, zero where a camera sees the robot")
    parser.add_argument("--picture", type=Path, help="where the overview goes (default: out/<bag>.png)")
    parser.add_argument("--write-config", type=Path, metavar="FILE", help="write configurations: stages, rig, node")
    parser.add_argument(
        "--voxel-size", type=positive, metavar="M", help="of the proposed grid of 200 x 200 x 16 (default: a guess)"
    )
    parser.add_argument("--anyway", action="store_true", help="propose though the recordings cannot teach")
    parser.add_argument("--no-timing", action="store_true", help="do not try a training step to estimate the time")
    parser.add_argument("--no-doctor", action="store_true", help="do not judge calibration and odometry by the images")
    parser.add_argument(
        "--json", action="store_true", help="print the doctor's findings for machines, and nothing else"
    )
    parser.add_argument("--recover", type=Path, metavar="NEW", help="save what is left of a cut-off MCAP as a new bag")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
