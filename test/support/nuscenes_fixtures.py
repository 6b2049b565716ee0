# SPDX-License-Identifier: Apache-2.0
"""Databases in the nuScenes v1.0 schema for tests: a made-up one, and the real frames of the shared data folder."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gaussianocc_core.data.nuscenes_tables import TABLES
from gaussianocc_core.geometry import transforms

RING = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT", "CAM_FRONT_RIGHT")
_YAW_DEG = (0.5, 55, 110, 180, -110, -55)
_TRIGGER_US = (8000, 0, 43000, 33000, 24000, 16000)  # within a set, as on the real vehicle
_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # axes of a camera that looks along ego x
START_US = 1_532_402_927_604_844  # a real nuScenes stamp: its nanoseconds are no whole number in float64


def token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


def read_table(root: Path, name: str, version: str = "v1.0-mini") -> list[dict]:
    return json.loads((root / version / f"{name}.json").read_text())


def write_table(root: Path, name: str, rows: Any, version: str = "v1.0-mini") -> None:
    (root / version / f"{name}.json").write_text(json.dumps(rows))


@dataclass
class MadeUpDatabase:
    """A few seconds of driving around a bend: six small cameras at 12 Hz, keyframes at 2 Hz, lidar, one radar.

    Pictures are noise of their own each, so a mix-up cannot go unnoticed. Rows are written in no useful order.
    """

    scenes: tuple[str, ...] = ("scene-0001",)
    keyframes: int = 2
    frames_per_keyframe: int = 3  # a keyframe and its sweeps
    size: tuple[int, int] = (64, 36)  # width, height
    points: int = 400
    occupancy: bool = True
    semantics: bool = False  # 2D labels of keyframes, in the published format
    _tables: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list), init=False, repr=False)

    def write(self, root: Path) -> Path:
        """The data root (version v1.0-mini) that was written; call once."""
        (root / "v1.0-mini").mkdir(parents=True)
        (root / "maps").mkdir()
        cv2.imwrite(str(root / "maps" / "blank.png"), np.zeros((4, 4), np.uint8))
        self._tables["map"].append(
            {"token": token("map"), "log_tokens": [token("log")], "category": "", "filename": "maps/blank.png"}
        )
        self._tables["log"].append(
            {"token": token("log"), "logfile": "made-up", "vehicle": "", "date_captured": "", "location": ""}
        )
        for channel, modality in [*((c, "camera") for c in RING), ("LIDAR_TOP", "lidar"), ("RADAR_FRONT", "radar")]:
            self._tables["sensor"].append({"token": token(channel), "channel": channel, "modality": modality})
        for number, scene in enumerate(self.scenes):
            self._write_scene(root, scene, START_US + number * 60_000_000)
        for name in TABLES:
            random.Random(name).shuffle(self._tables[name])
            write_table(root, name, self._tables[name])
        return root

    def _write_scene(self, root: Path, scene: str, start_us: int) -> None:
        self._calibrate(scene)
        for k in range(self.keyframes):
            sample = token(scene, "sample", k)
            self._tables["sample"].append(
                {
                    "token": sample,
                    "timestamp": start_us + k * 500_000 + 43_107,
                    "scene_token": token(scene),
                    "prev": token(scene, "sample", k - 1) if k else "",
                    "next": token(scene, "sample", k + 1) if k + 1 < self.keyframes else "",
                }
            )
            for i in range(self.frames_per_keyframe):
                set_us = start_us + k * 500_000 + i * 83_333
                for channel, offset in zip(RING, _TRIGGER_US, strict=True):
                    self._write_row(root, scene, sample, channel, set_us + offset, i == 0, k)
                self._write_row(root, scene, sample, "LIDAR_TOP", set_us + 43_107, i == 0, k)
                self._write_row(root, scene, sample, "RADAR_FRONT", set_us + 12_345, i == 0, k)
            if self.occupancy:
                self._write_occupancy(root / "gts" / scene / sample / "labels.npz")
        first, last = token(scene, "sample", 0), token(scene, "sample", self.keyframes - 1)
        self._tables["scene"].append(
            {
                "token": token(scene),
                "name": scene,
                "description": "",
                "log_token": token("log"),
                "nbr_samples": self.keyframes,
                "first_sample_token": first,
                "last_sample_token": last,
            }
        )

    def _calibrate(self, scene: str) -> None:
        width, height = self.size
        for i, (channel, yaw_deg) in enumerate(zip(RING, _YAW_DEG, strict=True)):
            yaw = np.radians(yaw_deg)
            heading = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
            focal = width * (0.8 + 0.01 * i)
            self._add_calibration(
                scene,
                channel,
                [1.5 * np.cos(yaw), 0.5 * np.sin(yaw), 1.5 + 0.01 * i],
                transforms.matrix_to_quat(heading @ _OPTICAL).tolist(),
                [[focal, 0.0, width / 2 + 0.25], [0.0, focal, height / 2 - 0.5], [0.0, 0.0, 1.0]],
            )
        self._add_calibration(scene, "LIDAR_TOP", [0.94, 0.0, 1.84], [0.7078, -0.0065, 0.0106, -0.7063], [])
        self._add_calibration(scene, "RADAR_FRONT", [3.4, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0], [])

    def _add_calibration(self, scene, channel, translation, rotation, intrinsic) -> None:
        self._tables["calibrated_sensor"].append(
            {
                "token": token(scene, channel),
                "sensor_token": token(channel),
                "translation": [float(value) for value in translation],
                "rotation": rotation,
                "camera_intrinsic": intrinsic,
            }
        )

    def _write_row(self, root, scene, sample, channel, stamp_us, is_key_frame, keyframe) -> None:
        extension = {"C": "jpg", "L": "pcd.bin", "R": "pcd"}[channel[0]]
        folder = f"{'samples' if is_key_frame else 'sweeps'}/{channel}"
        filename = f"{folder}/made-up__{channel}__{stamp_us}.{extension}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(stamp_us)
        width, height = self.size
        if channel.startswith("CAM"):
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(root / filename), noise, [cv2.IMWRITE_JPEG_QUALITY, 90])
            if self.semantics and is_key_frame:
                labels = root / "nuscenes_semantic" / f"{filename.removesuffix('.jpg')}_mask.bin"
                labels.parent.mkdir(parents=True, exist_ok=True)
                rng.integers(-1, 17, (height, width), dtype=np.int8).tofile(labels)
        elif channel.startswith("LIDAR"):
            directions = rng.normal(size=(self.points, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            points = directions * rng.uniform(2, 40, (self.points, 1))
            extra = [rng.uniform(0, 255, self.points), rng.integers(0, 32, self.points)]
            np.column_stack([points, *extra]).astype("<f4").tofile(root / filename)
        row = token(scene, channel, stamp_us)
        self._tables["ego_pose"].append({"token": row, "timestamp": stamp_us, **self._drive(stamp_us)})
        self._tables["sample_data"].append(
            {
                "token": row,
                "sample_token": sample,
                "ego_pose_token": row,
                "calibrated_sensor_token": token(scene, channel),
                "timestamp": stamp_us,
                "fileformat": extension.split(".")[0],
                "is_key_frame": is_key_frame,
                "width": width if channel.startswith("CAM") else 0,
                "height": height if channel.startswith("CAM") else 0,
                "filename": filename,
                "prev": "",
                "next": "",
            }
        )

    @staticmethod
    def _drive(stamp_us: int) -> dict[str, list[float]]:
        seconds = (stamp_us - START_US) * 1e-6  # 8 m/s around a bend of 40 m radius
        yaw = 0.4 + 0.2 * seconds
        position = [411.4 + 40 * np.sin(yaw), 1181.2 - 40 * np.cos(yaw), 0.05 * seconds]
        return {"translation": position, "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]}

    @staticmethod
    def _write_occupancy(path: Path) -> None:
        path.parent.mkdir(parents=True)
        rng = np.random.default_rng(0)
        semantics = rng.integers(0, 18, (10, 10, 4), dtype=np.uint8)
        masks = rng.integers(0, 2, (2, 10, 10, 4), dtype=np.uint8)
        np.savez_compressed(path, semantics=semantics, mask_camera=masks[0], mask_lidar=masks[1])


def real_keyframes(shared_data: Path) -> Path:
    """Data root of seven consecutive real keyframes at 400x225 (version v1.0-mini, scene-0061)."""
    return shared_data / "data" / "nuscenes_scene0061_kf00-06"


def join_real_full_size_keyframe(shared_data: Path, root: Path) -> Path:
    """Data root of one real keyframe at 1600x900 (v1.0-mini, scene-0061): true table rows and files.

    The published rows lack the tables of annotations, logs and maps, which the devkit wants to see.
    """
    pixels = shared_data / "data" / "mmdet3d_scene0061_kf0"
    shutil.copytree(shared_data / "data" / "ros2_bevfusion_demo_tables" / "v1.0-test", root / "v1.0-mini")
    for path in (root / "v1.0-mini", *(root / "v1.0-mini").iterdir()):
        path.chmod(0o755)  # the shared folder is read-only, and copies inherit that
    (root / "maps").mkdir()
    cv2.imwrite(str(root / "maps" / "blank.png"), np.zeros((4, 4), np.uint8))
    logs = [row["log_token"] for row in read_table(root, "scene")]
    write_table(root, "log", [{"token": log, "logfile": "", "vehicle": "", "location": ""} for log in logs])
    write_table(root, "map", [{"token": token("map"), "log_tokens": logs, "filename": "maps/blank.png"}])
    write_table(root, "instance", [])
    write_table(root, "sample_annotation", [])
    for row in read_table(root, "sample_data"):
        target = root / row["filename"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pixels / target.name, target)
    return root
