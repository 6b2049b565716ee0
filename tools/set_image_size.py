#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a model file again for another size of its input images: the same weights, finer or coarser views.

    tools/set_image_size.py tiny --size 240x128 --output tiny_240.safetensors
    ros2 launch gaussianocc_ros occ.launch.py checkpoint:=tiny_240.safetensors

The networks are convolutional, so that no training is needed; voxels stay as they are. What it gives and costs with the
shipped model is in docs/deploy.md. Keep the shape of the images, and check the result with `evaluate`.
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
    parser.add_argument("checkpoint", help="model file, or the name of shipped weights")
    parser.add_argument("--size", required=True, metavar="WxH", help="pixels, both multiples of 16, such as 240x128")
    parser.add_argument("--output", type=Path, required=True, help="the new model file (.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    options = parser.parse_args()
    return run_command(lambda: set_image_size(options), "stopped; nothing was written")


def set_image_size(options: argparse.Namespace) -> int:
    from gaussianocc_core.checkpoint import copy_with_image_size, parse_image_size
    from gaussianocc_core.errors import CheckpointError

    width, height = parse_image_size(options.size, "--size")
    if options.output.exists() and not options.overwrite:
        raise CheckpointError(f"{options.output}: exists already; give another name or --overwrite")
    print(copy_with_image_size(options.checkpoint, options.output, width, height))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
