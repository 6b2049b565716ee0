# SPDX-License-Identifier: Apache-2.0
"""Drift of the odometry that a model has from its images, on a synthetic drive and on a recording with odometry.

python benchmarks/odometry.py [--checkpoint FILE] [--pose FILE] [--bag BAG] [--seeds 904] [--frames 72] [--json FILE]

Rows: the ego-motion network alone; the network, its lengths searched against depth as in training; images aligned with
depth (`VisualOdometry`, what the node runs) with the model's depth, and on synthetic drives with the true depth, which
is what alignment itself is good for. Depth of a model that matches is matched with the motion that was found, as in the
node. Percent: distance of the last pose from the true one, of the way; degrees per metre: its direction, of the way.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import write_report

from gaussianocc_core.checkpoint import default_checkpoint, load_pose_net
from gaussianocc_core.data.bag import open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.synthetic import World, default_rig, render_frame
from gaussianocc_core.training.motion_search import Guess, MotionSearch, as_long_as_depth_says
from gaussianocc_core.types import Cameras

RATE = 12.0  # Hz, of synthetic drives


@dataclass(frozen=True)
class Set:
    images: tuple[np.ndarray, ...]
    cameras: Cameras
    stamp_s: float
    T_world_ego: np.ndarray
    inv_depth: np.ndarray | None = None  # true, at the images' size


def synthetic(seed: int, frames: int) -> list[Set]:
    rig, world = resize(default_rig(), 352, 192), World(seed, duration=frames / RATE + 2.0)
    sets = []
    for k in range(frames):
        moment = 0.5 + k / RATE
        frame = render_frame(world, rig, moment)
        depth = np.stack(frame.depths)
        inv_depth = 1.0 / np.where(depth > 0.3, depth, 200.0)
        sets.append(Set(frame.images, rig, moment, world.T_world_ego(moment), inv_depth))
    return sets


def recorded(bag: str) -> list[Set]:
    samples = (entry.load() for entry in open_bags(BagConfig(bag))[0].entries())
    return [Set(s.images, s.cameras, 1e-9 * s.stamp_ns, s.T_world_ego) for s in samples if s.T_world_ego is not None]


def drift(found: list[np.ndarray], true: list[np.ndarray]) -> dict[str, float]:
    """Of two courses, each relative to its first pose."""
    steps = [[invert_matrix(a) @ b for a, b in itertools.pairwise(course)] for course in (found, true)]
    lengths = np.array([[np.linalg.norm(T[:3, 3]) for T in course] for course in steps])
    way = float(lengths[1].sum())
    ends = [invert_matrix(course[0]) @ course[-1] for course in (found, true)]
    error = invert_matrix(ends[1]) @ ends[0]
    moved = lengths[1] > 0.05
    ratio = lengths[0][moved] / lengths[1][moved]
    return {
        "way_m": way,
        "drift_percent": 100.0 * float(np.linalg.norm(error[:3, 3])) / way,
        "turn_deg_per_m": float(np.degrees(2.0 * np.arcsin(np.linalg.norm(error[:3, :3] - np.eye(3)) / 8**0.5))) / way,
        "length_ratio": float(np.median(ratio)),
        "length_error_percent": 100.0 * float(np.abs(ratio - 1.0).mean()),
    }


def by_alignment(predictor: OccupancyPredictor, sets: list[Set], true_depth: bool) -> dict[str, Any]:
    """As the node does it; with the true depth, without the network."""
    odometry, course, seconds, lost, errors = VisualOdometry(), [], 0.0, 0, []
    preprocess = Preprocessor.of(predictor.config)
    track, learn = odometry.track, odometry.learn_depth

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal seconds
            start = time.process_time()
            try:
                return work(*arguments)
            finally:
                seconds += time.process_time() - start

        return run

    odometry.track, odometry.learn_depth = timed(track), timed(learn)  # type: ignore[method-assign]
    predictor.reset()
    for each in sets:
        if true_depth:
            lenses = preprocess(each.cameras)
            views = lenses.views(each.cameras.T_ego_cam)
            moved = odometry.track(lenses.rectify(each.images), views, lenses.valid_mask, each.stamp_s)
            odometry.learn_depth(each.inv_depth, None)
        else:
            prediction = predictor(each.images, each.cameras, None, each.stamp_s, odometry)
            assert prediction.moved is not None
            moved = prediction.moved
        lost += bool(moved.lost)
        course.append(moved.T_odom_ego)
        if len(course) > 1:
            true = invert_matrix(sets[0].T_world_ego) @ each.T_world_ego
            off = moved.T_odom_ego[:3, 3] - true[:3, 3]
            errors.append(float(off @ np.linalg.solve(moved.covariance[:3, :3], off)) / 3.0)
    return {
        **drift(course, [each.T_world_ego for each in sets]), "lost": lost,
        "cpu_ms": 1e3 * seconds / len(sets), "place_error_over_covariance": float(np.sqrt(np.mean(errors))),
    }  # fmt: skip


@torch.inference_mode()
def by_network(path: str | Path, predictor: OccupancyPredictor, sets: list[Set], search: bool) -> dict[str, Any]:
    """The ego-motion network from set to set; with its lengths searched by depth of the model, as in training."""
    pose_net = load_pose_net(path).pose_net
    predictor.reset()
    preprocess = Preprocessor.of(predictor.config)
    course, before = [np.eye(4)], None
    for each in sets:
        lenses = preprocess(each.cameras)
        pixels = torch.from_numpy(lenses.rectify(each.images)).permute(0, 3, 1, 2).float() / 255.0
        if before is not None:
            T_now_then = pose_net(before[None], pixels[None]).T_later_earlier()
            if search:
                field = predictor(each.images, each.cameras).field
                assert field.inv_depth is not None
                depth = torch.nn.functional.interpolate(
                    1.0 / field.inv_depth[0][:, None], pixels.shape[-2:], mode="bilinear"
                )[:, 0]
                guess = Guess(depth, torch.from_numpy(lenses.valid_mask.copy()))
                T_then_now = torch.linalg.inv(T_now_then)
                colors = torch.stack([pixels, before])
                views = lenses.views(each.cameras.T_ego_cam)
                T_now_then = torch.linalg.inv(as_long_as_depth_says(colors, guess, views, T_then_now, MotionSearch()))
            course.append(course[-1] @ invert_matrix(T_now_then[0].double().numpy()))
        before = pixels
    return drift(course, [each.T_world_ego for each in sets])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(default_checkpoint()), help="of the depth")
    parser.add_argument("--pose", default=str(Path(str(default_checkpoint())).with_name("tiny_stage1.safetensors")))
    parser.add_argument("--bag", action="append", default=[], help="a recording with cameras and odometry")
    parser.add_argument("--seeds", type=int, nargs="*", default=[904])
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    predictor = OccupancyPredictor.from_checkpoint(arguments.checkpoint, "cpu")
    drives = [
        (f"synthetic street {seed}", lambda seed=seed: synthetic(seed, arguments.frames)) for seed in arguments.seeds
    ]
    drives += [(Path(bag).name, lambda bag=bag: recorded(bag)) for bag in arguments.bag]
    results = []
    for name, load in drives:
        sets = load()
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "network": lambda sets=sets: by_network(arguments.pose, predictor, sets, False),
            "network, length searched": lambda sets=sets: by_network(arguments.pose, predictor, sets, True),
            "images aligned": lambda sets=sets: by_alignment(predictor, sets, False),
        }
        if sets[0].inv_depth is not None:
            ways["images aligned, true depth"] = lambda sets=sets: by_alignment(predictor, sets, True)
        for way, measure in ways.items():
            results.append({"drive": name, "sets": len(sets), "way": way, **measure()})
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in results[-1].items()))
    if arguments.json:
        write_report(
            arguments.json,
            {"images": [predictor.config.image_height, predictor.config.image_width]},
            results,
            checkpoint=Path(arguments.checkpoint).name,
            matches=predictor.matches,
        )


if __name__ == "__main__":
    main()
