# SPDX-License-Identifier: Apache-2.0
"""The 13 tables of the nuScenes v1.0 schema. Stamps are microseconds, quaternions w x y z."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gaussianocc_core.data.nuscenes_tables import TABLES
from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.geometry.transforms import matrix_to_quat
from gaussianocc_core.synthetic.rig import Lidar
from gaussianocc_core.synthetic.world import Annotation
from gaussianocc_core.types import Cameras

CATEGORIES = (
    "human.pedestrian.adult", "movable_object.barrier", "movable_object.trafficcone", "vehicle.bicycle",
    "vehicle.bus.rigid", "vehicle.car", "vehicle.construction", "vehicle.motorcycle", "vehicle.trailer",
    "vehicle.truck",
)  # fmt: skip
ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
VISIBILITIES = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))

Row = dict[str, Any]


def token(*parts: object) -> str:
    """32 hexadecimal digits that depend on nothing but the parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Tables:
    """Rows by table name. One sensor_data chain per scene and channel; `close_scene` links it."""

    seed: int
    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in TABLES})
    _marks: dict[str, int] = field(default_factory=dict)  # index of the open scene's first row, per table

    def add(self, table: str, row: Row) -> str:
        self.rows[table].append(row)
        return row["token"]

    # ---- once per data set ----

    def add_fixed(self, cameras: Cameras, lidar: Lidar) -> None:
        for name in CATEGORIES:
            self.add("category", {"token": token("category", name), "name": name, "description": ""})
        for name in ATTRIBUTES:
            self.add("attribute", {"token": token("attribute", name), "name": name, "description": ""})
        for level_token, level in VISIBILITIES:
            self.add("visibility", {"token": level_token, "level": level, "description": ""})
        for index, name in enumerate(cameras.names):
            self._add_sensor(name, "camera", cameras.T_ego_cam[index].double().numpy(), {
                "camera_intrinsic": to_opencv(cameras.intrinsics[index].double().numpy()).tolist(),
                # Beyond the schema: nuScenes images are undistorted, other rigs need not be.
                "camera_model": cameras.model[index],
                "camera_distortion": list(cameras.distortion[index]),
            })  # fmt: skip
        self._add_sensor(lidar.name, "lidar", lidar.T_ego_lidar, {"camera_intrinsic": []})

    def _add_sensor(self, channel: str, modality: str, T_ego_sensor: Float[np.ndarray, "4 4"], extra: Row) -> None:
        self.add("sensor", {"token": token("sensor", channel), "channel": channel, "modality": modality})
        self.add("calibrated_sensor", {
            "token": self.calibration(channel), "sensor_token": token("sensor", channel),
            **_pose(T_ego_sensor), **extra,
        })  # fmt: skip

    def calibration(self, channel: str) -> str:
        return token(self.seed, "calibrated_sensor", channel)

    # ---- per scene ----

    def open_scene(self) -> None:
        self._marks = {name: len(rows) for name, rows in self.rows.items()}

    def add_sensor_data(
        self, scene: str, sample_token: str, channel: str, stamp: int, filename: str, key_frame: bool,
        T_world_ego: Float[np.ndarray, "4 4"], width: int = 0, height: int = 0,
    ) -> str:  # fmt: skip
        name = token(self.seed, scene, channel, stamp)
        self.add("ego_pose", {"token": name, "timestamp": stamp, **_pose(T_world_ego)})
        return self.add("sample_data", {
            "token": name, "sample_token": sample_token, "ego_pose_token": name,
            "calibrated_sensor_token": self.calibration(channel), "timestamp": stamp,
            "fileformat": "pcd" if filename.endswith(".bin") else "jpg", "is_key_frame": key_frame,
            "height": height, "width": width, "filename": filename, "prev": "", "next": "",
        })  # fmt: skip

    def add_annotation(self, scene: str, sample_token: str, box: Annotation, lidar_points: int) -> None:
        instance = token(self.seed, scene, "instance", box.identity)
        quat = matrix_to_quat(
            np.array([[np.cos(box.yaw), -np.sin(box.yaw), 0], [np.sin(box.yaw), np.cos(box.yaw), 0], [0, 0, 1]])
        )
        length, width, height = box.size
        self.add("sample_annotation", {
            "token": token(sample_token, instance), "sample_token": sample_token, "instance_token": instance,
            "visibility_token": "", "attribute_tokens": [token("attribute", box.attribute)] if box.attribute else [],
            "translation": _floats(box.centre), "size": _floats((width, length, height)), "rotation": _floats(quat),
            "prev": "", "next": "", "num_lidar_pts": lidar_points, "num_radar_pts": 0, "_category": box.category,
        })  # fmt: skip

    def close_scene(
        self, scene: str, description: str, samples: list[tuple[str, int]], date: str, location: str
    ) -> None:
        """Write log, scene and sample rows and link every chain of the open scene."""
        log = self.add("log", {
            "token": token(self.seed, scene, "log"), "logfile": scene, "vehicle": "synthetic", "date_captured": date,
            "location": location,
        })  # fmt: skip
        scene_token = self.add("scene", {
            "token": token(self.seed, scene), "log_token": log, "nbr_samples": len(samples), "name": scene,
            "first_sample_token": samples[0][0], "last_sample_token": samples[-1][0], "description": description,
        })  # fmt: skip
        for name, stamp in samples:
            self.add("sample", {"token": name, "timestamp": stamp, "prev": "", "next": "", "scene_token": scene_token})
        _link(self.rows["sample"][self._marks["sample"] :])
        for chain in _group(self.rows["sample_data"][self._marks["sample_data"] :], "calibrated_sensor_token").values():
            _link(sorted(chain, key=lambda row: row["timestamp"]))
        for instance, chain in _group(
            self.rows["sample_annotation"][self._marks["sample_annotation"] :], "instance_token"
        ).items():
            _link(chain)
            category = [row.pop("_category") for row in chain][-1]
            self.add("instance", {
                "token": instance, "category_token": token("category", category), "nbr_annotations": len(chain),
                "first_annotation_token": chain[0]["token"], "last_annotation_token": chain[-1]["token"],
            })  # fmt: skip

    def write(self, folder: Path, map_file: str) -> None:
        """One JSON per table; the map row covers every log."""
        self.rows["map"] = [{
            "token": token(self.seed, "map"), "log_tokens": [row["token"] for row in self.rows["log"]],
            "category": "semantic_prior", "filename": map_file,
        }]  # fmt: skip
        folder.mkdir(parents=True)
        for name, rows in self.rows.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))


def _floats(values) -> list[float]:
    return [float(value) for value in values]


def _pose(T: Float[np.ndarray, "4 4"]) -> Row:
    return {"translation": _floats(T[:3, 3]), "rotation": _floats(matrix_to_quat(T[:3, :3]))}


def _link(chain: list[Row]) -> None:
    for earlier, later in itertools.pairwise(chain):
        earlier["next"], later["prev"] = later["token"], earlier["token"]


def _group(rows: list[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups
