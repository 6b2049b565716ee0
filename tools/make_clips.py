#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes clips of random rigs in synthetic scenes with true depth, for pretraining depth by matching.

    tools/make_clips.py --output data/clips --count 4000
    python -m gaussianocc_core.train config/train/pretrain_tiny.yaml pretrain.clips=data/clips

A clip is some 150 KB and takes half a second on one core. Clips that are there already are left as they are, so that a
call may be repeated with a larger count; several calls with different --first share the work.
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
    parser.add_argument("--output", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--count", type=int, required=True, help="numbers that are tried; a few give no clip")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    options = parser.parse_args()
    return run_command(
        lambda: make_clips(options), "stopped; what was written is complete, and the same call goes on with the rest"
    )


def make_clips(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from gaussianocc_core.errors import DatasetError
    from gaussianocc_core.files import complete_file
    from gaussianocc_core.synthetic.clips import render_clip, save_clip

    if options.count < 1 or options.first < 0:
        raise DatasetError(f"--count, --first: expected at least 1 and 0, got {options.count} and {options.first}")
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in tqdm(range(options.first, options.first + options.count), unit="clip", disable=None):
        path = options.output / f"{seed:06d}.npz"
        if path.exists() or (clip := render_clip(seed)) is None:
            continue
        with complete_file(path) as partial:
            save_clip(partial, clip)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
