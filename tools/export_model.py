#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the networks of a model as ONNX files, with samples to check them on; and checks them.

    tools/export_model.py tiny --output exported --check
    tools/export_model.py exported --check --device openvino         # there, or on the target
    ros2 launch gaussianocc_ros occ.launch.py checkpoint:=exported device:=openvino

Sizes are fixed: of the images, the lattice and the number of cameras. Operators are those of the standard. The samples
are of a made-up street, or with --bag of your robot. docs/deploy.md says what each file is and what was measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_command, run_tool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", help="model file, name of shipped weights, or, only to check it, a folder that was exported")
    add("--output", type=Path, help="folder of the exported networks")
    add("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of their weights (default: %(default)s)")
    add("--opset", type=int, default=18, help="version of ONNX's operators (default: %(default)s)")
    add("--cameras", type=int, default=6, help="that the networks take (default: %(default)s; with --bag: the bag's)")
    add("--bag", default="", help="rosbag2 of the robot: images of the samples, and what int8 is calibrated on")
    add("--check", action="store_true", help="compare with what torch said, voxel by voxel; 1 where it is not equal")
    add(
        "--device", default="onnx", help="that runs the check: onnx, openvino, tensorrt, cpu ... (default: %(default)s)"
    )
    return run_command(lambda: export_or_check(parser.parse_args()), "stopped; nothing was written")


def export_or_check(options: argparse.Namespace) -> int:
    from gaussianocc_core.backends.folder import is_export, read_folder
    from gaussianocc_core.errors import ConfigError

    if options.output is None and not (options.check and is_export(options.checkpoint)):
        raise ConfigError("--output: needed, unless an exported folder is given with --check")
    if options.output is None:
        folder = read_folder(options.checkpoint)
    else:
        from gaussianocc_core.deployment.export import export_model

        folder = export_model(
            options.checkpoint, options.output, options.precision, options.opset, options.cameras, options.bag
        )
        for name in sorted(folder.hashes):
            print(f"{folder.path / name}  {(folder.path / name).stat().st_size / 1e6:.1f} MB")
    if not options.check:
        return 0
    from gaussianocc_core.deployment.check import check_export, table

    rows = check_export(folder, options.device)
    print(f"{folder.path} in {folder.precision} on {options.device}, against torch:")
    print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(run_tool(main))
