# SPDX-License-Identifier: Apache-2.0
"""Damaged messages of every type that the node and the bag readers take."""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.fuzzing import BYTE_CHANGES, ODD, change_bytes, fuzz, guarded
from support.robot_bags import STORE, camera_info, compressed, header, message, odometry, picture, raw, tf, transform

from gaussianocc_core.bags.indexing import _Builder
from gaussianocc_core.bags.messages import decode_camera_info, decode_cloud, decode_image, decode_transform
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.transform_tree import TransformTree
from gaussianocc_core.types import Cameras

IMAGE = picture(1, (32, 24))
PLACE = np.eye(4)


def cloud():
    fields = [
        message("sensor_msgs/msg/PointField", name=name, offset=4 * i, datatype=7, count=1)
        for i, name in enumerate(("x", "y", "z", "intensity"))
    ]
    return message(
        "sensor_msgs/msg/PointCloud2",
        header=header(1, "lidar"),
        height=1,
        width=8,
        fields=fields,
        is_bigendian=False,
        point_step=16,
        row_step=128,
        data=np.arange(128, dtype=np.uint8),
        is_dense=True,
    )


MESSAGES = {
    "jpeg": compressed(1, "front", IMAGE),
    "png": compressed(1, "front", IMAGE, ".png"),
    "raw rgb8": raw(1, "front", IMAGE, "rgb8"),
    "raw bgr8": raw(1, "front", IMAGE, "bgr8"),
    "camera_info": camera_info(1, "front", (32, 24), 20.0),
    "fisheye": camera_info(1, "front", (32, 24), 20.0, "equidistant", (0.1, 0.0, 0.0, 0.0)),
    "tf": tf(transform(1, "odom", "base_link", PLACE), transform(1, "base_link", "front", PLACE)),
    "odometry": odometry(1, PLACE),
    "cloud": cloud(),
}
TOPICS = {name: "/tf" if name == "tf" else f"/{name.replace(' ', '_')}" for name in MESSAGES}


def use(name, content):
    """As the node does with what rclpy hands it."""
    kind = content.__msgtype__
    if kind.endswith("Image"):
        pixels = decode_image(content, 1 << 20)
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size <= 3 << 20
    elif kind.endswith("CameraInfo"):
        import torch

        found = decode_camera_info(content, "front")
        K = torch.tensor(found.matrix, dtype=torch.float64).reshape(1, 3, 3)
        Cameras(
            ("front",),
            K,
            torch.eye(4, dtype=torch.float64)[None],
            (found.width,),
            (found.height,),
            (found.model,),
            (found.distortion,),
        )
    elif kind.endswith("TFMessage"):
        tree = TransformTree()
        for item in content.transforms:
            try:
                T = decode_transform(item.transform)
                tree.add(item.header.frame_id, item.child_frame_id, item.header.stamp.sec, T, False)
            except GaussianOccError:
                continue
            assert np.isfinite(T).all()
        tree.lookup("base_link", "front")
    elif kind.endswith("PointCloud2"):
        with suppress(KeyError, ValueError):  # what its callers catch
            decode_cloud(content)


def run(name, data):
    """The bag's index keeps what it can and names the rest; what can be parsed is used."""
    kind = MESSAGES[name].__msgtype__
    with guarded(f"message {name}", GaussianOccError):
        builder = _Builder(Path("bag"))
        builder.add(TOPICS[name], kind, 1, 0, data)
        index = builder.finish({}, 0, 1)
        assert all(len(problem) < 1000 for problem in index.problems)
        for topic in index.topics.values():
            assert (topic.stamps_ns >= np.iinfo(np.int64).min).all()
        try:
            content = STORE.deserialize_cdr(data, kind)
        except Exception:  # nobody gets such a message: rclpy and the index turn it away
            return
        use(name, content)


def add_tests(examples):
    @pytest.mark.parametrize("name", MESSAGES)
    @fuzz(examples, changes=BYTE_CHANGES)
    def test(name, changes):
        whole = bytes(STORE.serialize_cdr(MESSAGES[name], MESSAGES[name].__msgtype__))
        run(name, change_bytes(whole, changes))

    return test


test_damaged_messages_are_turned_away_or_used = add_tests(60)
test_ten_thousand_damaged_messages_of_each_type = pytest.mark.slow(add_tests(10_000))


@pytest.mark.parametrize("name", MESSAGES)
def test_whole_messages_are_used(name):
    use(name, MESSAGES[name])


@pytest.mark.parametrize(
    "field", ["width", "height", "step", "point_step", "row_step", "binning_x", "encoding", "d", "k"]
)
def test_every_field_takes_every_odd_value_of_its_type(field):
    def copy(value, **changes):
        names = [name for name in value.__dataclass_fields__ if not name.startswith("__")]
        return SimpleNamespace(**{name: getattr(value, name) for name in names} | changes)

    for name, content in MESSAGES.items():
        if not hasattr(content, field):
            continue
        before = getattr(content, field)
        values = [v for v in (*ODD, 2**32 - 1) if isinstance(v, str) == isinstance(before, str) and v is not None]
        if not isinstance(before, str):
            whole = isinstance(before, int)
            values = [v for v in values if isinstance(v, int if whole else float) and not isinstance(v, bool)]
            values = [v for v in values if not whole or 0 <= v < 2**32]
            values = values if whole else [np.full(len(before), v) for v in values]
        for value in values:
            changed = copy(content, **{field: value})
            changed.__msgtype__ = content.__msgtype__
            with guarded(f"field {name}.{field}", GaussianOccError):
                use(name, changed)
