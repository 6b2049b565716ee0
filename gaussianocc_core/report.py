# SPDX-License-Identifier: Apache-2.0
"""How good is this model on this recording? One HTML page and a video, with marks and what to do about the red ones.

    python -m gaussianocc_core.report recordings/drive_7 runs/my_robot_gsv/model.safetensors --output out/report
    python -m gaussianocc_core.report data/held_out tiny --output out/report     # tiny: the shipped weights

A lidar or labels in the recording are used as truth. Without them, the model is held against itself, odometry, two
cameras' own measurement of depth, the ground, and where the robot then drove. docs/viewer.md tells how to read it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gaussianocc_core.command_line import run_command, run_tool

_MOST_MOMENTS = 120  # of all scenes together, unless --every says otherwise


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gaussianocc_core.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="bag or folder of bags, nuScenes or DDAD folder")
    parser.add_argument("checkpoint", help="model file of the second stage, or the name of shipped weights (tiny)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets report.html and report.mp4")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="scenes or bags to use (default: all)")
    parser.add_argument("--version", default="", help="nuScenes' version folder (default: the one that is there)")
    parser.add_argument(
        "--every", type=int, metavar="N", help=f"only each Nth moment (default: at most {_MOST_MOMENTS} are seen)"
    )
    parser.add_argument("--no-video", action="store_true", help="only the page, in less than half the time")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, openvino ..., see deploy.md (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: report(options), "stopped; there is no page, and maybe a video")


def report(options: argparse.Namespace) -> int:
    from gaussianocc_core.checkpoint import find_weights, networks_in
    from gaussianocc_core.data.bag import BagEntry
    from gaussianocc_core.data.bag_cameras import check_one_rig
    from gaussianocc_core.errors import ConfigError, DatasetError
    from gaussianocc_core.files import complete_file
    from gaussianocc_core.reporting.marks import verdict
    from gaussianocc_core.reporting.page import write_page
    from gaussianocc_core.reporting.run import examine
    from gaussianocc_core.viewer.drive import choose_scene, find_source, moments_of

    checkpoint, output = find_weights(options.checkpoint), options.output
    networks_in(checkpoint)
    if options.every is not None and options.every < 1:
        raise ConfigError(f"--every: expected 1 or more, got {options.every}")
    if output.exists() and not output.is_dir():
        raise DatasetError(f"--output {output}: is a file; give a folder")
    source = find_source(options.source, options.version)
    scenes = tuple(choose_scene(source, name) for name in options.scene or source.scene_names())
    moments = {scene: moments_of(source, scene) for scene in scenes}
    if any(isinstance(each[0], BagEntry) for each in moments.values()):
        rigs = {scene: each[0].cameras.names for scene, each in moments.items()}
        check_one_rig(rigs, options.source, "name the recordings of one (--scene)")  # the page has one verdict
    count = sum(map(len, moments.values()))
    every = options.every or max(1, -(-count // _MOST_MOMENTS))

    def say(line: str) -> None:
        sys.stdout.write(f"{line} ...\n")
        sys.stdout.flush()

    output.mkdir(parents=True, exist_ok=True)
    findings = examine(
        source, checkpoint, output, scenes, every=every, device=options.device, video=not options.no_video, progress=say
    )
    with complete_file(output / "report.html") as partial:
        partial.write_text(write_page(findings), encoding="utf-8")
    for each in findings.marks:
        sys.stdout.write(f"{each.color:7} {each.name:42} {each.value}\n")
    sys.stdout.write(f"{verdict(findings.marks).value}\n{output / 'report.html'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
