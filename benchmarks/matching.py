# SPDX-License-Identifier: Apache-2.0
"""What matching gives: depth from one image, with other cameras, with time, with both; at rest; with motion that errs.

python benchmarks/matching.py [--checkpoint FILE] [--bag BAG] [--size 320x96] [--json FILE]

Without --bag on three synthetic streets that no training saw (worlds 777 to 779), past frames only; with a bag that has
lidar and odometry: against its lidar to 80 m. Motion is the true one but where a row says otherwise: learnt motion is
found in the same images, as in the node. The network is convolutional, so that --size may be any multiples of 16; a
stereo pair of 3.3 : 1 images has at 320 x 96 fewer pixels than six cameras at 176 x 96.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from report import write_report
from torch import Tensor

from gaussianocc_core.checkpoint import load_depth_net
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.models.common_turn import CommonTurnSettings
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.depth_refinement import FarViewSettings
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.models.matching import plane_inv_depths
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.models.motion_refinement import RefinementSettings
from gaussianocc_core.models.view_choice import ViewSettings
from gaussianocc_core.models.view_ring import RingSettings, ViewRing
from gaussianocc_core.types import Cameras

SHIPPED = Path(__file__).resolve().parents[1] / "gaussianocc_core" / "weights" / "tiny_matching.safetensors"
FAR = 80.0  # m, to which true depth counts
RINGS = (0.0, 2.0, 4.0, 16.0, 32.0, FAR)  # m
SEEDS, TIMES, PAST, GAP = (777, 778, 779), (2.0, 6.0, 10.0, 14.0), 6, 1.0 / 12.0
UNREFINED = RingSettings(turns=CommonTurnSettings(refinement=RefinementSettings(yaw=0.0)))
TIME_ALONE = RingSettings(views=ViewSettings(neighbours=0, earlier_neighbours=0))
NEAR_ALONE = RingSettings(far=FarViewSettings(ways=()))
Disturbance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Moment:
    """A set and the ones before it, oldest first; truth of the last."""

    images: list[np.ndarray]  # (N, h, w, 3) RGB at network size
    cameras: list[Cameras]  # of this size, each where it was at its own image time
    calibrated: Cameras
    poses: list[np.ndarray]  # T_world_ego of each set
    stamps: list[float]  # s
    truth: list[np.ndarray]  # per camera (P, 3): column and row as shares of the image, z-depth, m


def streets(size: tuple[int, int], still: bool = False) -> Iterator[Moment]:
    """still: the robot stays where it is while the traffic moves."""
    from gaussianocc_core.synthetic.rig import default_rig
    from gaussianocc_core.synthetic.world import World, render_frame

    rig = default_rig()
    rectifier = Rectifier(rig, *size)
    for seed in SEEDS:
        world = World(seed)
        for now in TIMES:
            stamps = [now - k * GAP for k in range(PAST, -1, -1)]
            frames = []
            for stamp in stamps:
                pose = world.T_world_ego(now) if still else None
                frames.append(render_frame(world, rig, stamp, T_world_ego=pose))
            truth = []
            for depth in frames[-1].depths:
                rows, columns = np.nonzero((depth > 0.1) & (depth < FAR))
                places = [(columns + 0.5) / depth.shape[1], (rows + 0.5) / depth.shape[0], depth[rows, columns]]
                truth.append(np.stack(places, axis=1)[::3])
            poses = [world.T_world_ego(now if still else stamp) for stamp in stamps]
            yield Moment(
                [rectifier(frame.images) for frame in frames], [rectifier.cameras] * len(stamps), rectifier.cameras,
                poses, stamps, truth,
            )  # fmt: skip


def lidar_bag(path: str, size: tuple[int, int], every: int) -> Iterator[Moment]:
    from gaussianocc_core.data.bag import open_bags
    from gaussianocc_core.data.bag_cameras import BagConfig
    from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_topics

    (source,) = open_bags(BagConfig(path=path))
    entries = source.entries(semantics=False)
    rig = entries[0].cameras
    rectifier, full = Rectifier(rig, *size), Rectifier(rig, rig.width[0], rig.height[0])
    topic = lidar_topics(source)[0]
    for last in range(2 * PAST, len(entries), every):
        chosen = entries[last - PAST : last + 1]
        points = lidar_depths(source, topic, chosen[-1], full.cameras)
        if points is None or any(entry.frame.T_world_ego is None for entry in chosen):
            continue
        scale = np.array([rig.width[0], rig.height[0], 1.0])
        cameras, poses = [], []
        for entry in chosen:
            T_world_ego = np.asarray(entry.frame.T_world_ego)
            poses.append(T_world_ego[0])
            placed = np.linalg.inv(T_world_ego[0]) @ T_world_ego @ rectifier.cameras.T_ego_cam.double().numpy()
            cameras.append(replace(rectifier.cameras, T_ego_cam=torch.from_numpy(placed).float()))
        yield Moment(
            [rectifier(entry.load().images) for entry in chosen], cameras, rectifier.cameras, poses,
            [entry.frame.camera_stamps_ns[0] * 1e-9 for entry in chosen],
            [each[(each[:, 2] > 0.1) & (each[:, 2] < FAR)] / scale for each in points],
        )  # fmt: skip


class Table:
    """Errors of one way to depth."""

    def __init__(self) -> None:
        self.images: list[tuple[float, float, float]] = []
        self.points: list[np.ndarray] = []  # relative error, error of log depth, depth, log of the expected error
        self.views, self.seconds = 0, []

    def add(self, truth: np.ndarray, inv_depth: Tensor, log_error: Tensor) -> None:
        grid = torch.from_numpy(truth[:, :2] * 2.0 - 1.0).float()[None, None]
        at, expected = (
            F.grid_sample(each[None, None], grid, padding_mode="border", align_corners=False)[0, 0, 0].numpy()
            for each in (inv_depth, log_error)
        )
        depth, true = np.clip(1.0 / at, 0.1, FAR), truth[:, 2]
        relative, ratio = np.abs(depth - true) / true, depth / true
        within = float((np.maximum(ratio, 1.0 / ratio) < 1.25).mean())
        self.images.append((float(relative.mean()), within, float(np.median(true) / np.median(depth))))
        self.points.append(np.stack([relative, np.abs(np.log(ratio)), true, expected]))

    def summary(self) -> dict[str, Any]:
        relative, log_error, true, expected = np.concatenate(self.points, axis=1)
        rows = np.array(self.images)
        rings = {}
        for low, high in itertools.pairwise(RINGS):
            inside = (true >= low) & (true < high)
            rings[f"{low:g}-{high:g} m"] = float(log_error[inside].mean()) if inside.any() else None
        least = expected > np.quantile(expected, 0.8)
        return {
            "abs_rel": float(rows[:, 0].mean()), "within_1.25": float(rows[:, 1].mean()),
            "scale": float(np.median(rows[:, 2])), "log_error": rings,
            "squared_error_in_least_confident_fifth": float((relative[least] ** 2).sum() / (relative**2).sum()),
            "expected_by_true_error": float(np.exp(expected).mean() / log_error.mean()),
            "views": self.views, "ring_ms": 1e3 * float(np.median(self.seconds)) if self.seconds else None,
        }  # fmt: skip


@torch.inference_mode()
def see(
    network: DepthNet, moment: Moment, table: Table, settings: RingSettings | None, motion: bool = True,
    disturb: Disturbance | None = None, learnt: bool = False,
) -> None:  # fmt: skip
    """settings: None: one image; motion: False: it is not known; disturb: what odometry makes of the earlier poses;
    learnt: they are found in the images, with the network's depth of each set."""
    head = network.head
    assert isinstance(head, MatchingHead)
    height, width = moment.images[0].shape[1:3]
    ring = ViewRing(width, height, plane_inv_depths(head.config, head.far), settings or RingSettings())
    sources = look = None
    rig, odometry = moment.calibrated, VisualOdometry() if learnt else None
    for k, images in enumerate(moment.images):
        last = k == len(moment.images) - 1
        look = network.image_encoder.look(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0)
        assert look.features is not None
        pose: np.ndarray | None = moment.poses[k]
        if disturb is not None and not last:
            T_now_then = np.linalg.inv(moment.poses[-1]) @ moment.poses[k]
            pose = moment.poses[-1] @ disturb(T_now_then)
        pose = pose if motion else None
        if odometry is not None:
            moved = odometry.track(images, moment.cameras[k], None, moment.stamps[k])
            if moved.lost:
                ring.reset()
            pose = moved.T_odom_ego
        began = time.perf_counter()
        if settings is not None and (last or odometry is not None):
            views = ring.views(look.features, moment.cameras[k], pose, moment.stamps[k])
            sources = views.sources
            table.views += views.count if last else 0
        ring.add(look.features, moment.cameras[k], pose, moment.stamps[k])
        if k == 0 or odometry is not None:
            # As in the node, where the depth of each set says which views are far for the next, and how far it went.
            found = network.match(look, sources, rig.intrinsics, rig.T_ego_cam, width, height)
            ring.learn_depth(found.inv_depth)
            if odometry is not None:
                odometry.learn_depth(found.inv_depth.numpy(), found.log_error.numpy())
        if last:
            table.seconds.append(time.perf_counter() - began)
    assert look is not None
    found = network.match(look, sources, rig.intrinsics, rig.T_ego_cam, width, height)
    for n, truth in enumerate(moment.truth):
        if len(truth):
            table.add(truth, found.inv_depth[n], found.log_error[n])


def errs(T_now_then: np.ndarray) -> np.ndarray:
    """Five percent too long, and a degree off."""
    c, s = np.cos(np.radians(1.0)), np.sin(np.radians(1.0))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    wrong = turn @ T_now_then
    wrong[:3, 3] *= 1.05
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--bag", help="rosbag2 with lidar and odometry, in place of the streets")
    parser.add_argument("--size", help="of the network's images, WIDTHxHEIGHT (default: the checkpoint's)")
    parser.add_argument("--every", type=int, default=4, help="of the bag's sets, only each so many")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loaded = load_depth_net(options.checkpoint)
    width, height = loaded.config.image_width, loaded.config.image_height
    if options.size:
        width, height = (int(each) for each in options.size.split("x"))
    every: dict[str, dict[str, Any]] = {
        "one image": {"settings": None},
        "+ neighbours": {"settings": RingSettings(), "motion": False},
        "+ time": {"settings": TIME_ALONE},
        "both": {"settings": RingSettings()},
        "both, learnt motion": {"settings": RingSettings(), "learnt": True},
        "both, no far views": {"settings": NEAR_ALONE},
        "both, turns not refined": {"settings": UNREFINED},
        "both, motion errs": {"settings": RingSettings(), "disturb": errs},
        "both, motion errs, turns not refined": {"settings": UNREFINED, "disturb": errs},
    }
    tables = {name: Table() for name in every}
    size = (width, height)
    for moment in lidar_bag(options.bag, size, options.every) if options.bag else streets(size):
        for name, how in every.items():
            see(loaded.depth_net, moment, tables[name], **how)
    if not options.bag:
        tables |= {"at rest": Table(), "at rest, one image": Table()}
        for moment in streets(size, still=True):
            see(loaded.depth_net, moment, tables["at rest"], RingSettings())
            see(loaded.depth_net, moment, tables["at rest, one image"], None)
    result = {name: table.summary() for name, table in tables.items()}
    for name, row in result.items():
        rings = " ".join("-" if each is None else f"{each:.3f}" for each in row["log_error"].values())
        print(
            f"{name:38s} Abs Rel {row['abs_rel']:.3f}  within 1.25 {row['within_1.25']:.3f}  scale {row['scale']:.3f}  "
            f"log error by distance {rings}  confidence {row['squared_error_in_least_confident_fifth']:.2f}"
        )
    if options.json:
        bag = Path(options.bag).name if options.bag else None
        shapes = {"checkpoint": options.checkpoint.name, "size": list(size), "bag": bag}
        write_report(options.json, shapes, [{"way": name, **row} for name, row in result.items()])


if __name__ == "__main__":
    main()
