# SPDX-License-Identifier: Apache-2.0
"""How good the depth hints of stage 1 are, against true depth, by distance and by the motion that they are found with.

python benchmarks/hints.py --dataroot DIR [--checkpoint FILE] [--every 1] [--json FILE]

DIR: a synthetic data set (tools/make_synthetic_nuscenes.py). Errors are mean absolute differences of log depth, which
for small ones is the share that a depth is off; "better" are the believed hints that are nearer to the truth than the
network is.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from report import write_report
from torch import Tensor

from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.evaluation.depth import DISTANCES, rectify_depths
from gaussianocc_core.evaluation.networks import CheckpointNetworks
from gaussianocc_core.geometry.warp import interpolate_depth
from gaussianocc_core.metrics.depth import NUSCENES_RANGE
from gaussianocc_core.models.depth_net import predict_depth
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.config import GspConfig
from gaussianocc_core.training.ego import neighbour_motions, predict_ego_motion
from gaussianocc_core.training.hints import find_hints
from gaussianocc_core.training.loader import Batch, prepare
from gaussianocc_core.training.motion_search import Guess, as_long_as_depth_says
from gaussianocc_core.training.view import views_of

SHIPPED = Path(__file__).resolve().parents[1] / "gaussianocc_core" / "weights" / "tiny_stage1.safetensors"
CONFIG = GspConfig()
EDGES = (NUSCENES_RANGE[0], *DISTANCES, NUSCENES_RANGE[1])
RINGS = [f"{low:g} to {high:g} m" for low, high in itertools.pairwise(EDGES)]
COLUMNS = ("pixels", "believed", "hint_error", "network_error_there", "network_error_elsewhere", "better")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", required=True)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="model file of a first stage (default: ours)")
    parser.add_argument("--every", type=int, default=1, help="of the scenes, only each so many")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    networks, source = CheckpointNetworks(options.checkpoint, "cpu"), NuScenesSource(options.dataroot)
    size = networks.config.image_width, networks.config.image_height
    preprocess = Preprocessor.of(networks.config)
    sums: dict[str, np.ndarray] = {}
    samples = 0
    for scene in source.scene_names()[:: options.every]:
        for entry in source.index(scene, depths=True, neighbours=True):
            sample = entry.load()
            lenses = preprocess(sample.cameras, sample.static_masks)
            truths = rectify_depths(sample, lenses)
            if truths is None or len(sample.neighbours) < 2:
                continue
            samples += 1
            for motion, (depth, hints, believed) in find(networks, prepare(sample, lenses)).items():
                sums.setdefault(motion, np.zeros((len(RINGS), 6)))
                sums[motion] += count(truths, depth, hints, believed)
    results = [row for motion, total in sums.items() for row in rows(motion, total)]
    for row in results:
        print(" ".join(f"{value:>24}" if isinstance(value, str) else f"{value:8.3f}" for value in row.values()))
    print("columns: motion, true depth; " + ", ".join(COLUMNS).replace("_", " "))
    if options.json:
        shapes = {"samples": samples, "width": size[0], "height": size[1]}
        write_report(options.json, shapes, results)


@torch.no_grad()
def find(networks: CheckpointNetworks, batch: Batch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Depth of the network, hints (m) and which are believed, at the size of the hints, by the motion."""
    assert networks.depth_net is not None and networks.pose_net is not None
    (view,) = views_of(batch, networks.depth_net.head)
    depth = predict_depth(networks.depth_net, view.now[None], batch.cameras).depth[0]
    plane = None if view.ground is None else view.ground.plane()
    said = predict_ego_motion(networks.pose_net, batch.jittered())[0]
    guess = Guess(depth, view.valid)
    searched = as_long_as_depth_says(view.colors, guess, view.cameras, said, CONFIG.length_search)
    motions = {"learnt": said, "learnt, length searched": searched}
    if torch.isfinite(batch.T_target_now).all():
        motions["true"] = batch.T_target_now[0].float()
    found = {}
    for name, T_target_now in motions.items():
        T_other_cam = neighbour_motions(T_target_now, view.cameras.T_ego_cam)
        hints, believed = find_hints(
            view.now,
            view.around,
            depth,
            plane,
            view.cameras.intrinsics,
            T_other_cam,
            view.valid,
            CONFIG.hints,
            CONFIG.temporal,
        )
        found[name] = interpolate_depth(depth, *hints.shape[-2:]), hints, believed
    return found


def count(truths: tuple[np.ndarray, ...], depth: Tensor, hints: Tensor, believed: Tensor) -> np.ndarray:
    """By ring: pixels, hints believed, their error, the network's there and elsewhere, hints nearer the truth."""
    height, width = hints.shape[-2:]
    true = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST) for each in truths])
    known = (true > EDGES[0]) & (true < EDGES[-1])
    ring, hinted, log = np.digitize(true, DISTANCES)[known], believed.numpy()[known], np.log(true[known])
    ours, theirs = np.abs(np.log(depth.numpy()[known]) - log), np.abs(np.log(hints.numpy()[known]) - log)
    columns = (np.ones(len(log)), hinted, theirs * hinted, ours * hinted, ours * ~hinted, (theirs < ours) & hinted)
    return np.stack([np.bincount(ring, each.astype(float), len(RINGS)) for each in columns], axis=1)


def rows(motion: str, total: np.ndarray) -> list[dict[str, Any]]:
    share = total[:, 0] / total[:, 0].sum()
    pixels, hinted = np.maximum(total[:, 0], 1.0), np.maximum(total[:, 1], 1.0)
    others = np.maximum(total[:, 0] - total[:, 1], 1.0)
    figures = (
        share,
        total[:, 1] / pixels,
        total[:, 2] / hinted,
        total[:, 3] / hinted,
        total[:, 4] / others,
        total[:, 5] / hinted,
    )
    return [
        {
            "motion": motion,
            "true_depth": ring,
            **{name: round(float(values[k]), 4) for name, values in zip(COLUMNS, figures, strict=True)},
        }
        for k, ring in enumerate(RINGS)
    ]


if __name__ == "__main__":
    main()
