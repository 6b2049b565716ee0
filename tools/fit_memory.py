#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fits the head that weighs what rays of the last seconds found, to labels that were carved from recordings.

    tools/carve_labels.py data/street --checkpoint tiny_matching --output data/street_labels
    tools/fit_memory.py data/street --labels data/street_labels --output memory.safetensors

Labels of a data set (DIR/<scene>/<token>/labels.npz, such as Occ3D's gts/) will do as well, if the grid is the model's.
The head that ships was fitted to tiny's word, and only tiny uses it; a model of your own remembers with a head of its
own. The node takes it with memory_head:=FILE, evaluate with --memory-head FILE; compare with and without. Recorded
motion is needed: odometry in TF, or a data set's poses.
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
    parser.add_argument("source", type=Path, help="a data set in the nuScenes schema, DDAD, a bag or a folder of bags")
    parser.add_argument("--labels", type=Path, required=True, help="folder that tools/carve_labels.py wrote of it")
    parser.add_argument("--checkpoint", default="tiny", help="model whose word is weighed (default: tiny)")
    parser.add_argument("--output", type=Path, required=True, help="file of the head, .safetensors")
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

    from gaussianocc_core.checkpoint import find_weights
    from gaussianocc_core.errors import DatasetError
    from gaussianocc_core.files import complete_file
    from gaussianocc_core.mapping.entries import Recordings
    from gaussianocc_core.models.ray_memory import SHIPPED, save_head
    from gaussianocc_core.predictor import OccupancyPredictor
    from gaussianocc_core.training.memory_fit import Examples, collect, fit

    if not 0.1 <= options.preference <= 10:
        raise DatasetError(f"--preference: expected 0.1 to 10, got {options.preference:g}")
    if not options.labels.is_dir():
        raise DatasetError(f"{options.labels}: no such folder; tools/carve_labels.py writes it")
    recordings = Recordings(options.source)
    predictor = OccupancyPredictor.from_checkpoint(find_weights(options.checkpoint), device="cpu", memory=SHIPPED)
    if not predictor.remembers:
        raise DatasetError(f"{options.checkpoint}: looks at each image alone, so that nothing is remembered")
    rng, examples = np.random.default_rng(options.seed), list[Examples]()
    for name in tqdm(recordings.choose(options.scenes), unit="recording", disable=None):
        examples += collect(predictor, recordings.entries(name), options.labels, rng)
    if not examples:
        raise DatasetError(f"{options.labels}: no labels for any moment of {options.source}")
    head, loss = fit(examples, options.preference, seed=options.seed)
    about = {
        "about": f"head of the memory of rays, fitted to labels of {len(examples)} moments in {options.labels.name}",
        "model": str(options.checkpoint),
        "preference": f"{options.preference:g}",
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(options.output) as partial:
        save_head(head, partial, about)
    print(f"wrote {options.output}: {len(examples)} moments, loss on those left out {loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
