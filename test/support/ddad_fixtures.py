# SPDX-License-Identifier: Apache-2.0
"""Data sets in the DGP scene format for tests: made-up ones, and the real scene of the shared data folder."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.cameras import view_rotation

RING = ("CAMERA_01", "CAMERA_05", "CAMERA_07", "CAMERA_09", "CAMERA_08", "CAMERA_06")  # counter-clockwise
THREE = ("CAMERA_01", "CAMERA_05", "CAMERA_06")
YAW_DEG = {"CAMERA_01": 1.5, "CAMERA_05": 54, "CAMERA_07": 112, "CAMERA_09": 179, "CAMERA_08": -113, "CAMERA_06": -51}
_FIRST_COUNT = {17: 15_569_195_938_415_231, 16: 1_568_863_909_528_155}  # real: no whole number of ns in float64
_NS_PER_COUNT = {17: 100, 16: 1000}
_LIDAR_LEAD_NS = 21_148_000  # the lidar is stamped before the images of its sample
PERIOD_NS = 100_000_000


def key(*parts: object) -> str:
    return hashlib.sha1("/".join(map(str, parts)).encode()).hexdigest()


@dataclass(frozen=True)
class MadeUpScene:
    """Driving around a bend: small cameras and a lidar at 10 Hz.

    Pictures are noise of their own each, so a mix-up cannot go unnoticed. Rows are written in no useful order, and the
    JSON dates are wrong in the way of the real ones. Unlike the real lidar's, this one's extrinsics are no identity.
    """

    name: str = "000000"
    cameras: tuple[str, ...] = THREE
    samples: int = 3
    digits: int = 17  # of file names
    image: str = "jpg"  # or png
    size: tuple[int, int] = (48, 30)  # width, height
    points: int = 40
    splits: tuple[str, ...] = ("0",)
    mounting: float = 0.0  # m and 10 deg; moves and turns all sensors: calibration differs from scene to scene

    @property
    def json_name(self) -> str:
        return f"{self.name}/scene_{key(self.name)}.json"

    @property
    def calibration_name(self) -> str:
        return f"{self.name}/calibration/{key(self.name, 'calibration')}.json"

    def count(self, sensor: str, sample: int) -> int:
        """The file name's number."""
        lead = _LIDAR_LEAD_NS if sensor == "LIDAR" else 0
        return _FIRST_COUNT[self.digits] + (sample * PERIOD_NS - lead) // _NS_PER_COUNT[self.digits]

    def stamp_ns(self, sensor: str, sample: int) -> int:
        return self.count(sensor, sample) * _NS_PER_COUNT[self.digits]

    def image_path(self, camera: str, sample: int) -> str:
        """Below the data root."""
        return f"{self.name}/rgb/{camera}/{self.count(camera, sample)}.{self.image}"

    def points_path(self, sample: int) -> str:
        return f"{self.name}/point_cloud/LIDAR/{self.count('LIDAR', sample)}.npz"

    def T_ego_sensor(self, sensor: str) -> np.ndarray:
        if sensor == "LIDAR":
            turn = transforms.quat_to_matrix(np.array([0.9, 0.01, -0.02, 0.3]))
            return transforms.make_transform(turn, np.array([0.9, -0.1, 1.9 + self.mounting]))
        yaw = YAW_DEG.get(sensor, 20.0 * len(sensor)) + 10 * self.mounting
        position = np.array([1.6 * np.cos(np.radians(yaw)), 0.6 * np.sin(np.radians(yaw)), 1.4 + self.mounting])
        return transforms.make_transform(view_rotation(yaw, pitch=-1.0, roll=0.5), position)

    def lens(self, camera: str) -> dict[str, float]:
        """The front one is narrow, and no two focal lengths are equal."""
        width, height = self.size
        wide = width * (1.12 if camera == "CAMERA_01" else 0.55) + 0.01 * len(camera) + 0.001 * YAW_DEG.get(camera, 0)
        return {"fx": wide, "fy": 0.9947 * wide, "cx": width / 2 - 0.7, "cy": height / 2 + 0.3, "skew": 0.0}

    def T_world_ego(self, stamp_ns: int) -> np.ndarray:
        seconds = (stamp_ns - self.stamp_ns("LIDAR", 0)) * 1e-9  # 8 m/s around a bend of 40 m radius
        yaw = 2.1 + 0.2 * seconds
        turn = transforms.quat_to_matrix(np.array([np.cos(yaw / 2), 0.003, -0.008, np.sin(yaw / 2)]))
        return transforms.make_transform(turn, np.array([400 + 40 * np.sin(yaw), -260 - 40 * np.cos(yaw), 12.5]))

    def write(self, root: Path) -> None:
        (root / self.name / "calibration").mkdir(parents=True)
        sensors = ("LIDAR", *self.cameras)
        nothing = dict.fromkeys(("fx", "fy", "cx", "cy", "skew"), 0.0)
        calibration = {
            "names": list(sensors),
            "extrinsics": [_pose_row(self.T_ego_sensor(sensor)) for sensor in sensors],
            "intrinsics": [nothing if sensor == "LIDAR" else self.lens(sensor) for sensor in sensors],
        }
        write_json(root / self.calibration_name, calibration)
        data, samples = [], []
        for i in range(self.samples):
            rows = [self._write_datum(root, sensor, i) for sensor in sensors]
            data += rows
            samples.append(
                {
                    "calibration_key": Path(self.calibration_name).stem,
                    "datum_keys": [row["key"] for row in rows],
                    "id": {"index": "0", "log": "", "name": "", "timestamp": "2463-05-15T00:38:58.203752Z"},
                    "metadata": {},
                }
            )
        shuffle = random.Random(self.name).shuffle
        for rows in (data, samples):
            shuffle(rows)
        write_json(root / self.json_name, {"name": "", "log": "", "data": data, "samples": samples, "ontologies": {}})

    def _write_datum(self, root: Path, sensor: str, sample: int) -> dict:
        stamp_ns = self.stamp_ns(sensor, sample)
        is_camera = sensor != "LIDAR"
        filename = self.image_path(sensor, sample) if is_camera else self.points_path(sample)
        path = root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([stamp_ns, len(self.name), *sensor.encode()])
        body = {
            "filename": str(path.relative_to(root / self.name)),
            "pose": _pose_row(self.T_world_ego(stamp_ns) @ self.T_ego_sensor(sensor)),
            "annotations": {},
            "metadata": {},
        }
        if is_camera:
            width, height = self.size
            cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            body |= {"width": width, "height": height, "channels": 3}
        else:
            points = np.column_stack([rng.normal(0, 20, (self.points, 3)), rng.uniform(0, 0.8, self.points)])
            np.savez(path, data=points)
            body |= {"point_format": ["X", "Y", "Z", "INTENSITY"], "point_fields": []}
        return {
            "key": key(self.name, sensor, sample),
            "datum": {"image" if is_camera else "point_cloud": body},
            "id": {"index": "0", "log": "", "name": sensor, "timestamp": "2463-05-15T00:38:58.203752Z"},
            "next_key": "",
            "prev_key": key("not in this scene"),
        }


def write_data_set(root: Path, *scenes: MadeUpScene, index: str = "made_up.json") -> Path:
    """The data root that was written."""
    root.mkdir(parents=True)
    splits: dict[str, dict[str, list[str]]] = {}
    for scene in scenes:
        scene.write(root)
        for split in scene.splits:
            splits.setdefault(split, {"filenames": []})["filenames"].append(scene.json_name)
    write_json(root / index, {"metadata": {"name": "made up"}, "scene_splits": splits})
    return root


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1))


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


def real_scene(shared_data: Path) -> Path:
    """Data root of one real scene, scene_01: three cameras at 1936x1216 and the lidar, 0.3 s, standing still."""
    return shared_data / "data" / "dgp_scene_01"


def _pose_row(T: np.ndarray) -> dict[str, dict[str, float]]:
    quat = transforms.matrix_to_quat(T[:3, :3])
    return {
        "rotation": dict(zip(("qw", "qx", "qy", "qz"), quat.tolist(), strict=True)),
        "translation": dict(zip("xyz", T[:3, 3].tolist(), strict=True)),
    }
