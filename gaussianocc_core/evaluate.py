# SPDX-License-Identifier: Apache-2.0
"""How good is a checkpoint, and how good would it be to look at no image? `python -m gaussianocc_core.evaluate`.

Measures whatever the model file holds against whatever the data set (nuScenes schema) knows: depth, rendered or by the
first stage's network, against depth_full/ (nuScenes: from lidar, by tools/export_depth.py); learnt ego motion against
poses; occupancy against Occ3D labels in gts/. To compare two models, write both with --json; the shipped ones lie in
gaussianocc_core/weights/.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gaussianocc_core.errors import DatasetError, GaussianOccError
from gaussianocc_core.evaluation import evaluate, format_report

EXAMPLES = """examples:
  # on streets that no training has seen
  python tools/make_synthetic_nuscenes.py --output data/held_out --scenes 6 --frames 3 --seed 300
  python -m gaussianocc_core.evaluate runs/gsv_tiny/model.safetensors --dataroot data/held_out --pictures out/pictures

  # nuScenes as published: all of the validation scenes
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/nuscenes --version v1.0-trainval --split val

  # nuScenes, every tenth keyframe of two scenes, all numbers into a file
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/nuscenes --scene scene-0103 scene-0916 \\
      --every 10 --json result.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gaussianocc_core.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument("checkpoint", help="model file (.safetensors) of either training stage")
    parser.add_argument("--dataroot", required=True, help="data set in the nuScenes schema")
    parser.add_argument("--version", default="v1.0-mini", help="version folder in it (default: %(default)s)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--scene", nargs="+", metavar="NAME", help="scenes to use (default: all)")
    chosen.add_argument("--split", help="train, val, mini_train, mini_val, test, or a file of scene names or tokens")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth keyframe of a scene")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw the first dozen keyframes")
    parser.add_argument(
        "--ray-iou", action=argparse.BooleanOptionalAction, default=True, help="RayIoU too (under a second a keyframe)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        _check_outputs(options.json, options.pictures)  # said now, not after minutes of work
        result = evaluate(
            options.checkpoint, options.dataroot, options.scene, version=options.version, split=options.split,
            every=options.every, device=options.device, ray_iou=options.ray_iou, pictures=options.pictures,
        )  # fmt: skip
        if options.json:
            options.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}".replace(" :", ""), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(format_report(result))
    return 0


def _check_outputs(report: Path | None, pictures: Path | None) -> None:
    if report and not report.resolve().parent.is_dir():
        raise DatasetError(f"--json {report}: no such folder {report.resolve().parent}; make it first")
    if report and report.is_dir():
        raise DatasetError(f"--json {report}: is a folder; give a file in it")
    if pictures and pictures.exists() and not pictures.is_dir():
        raise DatasetError(f"--pictures {pictures}: is a file; give a folder")


if __name__ == "__main__":
    sys.exit(main())
