#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lidar of nuScenes or DDAD as one depth image per camera image: what evaluation compares with. Needs no ROS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_command, run_tool

EXAMPLE = """\
examples:
  python tools/export_depth.py --dataroot ~/data/nuscenes --version v1.0-mini
  python tools/export_depth.py --dataroot ~/data/ddad --schema ddad --split val

Each keyframe image gets a float32 .npy of its own size with z-depth in metres, 0 where no point falls: depth_full/
below the data root for nuScenes, depth/<scene>/depth/<camera>/ for DDAD, as published. Images that have one already are
left alone, so an interrupted run goes on. Training never reads these files.
"""


def main() -> int:
    arguments = parse_arguments()
    return run_command(lambda: export(arguments), "interrupted; what was written is complete, the same command goes on")


def export(arguments: argparse.Namespace) -> int:
    # Imported here, because torch takes seconds and --help should not.
    from tqdm import tqdm

    from gaussianocc_core.onboarding.depth_export import export_scene

    source = open_source(arguments)
    scenes = arguments.scene or source.scene_names(*([arguments.split] if arguments.schema == "ddad" else []))
    written = skipped = without = 0
    for scene in dict.fromkeys(scenes):
        entries = source.index(scene)
        with tqdm(total=len(entries), desc=scene, unit="samples", disable=None, leave=False) as bar:
            report = export_scene(
                source, scene, entries, arguments.output or source.dataroot, arguments.overwrite, bar.update
            )
        per_image = report.points / max(report.written, 1)
        print(
            f"{scene}: {report.written} images written, {per_image:.0f} points each; {report.skipped} were there"
            + (f"; {report.without_lidar} samples have no lidar" if report.without_lidar else "")
        )
        written, skipped = written + report.written, skipped + report.skipped
        without += report.without_lidar
    print(f"{written} written, {skipped} skipped, below {arguments.output or source.dataroot}")
    return 1 if without and not written and not skipped else 0


def open_source(arguments: argparse.Namespace):
    from gaussianocc_core.data.ddad import DdadSource
    from gaussianocc_core.data.nuscenes import NuScenesSource

    if arguments.schema == "ddad":
        return DdadSource(arguments.dataroot, follow_outside=arguments.follow_outside)
    return NuScenesSource(arguments.dataroot, arguments.version, follow_outside=arguments.follow_outside)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataroot", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--schema", choices=("nuscenes", "ddad"), default="nuscenes", help="(default: %(default)s)")
    parser.add_argument("--version", default="v1.0-mini", help="nuscenes: folder with the tables (%(default)s)")
    parser.add_argument("--split", choices=("train", "val", "test"), help="ddad: scenes of this split (default: all)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="scenes to export (default: all)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="another place than the data root, same layout")
    parser.add_argument("--follow-outside", action="store_true", help="follow links that lead out of the data root")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
