# SPDX-License-Identifier: Apache-2.0
"""How right carved labels are: against the true occupancy of a data set, or against the lidar of a bag.

python benchmarks/carving.py --dataroot data/held_out [--motion recorded images] [--scenes 3] [--json FILE]
python benchmarks/carving.py --bag drive_7 [--every 5] [--json FILE]

Data set, by distance: IoU of what is occupied, and of what is and is no ground, in the voxels that cameras see, and in
those of them that are known; `known` is their share, `known_obstacles` that of what is occupied and no ground. Bag: of
the lidar's points 0.5 to 3 m above the ground that a camera sees, the shares in voxels called occupied, free and
unknown; of the columns called occupied at that height in a camera's view, the share without a point within 0.8 m.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report

from gaussianocc_core.checkpoint import default_checkpoint, parse_image_size
from gaussianocc_core.data.bag import BagEntry, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_topics
from gaussianocc_core.data.entries import SampleEntry, load_occupancy
from gaussianocc_core.geometry.voxels import centers, index_centers, locate
from gaussianocc_core.labels import FREE, GROUND_CLASSES, UNOBSERVED
from gaussianocc_core.mapping.entries import Recordings
from gaussianocc_core.mapping.recording import RecordingCarver, RecordingSettings, load_matching
from gaussianocc_core.metrics.occupancy import OccupancyScores
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.types import Cameras, VoxelGrid

RINGS = ((0.0, 10.0), (10.0, 20.0), (20.0, 40.0), (0.0, 40.0))  # m, of the larger of |x| and |y|
LOW, HIGH = 0.5, 3.0  # m above the ground
NEAR = 0.8  # m
Size = tuple[int, int] | None  # of the images that depth is matched in, px; None: as the network was trained


def against_truth(root: Path, motion: str, checkpoint: Path, scenes: int | None, size: Size) -> list[dict[str, Any]]:
    loaded, recordings = load_matching(checkpoint, size), Recordings(root)
    grid = loaded.config.grid
    place = centers(grid).numpy()
    distance = np.abs(place[..., :2]).max(axis=-1)
    rings = [(low, high, (distance >= low) & (distance < high)) for low, high in RINGS]
    seen, known = ([OccupancyScores() for _ in rings] for _ in range(2))
    counts = np.zeros((len(rings), 4))  # voxels seen, of them known; the same of obstacles
    moments, start = 0, time.process_time()
    for name in recordings.names()[:scenes]:
        entries = recordings.entries(name)
        truths = {
            each.token: load_occupancy(each.occupancy_path, each.T_world_labels)
            for each in entries
            if isinstance(each, SampleEntry) and each.occupancy_path is not None and each.occupancy_path.is_file()
        }
        skip = frozenset(each.token for each in entries if each.token not in truths)
        carver = RecordingCarver(loaded, entries, name, RecordingSettings(motion=motion), skip, in_label_frame=True)
        for labels in carver:
            if labels is None:
                continue
            truth, moments = truths[labels.token], moments + 1
            obstacle = _is_obstacle(truth.semantics)
            for k, (_, _, ring) in enumerate(rings):
                mask = truth.mask_camera & ring
                seen[k].update(truth.semantics, labels.semantics, mask)
                known[k].update(truth.semantics, labels.semantics, mask & labels.known)
                counts[k] += [
                    mask.sum(),
                    (mask & labels.known).sum(),
                    (mask & obstacle).sum(),
                    (mask & obstacle & labels.known).sum(),
                ]
    rows = []
    for k, (low, high, _) in enumerate(rings):
        rows.append(
            {
                "motion": motion,
                "from_m": low,
                "to_m": high,
                "moments": moments,
                "iou": seen[k].summary()["iou"],
                "non_ground_iou": seen[k].summary()["non_ground_iou"],
                "iou_of_known": known[k].summary()["iou"],
                "non_ground_iou_of_known": known[k].summary()["non_ground_iou"],
                "known": counts[k, 1] / max(counts[k, 0], 1),
                "known_obstacles": counts[k, 3] / max(counts[k, 2], 1),
                "cpu_s": time.process_time() - start,
            }
        )
    return rows


def _is_obstacle(labels: np.ndarray) -> np.ndarray:
    return (labels != FREE) & ~np.isin(labels, GROUND_CLASSES)


def against_lidar(path: Path, motion: str, checkpoint: Path, every: int, size: Size) -> list[dict[str, Any]]:
    loaded, recordings = load_matching(checkpoint, size), Recordings(path)
    grid, preprocess = loaded.config.grid, Preprocessor.of(loaded.config)
    sources = {each.index.name: each for each in open_bags(BagConfig(path=str(path)))}
    edges = (0.0, 5.0, 10.0, 20.0)
    points = np.zeros((len(edges) - 1, 3))  # occupied, free, unknown
    columns = np.zeros((len(edges) - 1, 2))  # all, without a point
    moments = 0
    for name in recordings.names():
        topics = lidar_topics(sources[name])
        if not topics:
            raise SystemExit(f"{name}: has no lidar whose place on the robot is known")
        entries = recordings.entries(name)
        wanted = {each.token: each for each in entries[::every]}
        skip = frozenset(each.token for each in entries if each.token not in wanted)
        for labels in RecordingCarver(loaded, entries, name, RecordingSettings(motion=motion), skip):
            entry = None if labels is None else wanted[labels.token]
            if labels is None or not isinstance(entry, BagEntry):
                continue
            lenses = preprocess(entry.cameras)
            cameras = lenses.views(entry.cameras.T_ego_cam)
            scan = lidar_depths(sources[name], topics[0], entry, cameras)
            if scan is None:
                continue
            found = _in_ego(scan, cameras)
            moments += 1
            _count_points(points, edges, found, labels.semantics, grid)
            _count_ghosts(columns, edges, found, labels.semantics, grid, cameras, lenses)
    rows = []
    for k in range(len(edges) - 1):
        total = max(points[k].sum(), 1)
        rows.append(
            {
                "motion": motion,
                "from_m": edges[k],
                "to_m": edges[k + 1],
                "moments": moments,
                "points": int(points[k].sum()),
                "occupied": points[k, 0] / total,
                "free": points[k, 1] / total,
                "unknown": points[k, 2] / total,
                "columns": int(columns[k, 0]),
                "ghosts": columns[k, 1] / max(columns[k, 0], 1),
            }
        )
    return rows


def _in_ego(scan: tuple[np.ndarray, ...], cameras: Cameras) -> np.ndarray:
    """Points that cameras see (column, row, z-depth) in the ego frame, m."""
    found = []
    for n, each in enumerate(scan):
        K, T = cameras.intrinsics[n].double().numpy(), cameras.T_ego_cam[n].double().numpy()
        rays = np.stack([(each[:, 0] - K[0, 2]) / K[0, 0], (each[:, 1] - K[1, 2]) / K[1, 1], np.ones(len(each))], -1)
        found.append((rays * each[:, 2:]) @ T[:3, :3].T + T[:3, 3])
    return np.concatenate(found)


def _count_points(
    counts: np.ndarray, edges: tuple[float, ...], found: np.ndarray, labels: np.ndarray, grid: VoxelGrid
) -> None:
    standing = found[(found[:, 2] > LOW) & (found[:, 2] < HIGH)]
    index, inside = locate(grid, standing)
    said = labels[tuple(index[inside].T)]
    ring = np.digitize(np.hypot(*standing[inside, :2].T), edges) - 1
    for k in range(len(counts)):
        each = said[ring == k]
        counts[k] += [(each < FREE).sum(), (each == FREE).sum(), (each == UNOBSERVED).sum()]


def _count_ghosts(
    counts: np.ndarray,
    edges: tuple[float, ...],
    found: np.ndarray,
    labels: np.ndarray,
    grid: VoxelGrid,
    cameras: Cameras,
    lenses: Lenses,
) -> None:
    """Columns, as seen from above, in which an obstacle stands in view."""
    index = np.argwhere(_is_obstacle(labels) & (labels != UNOBSERVED))
    place = index_centers(grid, index)
    height = (place[:, 2] > LOW) & (place[:, 2] < HIGH)
    in_view = np.zeros(len(place), bool)
    for n in range(len(cameras)):
        K, T = cameras.intrinsics[n].double().numpy(), cameras.T_ego_cam[n].double().numpy()
        p = (place - T[:3, 3]) @ T[:3, :3] @ K.T
        z = np.where(p[:, 2] > 0.3, p[:, 2], np.inf)
        u, v = p[:, 0] / z, p[:, 1] / z
        in_view |= np.isfinite(z) & (u >= 0) & (v >= 0) & (u < cameras.width[n]) & (v < cameras.height[n])
    here = np.unique(place[height & in_view][:, :2].round(6), axis=0)
    standing = found[(found[:, 2] > 0.3) & (found[:, 2] < HIGH + 0.5)]
    if not len(here):
        return
    away = np.full(len(here), np.inf)
    for n, column in enumerate(here):
        if len(standing):
            away[n] = np.hypot(*(standing[:, :2] - column).T).min()
    ring = np.digitize(np.hypot(*here.T), edges) - 1
    for k in range(len(counts)):
        counts[k] += [(ring == k).sum(), ((ring == k) & (away > NEAR)).sum()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dataroot", type=Path, help="data set in the nuScenes schema with gts/")
    where.add_argument("--bag", type=Path, help="rosbag2 with lidar")
    default = default_checkpoint()
    weights = None if default is None else default.parent / "tiny_matching.safetensors"
    parser.add_argument("--checkpoint", type=Path, default=weights, help="first stage that matches (%(default)s)")
    parser.add_argument("--motion", nargs="+", choices=("recorded", "images"), default=["recorded", "images"])
    parser.add_argument("--size", nargs="+", default=[""], metavar="WxH", help="of images (default: the network's)")
    parser.add_argument("--scenes", type=int, help="data set: only so many")
    parser.add_argument("--every", type=int, default=5, help="bag: only each Nth moment (%(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for text, motion in itertools.product(options.size, options.motion):
        size = parse_image_size(text, "--size") if text else None
        if options.bag:
            found = against_lidar(options.bag, motion, options.checkpoint, options.every, size)
        else:
            found = against_truth(options.dataroot, motion, options.checkpoint, options.scenes, size)
        rows += [{"size": text or "as trained", **row} for row in found]
    for row in rows:
        print(
            " ".join(
                f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()
            )
        )
    if options.json:
        write_report(options.json, {"checkpoint": options.checkpoint.name}, rows)


if __name__ == "__main__":
    main()
