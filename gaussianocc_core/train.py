# SPDX-License-Identifier: Apache-2.0
"""Train from a configuration: `python -m gaussianocc_core.train CONFIG key=value ...`.

Stage 1 (`stage: gsp`) learns depth, ego motion and metric scale from surround images and their calibration; stage 2
(`stage: gsv`) learns occupancy with that motion. No label, lidar or pose is needed. The same command runs under
`torchrun --nproc_per_node=N -m gaussianocc_core.train ...` on N GPUs, or as N processes on a CPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gaussianocc_core.command_line import log_to_terminal
from gaussianocc_core.config import load_config
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.engine import TrainingStopped, train
from gaussianocc_core.training.rehearsal import rehearse
from gaussianocc_core.training.state import LAST
from gaussianocc_core.training.watch import TrainingCollapsed

EXAMPLES = """examples:
  # both stages on a synthetic street
  python tools/make_synthetic_nuscenes.py --output data/street --scenes 60 --frames 3 --seed 100
  python -m gaussianocc_core.train config/train/gsp_tiny.yaml data.dataroot=data/street
  python -m gaussianocc_core.train config/train/gsv_tiny.yaml data.dataroot=data/street \\
      first_stage=runs/gsp_tiny/model.safetensors

  # nuScenes, on a GPU of 8 GB
  python -m gaussianocc_core.train config/train/gsp_tiny.yaml model=8gb data.dataroot=/data/nuscenes \\
      data.version=v1.0-trainval data.split=train steps=60000

  # your own bag: tools/inspect_bag.py BAG --write-config config/my_robot.yaml, then
  python -m gaussianocc_core.train config/my_robot.yaml

  # stage 2 goes on from the occupancy that ships, with your carved labels
  python -m gaussianocc_core.train config/train/gsv_carved_more.yaml data.dataroot=data/street \\
      data.occupancy=data/street_labels

  # first look: two trial steps; prints samples, memory and time, writes nothing
  python -m gaussianocc_core.train config/my_robot.yaml --dry-run

  # go on after Ctrl-C, a crash or a reboot: the same command and
  python -m gaussianocc_core.train config/train/gsp_tiny.yaml data.dataroot=data/street --resume

  # does it learn at all? One sample, again and again
  python -m gaussianocc_core.train config/train/gsp_tiny.yaml data.dataroot=data/street --overfit-batch \\
      steps=200 output=runs/overfit

Every setting and its default: gaussianocc_core/training/config.py and what it points to. Watch a run with
`tensorboard --logdir runs`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gaussianocc_core.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument("config", help="YAML file with what differs from the defaults; see config/train/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument(
        "--requeue", action="store_true", help="go on if the output folder holds a run, else begin: for job schedulers"
    )
    parser.add_argument("--overfit-batch", action="store_true", help="train on the first step's samples only")
    parser.add_argument("--minutes", type=float, metavar="M", help="save and stop after so long, for --resume to go on")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be trained on, its memory and time; write nothing"
    )
    options = parser.parse_intermixed_args(arguments)
    log_to_terminal(logging.INFO)
    try:
        config = load_config(options.config, TrainConfig, options.overrides)
        if not config.output:
            config = replace(config, output=str(Path("runs") / Path(options.config).stem))
        if options.dry_run:
            print(rehearse(config).describe())
            return 0
        resume = options.resume or (options.requeue and (Path(config.output) / LAST).is_file())
        path = train(config, resume=resume, overfit_batch=options.overfit_batch, minutes=options.minutes)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 0 if options.minutes else 130
    except TrainingCollapsed as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 3
    except GaussianOccError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped at once; --resume goes on from the last save, if there was one", file=sys.stderr)
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
