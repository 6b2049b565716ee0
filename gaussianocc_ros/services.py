# SPDX-License-Identifier: Apache-2.0
"""Results for those who ask: ~/get_occupancy for planners that poll, ~/save_map for what was seen so far as files.

Whoever reaches the DDS domain may call them, so that a caller names no file: maps go to the folder that the operator's
parameter map_dir names, under the time of their newest image.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import serialize_message
from std_srvs.srv import Trigger

from gaussianocc_core.bags.typestore import OCCUPANCY_TYPE, import_rosbags, open_typestore
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.files import make_hidden_folder, replace_folder
from gaussianocc_core.mistakes import one_line, reason_of
from gaussianocc_core.navigation.map_file import has_octomap, write_octomap, write_ply
from gaussianocc_core.types import OccupancyPrediction
from gaussianocc_ros import conversions
from gaussianocc_ros.inference import Inference
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.srv import GetOccupancy

_SPARE = 512 << 20  # bytes that stay free: who reaches the graph may call as often as he likes
_PERIOD = 5.0  # s between maps, also where one could not be written: the node makes no results while it tries
_TOPIC = "/occupancy_map"  # in the saved bag


class Services:
    """Of a configured node."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters, inference: Inference) -> None:
        self._node, self._parameters, self._inference = node, parameters, inference
        self._written = -_PERIOD  # when the last map was, or failed; by the clock that nobody sets
        self._services = [node.create_service(GetOccupancy, "~/get_occupancy", self._get)]
        if parameters.map_dir:
            self._services.append(node.create_service(Trigger, "~/save_map", self._save))

    def close(self) -> None:
        while self._services:
            self._node.destroy_service(self._services.pop())

    def _get(self, request: GetOccupancy.Request, response: GetOccupancy.Response) -> GetOccupancy.Response:
        newest = self._inference.newest
        if newest is None:
            response.message = "there is no result yet: is the node active, and do images come?"
            return response
        low, high = (np.array([point.x, point.y, point.z]) for point in (request.low, request.high))
        try:
            prediction = newest.prediction if (high <= low).any() else crop(newest.prediction, low, high)
        except ValueError as error:
            response.message = str(error)
            return response
        response.success = True
        response.occupancy = conversions.encode_occupancy(prediction, newest.stamp_ns, self._parameters.ego_frame)
        return response

    def _save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            wait = self._written + _PERIOD - time.monotonic()
            if wait > 0:
                raise GaussianOccError(f"a map was written a moment ago; ask again in {math.ceil(wait)} s")
            response.message, response.success = self._write(), True
        except (GaussianOccError, OSError) as error:
            response.message = one_line(error if isinstance(error, GaussianOccError) else reason_of(error))
        if response.success:  # rclpy has one severity per line of the source
            self._node.get_logger().info(f"~/save_map: {response.message}")
        else:
            self._node.get_logger().warning(f"~/save_map: {response.message}")
        return response

    def _write(self) -> str:
        known = self._inference.known()
        if known is None:
            raise GaussianOccError("there is no result yet: is the node active, and do images come?")
        frame = self._parameters.fixed_frame if known.fused else self._parameters.ego_frame
        prediction, stamp_ns = known.prediction, known.stamp_ns
        folder = Path(self._parameters.map_dir)
        if folder.is_dir() and (free := shutil.disk_usage(folder).free) < _SPARE:
            raise GaussianOccError(f"{folder}: only {free >> 20} MiB are free, a map is not saved below {_SPARE >> 20}")
        path = folder / f"map_{stamp_ns}"
        ply, tree = path.with_suffix(".ply"), path.with_suffix(".bt")
        labels, grid, names = prediction.labels, prediction.grid, prediction.class_names
        files = [str(ply)]
        try:
            count = write_ply(ply, labels, prediction.confidence, grid, names, frame)
            if has_octomap():
                write_octomap(tree, labels, grid, names)
                files.append(str(tree))
            _write_bag(path, stamp_ns, serialize_message(conversions.encode_occupancy(prediction, stamp_ns, frame)))
        finally:
            self._written = time.monotonic()
        what = "all that was seen so far" if known.fused else "the newest result (without the parameter fusion)"
        return f"{what}, {count} occupied voxels in {frame}: {', '.join(files)} and the bag {path}"


def crop(prediction: OccupancyPrediction, low: np.ndarray, high: np.ndarray) -> OccupancyPrediction:
    """The voxels that a box touches; low, high: its corners in the prediction's frame, m. ValueError if there are
    none."""
    grid = prediction.grid
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("the box: expected finite metres")
    origin, size, shape = np.array(grid.origin), grid.voxel_size, np.array(grid.shape)
    first = np.clip(np.floor((low - origin) / size), 0, shape).astype(int)
    end = np.clip(np.ceil((high - origin) / size), 0, shape).astype(int)
    if not (end > first).all():
        raise ValueError(f"the box lies outside of the grid, which goes from {grid.origin} to {grid.upper} m")
    part = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
    x, y, z = (float(value) for value in origin + first * size)
    return prediction.over(
        replace(grid, origin=(x, y, z), shape=tuple(int(n) for n in end - first)),
        np.ascontiguousarray(prediction.labels[part]),
        np.ascontiguousarray(prediction.confidence[part]),
        np.ascontiguousarray(prediction.observed[part]),
    )


def _write_bag(path: Path, stamp_ns: int, data: bytes) -> None:
    rosbags: Any = import_rosbags()
    from gaussianocc_core.bags.storage import BagWriter

    hidden = make_hidden_folder(path)
    try:
        with BagWriter(hidden / path.name, rosbags.rosbag2.StoragePlugin.MCAP) as writer:
            connection = writer.add_connection(_TOPIC, OCCUPANCY_TYPE, typestore=open_typestore())
            writer.write(connection, stamp_ns, data)
        replace_folder(path, hidden / path.name, hidden / "replaced")
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
