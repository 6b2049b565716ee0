# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures and scores: the messages that arrived, beside images and truth of the street world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gaussianocc_core import metrics, viz
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import FREE, GROUND_CLASSES, has_one_class, ids_to_occ3d
from gaussianocc_core.metrics.occupancy import flat_ground
from gaussianocc_core.models.gaussian_head import label_gaussians
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, OccupancyLabels, VoxelGrid
from gaussianocc_ros.demo_replay import Recording

CAMERA_HZ = 12  # of the street world; the video runs in real time
RENDER_WIDTH = 240  # pixels of the rendered depth and semantics of each camera
VIDEO_SIZE = (1600, 900)


@dataclass(frozen=True)
class Standing:
    """What becomes of the voxels that cameras see and in which something stands (not ground), and of published ones."""

    true: int = 0
    found: int = 0  # published as occupied, whatever the class
    missed: int = 0  # published as free; the rest is unknown
    published: int = 0  # voxels in which the model says that something stands, where cameras see
    right: int = 0  # of these, those in which something is: ground, too

    def __add__(self, other: Standing) -> Standing:
        return Standing(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def shares(self) -> dict[str, float]:
        """Shares of 0 to 1: found, missed, unknown (of what stands), and right (of what is published)."""
        found, missed = (count / max(self.true, 1) for count in (self.found, self.missed))
        unknown = (self.true - self.found - self.missed) / max(self.true, 1)
        return {"found": found, "missed": missed, "unknown": unknown, "right": self.right / max(self.published, 1)}


def count_standing(truth: OccupancyLabels, labels: np.ndarray) -> Standing:
    """labels: (X, Y, Z) uint8, Occ3D ids; above FREE: unknown."""
    seen, true = truth.mask_camera, truth.semantics
    stands, said = (seen & (each < FREE) & ~np.isin(each, GROUND_CLASSES) for each in (true, labels))
    return Standing(
        int(stands.sum()),
        int((stands & (labels < FREE)).sum()),
        int((stands & (labels == FREE)).sum()),
        int(said.sum()),
        int((said & (true < FREE)).sum()),
    )


def draw(
    output: Path, source: NuScenesSource, scene: str, recording: Recording, seed: int, every: int
) -> dict[str, dict[str, float]]:
    """Write demo.mp4 and demo.png of every n-th set; the scores over all voxels, over those that cameras see, and there
    those of a flat road and nothing else; and `standing`, the shares of `Standing`."""
    images = _images_by_stamp(output / "bag" / scene)
    cameras = source.rig(scene).cameras
    truths = _Truth(source, scene, seed)
    confusion = np.zeros((FREE + 1, FREE + 1), dtype=np.int64)
    seen, flat = np.zeros_like(confusion), np.zeros_like(confusion)
    standing = Standing()
    shown = recording.occupancy[::every]
    began_ns = _stamp_ns(recording.occupancy[0])
    middle = len(shown) // 2

    def frames() -> Iterator[np.ndarray]:
        nonlocal confusion, seen, flat, standing
        for number, message in enumerate(tqdm(shown, unit="frame", disable=None)):
            stamp_ns = _stamp_ns(message)
            truth = truths.at(stamp_ns)
            labels, grid = decode(message)
            confusion += metrics.confusion_matrix(truth.semantics, labels, np.ones(grid.shape, dtype=bool))
            this = metrics.confusion_matrix(truth.semantics, labels, truth.mask_camera)
            seen += this
            flat += metrics.confusion_matrix(truth.semantics, flat_ground(grid), truth.mask_camera)
            standing += count_standing(truth, labels)
            frame = _demo_frame(
                message, labels, grid, truth, cameras, images, stamp_ns - began_ns, this, recording.stage_ms
            )
            picture = viz.compose_frame(frame, *VIDEO_SIZE)
            if number == middle:
                viz.write_png(output / "demo.png", viz.compose_frame(frame))
            yield picture

    viz.write_video(output / "demo.mp4", frames(), CAMERA_HZ / every)
    scores = {
        mask: metrics.occupancy_summary(counts)
        for mask, counts in (("whole_grid", confusion), ("mask_camera", seen), ("flat_ground", flat))
    }
    scores["standing"] = standing.shares()
    return {what: {name: round(value, 4) for name, value in each.items()} for what, each in scores.items()}


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def _demo_frame(
    message: Any,
    labels: np.ndarray,
    grid: VoxelGrid,
    truth: OccupancyLabels,
    cameras: Cameras,
    images: dict[str, dict[int, bytes]],
    since_start_ns: int,
    confusion: np.ndarray,
    stage_ms: dict[str, float],
) -> viz.DemoFrame:
    height = round(RENDER_WIDTH * cameras.height[0] / cameras.width[0])
    gaussians = label_gaussians(labels, grid, FREE + 1)
    views = rasterize(gaussians, cameras, width=RENDER_WIDTH, height=height, normalize_depth=True)
    solid = views.alpha[:, 0].numpy() > 0.5
    depth = np.where(solid, views.depth[:, 0].numpy(), 0.0)
    semantics = np.where(solid, views.features.argmax(dim=1).numpy(), FREE).astype(np.uint8)
    scores = metrics.occupancy_summary(confusion)
    return viz.DemoFrame(
        images={name: _nearest(images[name], _stamp_ns(message)) for name in cameras.names},
        cameras=cameras,
        prediction=labels,
        grid=grid,
        truth=truth.semantics,
        depths=dict(zip(cameras.names, depth, strict=True)),
        semantics=dict(zip(cameras.names, semantics, strict=True)),
        model=message.model,
        trained=message.model != "untrained",
        classless=has_one_class(message.class_names),
        stamp=f"{since_start_ns / 1e9:.2f} s of the drive",
        stage_ms=stage_ms,
        # Of the voxels that cameras can see: the true picture also has what is inside and behind houses.
        scores={"seen voxels: IoU": 100 * scores["iou"], "off the ground": 100 * scores["non_ground_iou"]},
    )


def decode(message: Any) -> tuple[np.ndarray, VoxelGrid]:
    """Labels (X, Y, Z) uint8, as Occ3D ids, and the grid of a SemanticOccupancy."""
    origin, shape = message.origin.position, (message.size_x, message.size_y, message.size_z)
    grid = VoxelGrid((origin.x, origin.y, origin.z), message.voxel_size.x, shape)
    labels = voxels.unflatten(np.frombuffer(message.labels, dtype=np.uint8), shape)
    return ids_to_occ3d(tuple(message.class_names))[labels], grid


class _Truth:
    """What the street world says at any moment; the data set itself has labels at keyframes only."""

    def __init__(self, source: NuScenesSource, scene: str, seed: int) -> None:
        from gaussianocc_core.synthetic import writer

        self._world = writer.scene_world(seed, 0, len(source.index(scene)))
        self._start_ns = writer.EPOCH * 1000
        self._cameras = source.rig(scene).cameras

    def at(self, stamp_ns: int) -> OccupancyLabels:
        from gaussianocc_core.synthetic.world import occupancy

        return occupancy(self._world, (stamp_ns - self._start_ns) / 1e9, cameras=self._cameras)


def _images_by_stamp(bag: Path) -> dict[str, dict[int, bytes]]:
    """JPEG bytes of a bag by camera and stamp (ns)."""
    from rosbags.highlevel import AnyReader

    images: dict[str, dict[int, bytes]] = {}
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic.endswith("/image_raw/compressed")]
        for connection, stamp_ns, raw in reader.messages(wanted):
            message: Any = reader.deserialize(raw, connection.msgtype)
            images.setdefault(message.header.frame_id, {})[stamp_ns] = message.data.tobytes()
    return images


def _nearest(images: dict[int, bytes], stamp_ns: int) -> np.ndarray:
    import cv2

    data = images[min(images, key=lambda stamp: abs(stamp - stamp_ns))]
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
