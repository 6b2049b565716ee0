# SPDX-License-Identifier: Apache-2.0
"""The index of a rosbag2 as a file beside it, as long as the bag has not changed."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gaussianocc_core.arrays import check_npz
from gaussianocc_core.bags.index import BagIndex, PoseSeries, TopicIndex
from gaussianocc_core.bags.messages import Intrinsics
from gaussianocc_core.bags.opened import (
    bag_files,
)
from gaussianocc_core.bags.video import VIDEO_TYPES
from gaussianocc_core.files import complete_file
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.names import check_topic

_VERSION = 5  # of the cache file
_LEAST_CACHE = 1 << 26  # bytes that the arrays of a cache may have, beside four times its bag's: it says less than that

_FARTHEST = 1e8  # m, as in geometry.calibration
_RIGID = 1e-6  # by which R R^T may differ from the identity

_log = logging.getLogger(__name__)


def cache_path(path: Path) -> Path:
    """Where the index of a bag is kept."""
    if path.is_file():
        return path.parent / f".{path.name}.gaussianocc_index.npz"
    return path / ".gaussianocc_index.npz"


def fingerprint(path: Path) -> list[list[Any]]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in bag_files(path)]


def write_cache(index: BagIndex, files: list[list[Any]]) -> None:
    arrays: dict[str, Any] = {}
    for i, topic in enumerate(index.topics.values()):
        rows = [topic.stamps_ns, topic.logs_ns, topic.places, *([] if topic.keys is None else topic.keys)]
        arrays[f"topic{i}"] = np.stack(rows)
    for i, series in enumerate(index.poses):
        arrays[f"times{i}"] = np.stack([series.stamps_ns, series.logs_ns, series.orders])
        arrays[f"poses{i}"] = series.T_parent_child
    meta = {
        "version": _VERSION,
        "files": files,
        "topics": [[t.topic, t.msgtype, t.frame_id, t.size, t.encoding] for t in index.topics.values()],
        "poses": [[s.parent, s.child, s.topic] for s in index.poses],
        "intrinsics": {k: [[log_ns, asdict(v)] for log_ns, v in values] for k, values in index.intrinsics.items()},
        "unsupported": index.unsupported,
        "problems": index.problems,
        "refused": index.refused,
        "span": [index.start_ns, index.end_ns],
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    target = cache_path(index.path)
    try:
        with complete_file(target) as unfinished, unfinished.open("wb") as stream:
            np.savez(stream, **arrays)
    except OSError as error:  # read-only media: indexing again is all that is lost
        _log.info("the index of %s is not kept: %s", index.path, error.strerror)


def read_cache(path: Path) -> BagIndex | None:
    target = cache_path(path)
    if not target.is_file():
        return None
    try:
        check_npz(target, _LEAST_CACHE + 4 * sum(size for _, size, _ in fingerprint(path)))
        with np.load(target, allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes())
            if meta["version"] != _VERSION or meta["files"] != fingerprint(path):
                return None
            topics = {
                name: _topic(name, msgtype, frame, (size[0], size[1]), encoding, file[f"topic{i}"])
                for i, (name, msgtype, frame, size, encoding) in enumerate(meta["topics"])
            }
            poses = tuple(
                _series(parent, child, topic, file[f"times{i}"], file[f"poses{i}"])
                for i, (parent, child, topic) in enumerate(meta["poses"])
            )
        intrinsics = {k: tuple((s, _as_intrinsics(v)) for s, v in values) for k, values in meta["intrinsics"].items()}
        return BagIndex(
            path,
            topics,
            intrinsics,
            poses,
            {_plain(name): _plain(msgtype) for name, msgtype in meta["unsupported"].items()},
            tuple(map(one_line, meta["problems"])),
            {str(name): one_line(why) for name, why in meta["refused"].items()},
            *map(int, meta["span"]),
        )
    except Exception as error:  # numpy, zipfile and json raise half a dozen kinds; the bag itself is what counts
        _log.info("the index %s is not used: %s", target, error)
        return None


def _plain(name: object) -> str:
    return check_topic(name, "name", ValueError)


def _topic(name: str, msgtype: str, frame: str, size: tuple[int, int], encoding: str, rows: np.ndarray) -> TopicIndex:
    _plain(name), _plain(msgtype)
    keys = rows[3:5] if len(rows) == 5 else None
    if (keys is not None) != (msgtype in VIDEO_TYPES):
        raise ValueError(f"{name}: {len(rows)} rows for {msgtype}")
    if keys is not None and ((keys[0] > rows[1]) | ((keys[0] == rows[1]) & (keys[1] > rows[2]))).any():
        raise ValueError(f"{name}: pictures that come before their keyframes")
    return TopicIndex(name, msgtype, frame, size, encoding, rows[0], rows[1], rows[2], keys)


def _series(parent: str, child: str, topic: str, times: np.ndarray, poses: np.ndarray) -> PoseSeries:
    """Checked as the messages are: the file lies beside the bag and came with it."""
    for name in (parent, child, topic):
        _plain(name)
    stamps, logs, orders = times
    R, edge = poses[:, :3, :3], poses[:, 3]
    if not (np.abs(poses) < _FARTHEST).all() or (edge != (0, 0, 0, 1)).any():
        raise ValueError(f"poses of {child} in {parent} are no rigid transforms")
    if np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(initial=0.0) > _RIGID:
        raise ValueError(f"poses of {child} in {parent} are no rigid transforms")
    return PoseSeries(parent, child, topic, stamps, poses, logs, orders)


def _as_intrinsics(values: dict[str, Any]) -> Intrinsics:
    plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    found = Intrinsics(**plain)
    for K in (found.matrix, found.rectified):
        fault = K and find_fault(
            width=found.width,
            height=found.height,
            intrinsics=np.reshape(K, (3, 3)),
            model=found.model,
            distortion=found.distortion,
            translation=(found.baseline, 0.0, 0.0),
        )
        if fault:
            raise ValueError(f"a calibration of it has an impossible {fault.field}")
    R = np.reshape(found.rotation or np.eye(3), (3, 3))
    if not (np.abs(R @ R.T - np.eye(3)) < 1e-3).all():
        raise ValueError("a rectification of it is no rotation")
    return found
