#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adds a memory to a model: a head that weighs what rays of the last seconds found, fitted to carved labels.

    tools/carve_labels.py data/street --checkpoint tiny_matching --output data/street_labels
    tools/fit_memory.py data/street --labels data/street_labels --checkpoint runs/gsv_carved/model.safetensors \\
        --output my_model.safetensors
    tools/fit_memory.py --config config/my_robot_gsv.yaml --labels labels/my_robot \\
        --checkpoint runs/my_robot_gsv/model.safetensors

The head is written into the model file, or into a copy of it (--output); node, evaluate and viewer use it from there.
Compare with and without: evaluate --no-memory. With --config the recordings, cameras and masks of a training are used,
without what it leaves out to be measured on. Labels of a data set (DIR/<scene>/<token>/labels.npz, such as Occ3D's
gts/) will do as well, if the grid is the model's. A recording without poses is followed by its images.
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
    parser.add_argument("source", type=Path, nargs="?", help="a data set in the nuScenes schema, DDAD, or bags")
    parser.add_argument("--config", type=Path, metavar="FILE", help="training whose recordings are used, in its place")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="<camera>_mask.png, zero where it sees the robot")
    parser.add_argument("--labels", type=Path, required=True, help="folder that tools/carve_labels.py wrote of it")
    parser.add_argument("--checkpoint", required=True, help="model file of a second stage, whose word is weighed")
    parser.add_argument("--output", type=Path, help="another file, .safetensors, and the model file stays as it is")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--scenes", nargs="+", metavar="NAME", help="recordings to learn from (default: all)")
    parser.add_argument(
        "--preference",
        type=float,
        default=1.0,
        metavar="R",
        help="how much worse a missed obstacle is than a ghost (default: 1, carved labels are generous; of true "
        "labels 2.3 gave the best IoU off the ground)",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return run_command(lambda: fit_memory(options), "stopped; nothing was written")


def fit_memory(options: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    from gaussianocc_core.checkpoint import copy_with_memory, load_model
    from gaussianocc_core.config import load_config
    from gaussianocc_core.errors import DatasetError
    from gaussianocc_core.mapping.entries import Recordings, SourceOptions, recordings_of
    from gaussianocc_core.mapping.label_files import INDEX
    from gaussianocc_core.models.ray_memory import MemoryHead
    from gaussianocc_core.predictor import OccupancyPredictor
    from gaussianocc_core.training.config import TrainConfig
    from gaussianocc_core.training.memory_fit import Examples, collect, fit

    if not 0.1 <= options.preference <= 10:
        raise DatasetError(f"--preference: expected 0.1 to 10, got {options.preference:g}")
    if not options.labels.is_dir():
        raise DatasetError(f"{options.labels}: no such folder; tools/carve_labels.py writes it")
    if (options.source is None) == (options.config is None):
        raise DatasetError("give either SOURCE, a data set or recording, or --config FILE, a training configuration")
    if options.config:
        data = load_config(options.config, TrainConfig).data
        recordings = recordings_of(data)
        scenes = recordings.choose(options.scenes or data.scenes)
    else:
        recordings = Recordings(options.source, SourceOptions(masks=str(options.masks or "")))
        scenes = recordings.choose(options.scenes)
    output = options.output or Path(options.checkpoint)
    if options.output is None and not output.is_file():
        raise DatasetError(f"{output}: no such file; to add a memory to shipped weights name an --output")
    if options.output is not None and output.exists() and not options.overwrite:
        raise DatasetError(f"{output}: exists already; give another name or --overwrite")
    loaded = load_model(options.checkpoint)
    # Any head will do to drive with: what it is given of a voxel is the network's word, not its own.
    predictor = OccupancyPredictor(loaded.model, loaded.config, loaded.provenance, "cpu", memory=MemoryHead())
    in_label_frame = not (options.labels / INDEX).is_file()  # a data set's own; carved ones lie where the images are
    rng, examples = np.random.default_rng(options.seed), list[Examples]()
    for name in tqdm(scenes, unit="recording", disable=None):
        examples += collect(predictor, recordings.entries(name), options.labels, rng, in_label_frame)
    if not examples:
        raise DatasetError(f"{options.labels}: no labels for any moment of {recordings.path}")
    head, loss = fit(examples, options.preference, seed=options.seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    fitted_to = f"labels of {len(examples)} moments in {options.labels.name}"
    copy_with_memory(options.checkpoint, output, head, fitted_to)
    print(f"{output}: has a memory fitted to {len(examples)} moments, loss on those left out {loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
