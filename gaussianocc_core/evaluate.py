# SPDX-License-Identifier: Apache-2.0
"""How good is a checkpoint, and how good would it be to look at no image? `python -m gaussianocc_core.evaluate`.

Measures whatever the model file holds against whatever the recording knows: depth, rendered or by a network, against
lidar (or depth files, which tools/export_depth.py makes); learnt ego motion against recorded poses; occupancy against
Occ3D labels in gts/. Recordings are rosbags with lidar (--bag), data sets in the nuScenes schema, or DDAD. To compare
two models, write both with --json; the shipped ones lie in gaussianocc_core/weights/.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gaussianocc_core.checkpoint import find_weights, networks_in
from gaussianocc_core.command_line import add_shard_option, choose_shard, log_to_terminal
from gaussianocc_core.config import load_config
from gaussianocc_core.data.sources import DataConfig, first_left_out
from gaussianocc_core.errors import ConfigError, DatasetError, GaussianOccError
from gaussianocc_core.evaluation import Share, evaluate, evaluate_share, format_report, merge_shares
from gaussianocc_core.evaluation.networks import MOTIONS
from gaussianocc_core.evaluation.report import depth_rows
from gaussianocc_core.evaluation.run import PAST
from gaussianocc_core.evaluation.sources import EvaluationSource, choose_scenes, open_source
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.models.decision import check_caution
from gaussianocc_core.training.config import TrainConfig

EXAMPLES = """examples:
  # on streets that no training has seen
  python tools/make_synthetic_nuscenes.py --output data/held_out --scenes 6 --frames 3 --seed 300
  python -m gaussianocc_core.evaluate runs/gsv_tiny/model.safetensors --dataroot data/held_out --pictures out/pictures

  # your own recording, with a lidar that only measures: by camera and by distance
  python -m gaussianocc_core.evaluate runs/my_robot/model.safetensors --bag recordings/drive_7 --every 5
  python -m gaussianocc_core.evaluate runs/my_robot/model.safetensors --config config/my_robot.yaml  # cameras as named
  python -m gaussianocc_core.evaluate runs/my_robot_gsv/model.safetensors --config config/my_robot_gsv.yaml --left-out

  # DDAD, and all numbers as a table for a spreadsheet
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/ddad --schema ddad --split val --csv ddad.csv

  # nuScenes as published: all of the validation scenes
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/nuscenes --version v1.0-trainval --split val

  # nuScenes, every tenth keyframe of two scenes, all numbers into a file
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/nuscenes --scene scene-0103 scene-0916 \\
      --every 10 --json result.json

  # the same report from two jobs
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/nuscenes --shard 1/2 --json part1.json
  python -m gaussianocc_core.evaluate model.safetensors --dataroot /data/nuscenes --shard 2/2 --json part2.json
  python -m gaussianocc_core.evaluate --merge part1.json part2.json --json result.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gaussianocc_core.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "checkpoint", nargs="?", help="model file (.safetensors) of either stage, or the name of shipped weights (tiny)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over those of --config")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dataroot", help="data set in the nuScenes schema, or another --schema")
    where.add_argument("--bag", help="rosbag2, or a folder of them, with calibrated cameras and lidar")
    where.add_argument("--config", type=Path, metavar="FILE", help="training configuration: what its `data:` names")
    where.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="the files of --shard, of all shares")
    parser.add_argument(
        "--left-out", action="store_true", help="with --config: only the end of each recording that training left out"
    )
    parser.add_argument("--schema", choices=("nuscenes", "ddad"), default="nuscenes", help="of --dataroot")
    parser.add_argument("--follow-outside", action="store_true", help="follow links that lead out of the data root")
    parser.add_argument("--version", default="v1.0-mini", help="nuScenes' version folder (default: %(default)s)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--scene", nargs="+", metavar="NAME", help="scenes or bags to use (default: all)")
    chosen.add_argument("--split", help="train, val, mini_train, mini_val, test, or a file of scene names or tokens")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth moment of a scene")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, openvino ..., see deploy.md (default: %(default)s)"
    )
    add_shard_option(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the depth errors here, a row per camera")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw the first dozen keyframes")
    parser.add_argument(
        "--ray-iou", action=argparse.BooleanOptionalAction, default=True, help="RayIoU too (under a second a keyframe)"
    )
    parser.add_argument(
        "--caution",
        type=float,
        metavar="C",
        help="between 0 and 1; higher misses fewer obstacles and shows more ghosts (default: as in the model's file)",
    )
    parser.add_argument(
        "--past",
        type=float,
        metavar="S",
        default=PAST,
        help="a model with memory sees every set of the S seconds before each moment, as on a robot; 0: only the few "
        "sets that matching needs, which is faster (default: %(default)g)",
    )
    parser.add_argument(
        "--skip",
        type=float,
        metavar="S",
        default=0.0,
        help="do not measure in the first S seconds of each recording, where few earlier sets are known (default: 0)",
    )
    parser.add_argument(
        "--motion",
        choices=MOTIONS,
        default="recorded",
        help="where the robot's motion comes from: recorded poses, the images, or nowhere (default: %(default)s)",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not use the rays of earlier sets")
    usual = RobotConfig()
    parser.add_argument(
        "--obstacle-heights",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=(usual.low, usual.high),
        help="heights above the base frame, in m, between which things are obstacles (default: %(default)s)",
    )
    parser.add_argument(
        "--robot-width",
        type=float,
        metavar="M",
        default=usual.width,
        help="width of the robot's path, in m (default: %(default)s)",
    )
    options = parser.parse_intermixed_args(arguments)
    if not (options.checkpoint or options.merge):
        parser.error("the following arguments are required: checkpoint")
    log_to_terminal()
    try:
        _check_outputs({"--json": options.json, "--csv": options.csv}, options.pictures)  # now, not after the work
        _check_shares(options)
        if options.merge:
            result = merge_shares(options.merge)
            _write(result, options.json, options.csv)
            print(format_report(result))
            return 0
        robot = _check_numbers(options)
        options.checkpoint = str(find_weights(options.checkpoint))
        networks_in(options.checkpoint)
        data = load_config(options.config, TrainConfig, options.overrides).data if options.config else None
        if data is None and (options.overrides or options.left_out):
            raise ConfigError("key=value and --left-out speak of a configuration; give --config FILE")
        begin_ns = first_left_out(data) if data is not None and options.left_out else None
        if begin_ns is not None and not begin_ns:
            raise ConfigError(
                f"--left-out: {options.config} leaves nothing out of training; set data.left_out=0.1 there"
            )
        source, scenes = _open(options, data), options.scene or (tuple(begin_ns) if begin_ns else None)
        if options.skip:
            begin_ns = _skip(source, choose_scenes(source, scenes, options.split), options.skip, begin_ns or {})
        settings: dict[str, Any] = {
            "split": options.split,
            "every": options.every,
            "device": options.device,
            "ray_iou": options.ray_iou,
            "caution": options.caution,
            "robot": robot,
            "begin_ns": begin_ns,
            "past": options.past,
            "motion": options.motion,
            "memory": not options.no_memory,
        }
        if options.shard:
            choose = partial(choose_shard, shard=options.shard)
            evaluate_share(options.checkpoint, source, scenes, Share(*options.shard), options.json, choose, **settings)
            return 0
        result = evaluate(options.checkpoint, source, scenes, pictures=options.pictures, **settings)
        _write(result, options.json, options.csv)
    except GaussianOccError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}".replace(" :", ""), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(format_report(result))
    return 0


def _write(result: dict[str, Any], report: Path | None, table: Path | None) -> None:
    if report:
        report.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if table:
        table.write_text(depth_rows(result), encoding="utf-8")


def _open(options: argparse.Namespace, data: DataConfig | None) -> EvaluationSource:
    if data is not None:
        if data.bag.path:
            return open_source(bag=data.bag)
        if not data.dataroot:
            raise DatasetError(f"--config {options.config}: its data: names no bag.path and no dataroot")
        return open_source(data.dataroot, schema=data.schema, version=data.version, follow_outside=data.follow_outside)
    return open_source(
        options.dataroot,
        schema=options.schema,
        version=options.version,
        bag=options.bag,
        follow_outside=options.follow_outside,
    )


def _skip(
    source: EvaluationSource, scenes: Sequence[str], seconds: float, begin_ns: Mapping[str, int]
) -> dict[str, int]:
    """By scene, the stamp of the first moment that is measured."""
    if not 0 < seconds < 1e6:
        raise ConfigError(f"--skip: expected 0 or more seconds, got {seconds:g}")
    begins = {}
    for scene in scenes:
        first = min((each.frame.camera_stamps_ns[0] for each in source.drive(scene)), default=0)
        begins[scene] = max(begin_ns.get(scene, 0), first + int(seconds * 1e9))
    return begins


def _check_numbers(options: argparse.Namespace) -> RobotConfig:
    low, high = options.obstacle_heights
    try:
        if options.caution is not None:
            check_caution(options.caution)
        return RobotConfig(low=low, high=high, width=options.robot_width)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_shares(options: argparse.Namespace) -> None:
    chosen = (options.checkpoint, options.shard, options.pictures, options.scene, options.split, options.left_out)
    if options.merge and (any(chosen) or options.caution is not None):
        raise ConfigError("--merge takes files of shares, --json and --csv; all else is said in the files")
    if options.shard and not options.json:
        raise ConfigError("--shard K/N needs --json FILE, where what this share counted goes; --merge reads it")
    if options.shard and (options.csv or options.pictures):
        raise ConfigError("--shard K/N has no report yet: give --csv to --merge, and take pictures in a run without it")


def _check_outputs(files: Mapping[str, Path | None], pictures: Path | None) -> None:
    for option, file in files.items():
        if file and not file.resolve().parent.is_dir():
            raise DatasetError(f"{option} {file}: no such folder {file.resolve().parent}; make it first")
        if file and file.is_dir():
            raise DatasetError(f"{option} {file}: is a folder; give a file in it")
    if pictures and pictures.exists() and not pictures.is_dir():
        raise DatasetError(f"--pictures {pictures}: is a file; give a folder")


if __name__ == "__main__":
    sys.exit(main())
