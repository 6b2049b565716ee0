# SPDX-License-Identifier: Apache-2.0
"""What occupancy could be at best: the voxels that depth images cross, by true depth and by a first stage's.

python benchmarks/surfaces.py --dataroot DIR [--checkpoint FILE] [--sizes 176x96 352x192] [--json FILE]

DIR: a synthetic data set (tools/make_synthetic_nuscenes.py). The surface term of stage 2 teaches voxels what depth
images show; no network comes between here. So true depth says what the size of the images and of the voxels allow, and
the depth network what its errors cost. IoU counts the voxels that cameras see; off the ground, those above the one that
the ground runs through.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import write_report
from torch import Tensor

from gaussianocc_core.checkpoint import load_depth_net
from gaussianocc_core.data.entries import in_label_frame
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.labels import FREE, GROUND_CLASSES
from gaussianocc_core.models.depth_net import predict_depth
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.config import GsvConfig
from gaussianocc_core.training.loader import prepare
from gaussianocc_core.training.surfaces import find_surfaces, plan_surfaces
from gaussianocc_core.types import Cameras, OccupancyLabels, Sample, VoxelGrid

SHIPPED = Path(__file__).resolve().parents[1] / "gaussianocc_core" / "weights" / "tiny_stage1.safetensors"
FAR = 200.0  # m, what has no depth
REACHES = (10.0, 20.0, 80.0)  # m to which what stands up counts
GRID = VoxelGrid()
ON_GROUND = np.arange(GRID.shape[2]) <= int(-GRID.origin[2] / GRID.voxel_size)  # layers, from below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", required=True)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="model file of a first stage (default: ours)")
    parser.add_argument(
        "--sizes", nargs="+", default=["176x96", "352x192"], metavar="WIDTHxHEIGHT", help="of true depth"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loaded = load_depth_net(options.checkpoint)
    own_size = loaded.config.image_width, loaded.config.image_height
    sizes = [tuple(int(side) for side in text.split("x")) for text in options.sizes]
    counts: dict[tuple[str, tuple[int, ...], float], np.ndarray] = {}
    source, samples = NuScenesSource(options.dataroot), 0
    for scene in source.scene_names():
        for entry in source.index(scene, depths=True):
            sample = entry.load()
            if sample.occupancy is None or not sample.depths:
                continue
            samples += 1
            for size in sizes:
                depth, cameras = true_depth(sample, size)
                add(counts, ("true depth", size), depth, cameras, sample.occupancy)
            depth, cameras = learnt_depth(sample, own_size, loaded.depth_net)
            add(counts, ("learnt depth", own_size), depth, cameras, sample.occupancy)
    results: list[dict[str, Any]] = []
    for (who, size, reach), total in counts.items():
        hits, union, standing_hits, standing_union, claimed, true = total
        row = {
            "depth": who,
            "size": "x".join(map(str, size)),
            "reach_m": reach,
            "iou": hits / union,
            "off_ground_iou": standing_hits / standing_union,
            "off_ground_precision": standing_hits / max(claimed, 1),
            "off_ground_recall": standing_hits / true,
        }
        results.append({key: round(float(v), 4) if isinstance(v, float) else v for key, v in row.items()})
        print(" ".join(f"{value:>12}" if isinstance(value, str) else f"{value:8.3f}" for value in row.values()))
    print("columns: depth, size, reach m; IoU; off the ground: IoU, precision, recall")
    if options.json:
        write_report(options.json, {"samples": samples, "grid": list(GRID.shape)}, results)


def true_depth(sample: Sample, size: tuple[int, ...]) -> tuple[Tensor, Cameras]:
    lenses = Preprocessor(*size)(sample.cameras)
    images = [lenses.rectifier.rectify_labels(i, each, 0) for i, each in enumerate(sample.depths or ())]
    depth = torch.from_numpy(np.stack(images)).float()
    return torch.where(depth > 0, depth, FAR), placed(sample, lenses.views(sample.cameras.T_ego_cam))


@torch.no_grad()
def learnt_depth(sample: Sample, size: tuple[int, ...], network: torch.nn.Module) -> tuple[Tensor, Cameras]:
    batch = prepare(sample, Preprocessor(*size)(sample.cameras))
    depth = predict_depth(network, batch.colors()[:, 0], batch.cameras).depth[0]
    cameras = replace(batch.cameras, intrinsics=batch.cameras.intrinsics[0], T_ego_cam=batch.cameras.T_ego_cam[0])
    return depth, placed(sample, cameras)


def placed(sample: Sample, cameras: Cameras) -> Cameras:
    """Where each was at its own image time, in the ego frame of the labels."""
    return replace(cameras, T_ego_cam=in_label_frame(sample).T_ego_cam.to(cameras.T_ego_cam.dtype))


def add(
    counts: dict[tuple[str, tuple[int, ...], float], np.ndarray],
    key: tuple[str, tuple[int, ...]],
    depth: Tensor,
    cameras: Cameras,
    labels: OccupancyLabels,
) -> None:
    plan = plan_surfaces(cameras, GRID)
    occupied = labels.semantics != FREE
    standing = occupied & ~np.isin(labels.semantics, GROUND_CLASSES) & ~ON_GROUND
    for reach in REACHES:
        found = find_surfaces(1.0 / depth, cameras, plan, GsvConfig().thickness, reach)
        claimed = (found.occupied | found.filled).numpy()
        above = claimed & ~ON_GROUND
        counts.setdefault((*key, reach), np.zeros(6))
        counts[(*key, reach)] += [
            np.count_nonzero(labels.mask_camera & each)
            for each in (claimed & occupied, claimed | occupied, above & standing, above | standing, above, standing)
        ]


if __name__ == "__main__":
    main()
