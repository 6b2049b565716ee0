# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gaussianocc_core.bags.encoder import Encoder
from gaussianocc_core.bags.schema import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPE,
    POINTS_TYPE,
    RAW_IMAGE_TYPE,
    TF_TYPE,
    BagRig,
    ImageRecord,
    LabelRecord,
    LidarRecord,
    OccupancyRecord,
    PoseRecord,
)
from gaussianocc_core.bags.typestore import OCCUPANCY_DEFINITION, OCCUPANCY_TYPE, open_typestore
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.labels import CLASS_NAMES, FREE
from gaussianocc_core.types import Cameras

ROOT = Path(__file__).resolve().parents[3]
STORE = open_typestore()
T0 = 1_532_402_927_604_844_001


def jpeg(extension=".jpg"):
    return cv2.imencode(extension, np.zeros((9, 16, 3), np.uint8))[1].tobytes()


def make_encoder(*names, masks=None):
    count = len(names)
    intrinsics = torch.tensor([[50.0, 0, 8], [0, 51, 4], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1)
    cameras = Cameras(names, intrinsics, torch.eye(4).double().repeat(count, 1, 1), (16,) * count, (9,) * count)
    return Encoder(BagRig(cameras, {"LIDAR_TOP": np.eye(4)}, masks=masks or {}))


def only(messages):
    (message,) = messages
    return message


def make(msgtype, **fields):
    return STORE.types[msgtype](**fields)


def header(frame_id):
    stamp = make("builtin_interfaces/msg/Time", sec=T0 // 10**9, nanosec=T0 % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def serialize(message):
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


# ---- bytes put in place are those of a whole object ----------------------------------------------------------------


@pytest.mark.parametrize("camera", ["A", "AB", "ABC", "ABCD", "ABCDE"])  # strings end at every alignment
@pytest.mark.parametrize(("data", "kind"), [(jpeg(), "jpeg"), (jpeg() + b"\0", "jpeg"), (jpeg(".png"), "png")])
def test_an_image_is_serialised_as_its_object_would_be(camera, data, kind):
    _, image = make_encoder(camera).encode(ImageRecord(T0, camera, data, kind))
    whole = make(IMAGE_TYPE, header=header(camera), format=kind, data=np.frombuffer(data, np.uint8))
    assert image.data == serialize(whole)
    assert image.topic.name == f"/{camera}/image_raw/compressed"


def test_camera_info_differs_between_images_in_its_stamp_only():
    encoder = make_encoder("A")
    first, second = (next(iter(encoder.encode(ImageRecord(t, "A", jpeg())))) for t in (T0, T0 + 1))
    infos = [STORE.deserialize_cdr(each.data, CAMERA_INFO_TYPE) for each in (first, second)]
    assert [info.header.stamp.nanosec for info in infos] == [T0 % 10**9, T0 % 10**9 + 1]
    assert first.data[12:] == second.data[12:]
    assert (infos[0].header.frame_id, infos[0].width, infos[0].k[0]) == ("A", 16, 50.0)


@pytest.mark.parametrize("camera", ["A", "ABCD"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_labels_are_serialised_as_their_object_would_be(camera, contiguous):
    labels = np.arange(9 * 16, dtype=np.uint8).reshape(9, 16)
    labels = labels if contiguous else np.asfortranarray(labels)
    message = only(make_encoder(camera).encode(LabelRecord(T0, camera, labels)))
    whole = make(
        RAW_IMAGE_TYPE,
        header=header(camera),
        height=9,
        width=16,
        encoding="mono8",
        is_bigendian=0,
        step=16,
        data=np.ascontiguousarray(labels).ravel(),
    )
    assert message.data == serialize(whole)
    assert message.topic.name == f"/{camera}/semantic/image_raw"


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_points_are_serialised_as_their_object_would_be(columns, count):
    points = np.arange(count * columns, dtype=np.float32).reshape(count, columns)
    packed = points
    fields = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7)]
    if columns == 5:
        fields.append(("ring", 16, 4))
        layout = {"names": "xyzir", "formats": ["<f4"] * 4 + ["<u2"], "offsets": [0, 4, 8, 12, 16], "itemsize": 20}
        packed = np.zeros(count, np.dtype({**layout, "names": list("xyzir")}))
        for column, name in enumerate("xyzir"):
            packed[name] = points[:, column]
    whole = make(
        POINTS_TYPE,
        header=header("LIDAR_TOP"),
        height=1,
        width=count,
        is_bigendian=False,
        point_step=4 * columns,
        fields=[make("sensor_msgs/msg/PointField", name=n, offset=o, datatype=d, count=1) for n, o, d in fields],
        row_step=packed.nbytes,
        data=np.frombuffer(packed.tobytes(), np.uint8),
        is_dense=True,
    )
    message = only(make_encoder("A").encode(LidarRecord(T0, "LIDAR_TOP", points)))
    assert message.data == serialize(whole)


def test_points_of_the_source_stay_as_they_are():
    points = np.ones((3, 5), np.float32)
    only(make_encoder("A").encode(LidarRecord(T0, "LIDAR_TOP", points)))
    assert (points == 1).all()


def test_a_cloud_with_a_point_that_is_not_finite_says_so():
    points = np.ones((3, 4), np.float32)
    points[1, 2] = np.nan
    cloud = STORE.deserialize_cdr(
        only(make_encoder("A").encode(LidarRecord(T0, "LIDAR_TOP", points))).data, POINTS_TYPE
    )
    assert not cloud.is_dense


# ---- occupancy -----------------------------------------------------------------------------------------------------


def occupancy():
    labels = np.full((3, 4, 2), FREE, np.uint8)
    labels[1, 2, 0], labels[0, 0, 1] = 4, 255
    return OccupancyRecord(T0, labels, (-40.0, -40.0, -1.0), (0.4, 0.5, 0.6), CLASS_NAMES, FREE)


def test_true_occupancy_says_where_what_and_how_sure():
    message = only(make_encoder("A", "B").encode(occupancy()))
    assert message.topic.name == "/occupancy_gt"
    truth = STORE.deserialize_cdr(message.data, OCCUPANCY_TYPE)
    assert (truth.header.frame_id, truth.header.stamp.sec, truth.header.stamp.nanosec) == (
        "base_link",
        *divmod(T0, 10**9),
    )
    assert (truth.size_x, truth.size_y, truth.size_z) == (3, 4, 2)
    assert truth.labels[1 + 3 * (2 + 4 * 0)] == 4
    assert truth.labels[0 + 3 * (0 + 4 * 1)] == truth.UNOBSERVED == 255
    assert sorted(truth.labels.tolist()) == [4, *[FREE] * 22, 255]
    assert truth.confidence.tolist() == [0 if label == 255 else 255 for label in truth.labels]
    origin, size = truth.origin.position, truth.voxel_size
    assert (origin.x, origin.y, origin.z, size.x, size.y, size.z) == (-40, -40, -1, 0.4, 0.5, 0.6)
    assert truth.origin.orientation.w == 1
    assert (truth.class_names, truth.free_label) == (list(CLASS_NAMES), FREE)
    assert (truth.cameras, truth.model) == (["A", "B"], "ground truth")


def test_our_message_for_rosbags_is_the_one_that_ros_builds():
    text = (ROOT / "msg" / "SemanticOccupancy.msg").read_text()
    stripped = [re.sub(r"\s*#.*", "", line).strip() for line in text.splitlines()]
    assert OCCUPANCY_DEFINITION.splitlines() == [line for line in stripped if line]
    built = get_typestore(Stores.ROS2_HUMBLE)
    built.register(get_types_from_msg(text, OCCUPANCY_TYPE))
    assert STORE.hash_rihs01(OCCUPANCY_TYPE) == built.hash_rihs01(OCCUPANCY_TYPE)


@pytest.mark.ros
def test_ros_reads_true_occupancy():
    from rclpy.serialization import deserialize_message

    from gaussianocc_ros.msg import SemanticOccupancy

    truth = deserialize_message(only(make_encoder("A").encode(occupancy())).data, SemanticOccupancy)
    assert truth.labels[1 + 3 * 2] == 4
    assert truth.model == "ground truth"


# ---- masks, sizes --------------------------------------------------------------------------------------------------


def test_masks_come_once_latched_and_white_where_the_world_is_seen():
    mask = np.zeros((9, 16), bool)
    mask[:5] = True
    _, message = make_encoder("A", "B", masks={"B": mask}).encode_static(T0)
    assert (message.topic.name, message.topic.latched, message.topic.depth) == ("/B/mask", True, 1)
    image = STORE.deserialize_cdr(message.data, RAW_IMAGE_TYPE)
    assert (image.encoding, image.header.frame_id, image.header.stamp.nanosec) == ("mono8", "B", T0 % 10**9)
    np.testing.assert_array_equal(image.data.reshape(9, 16), np.where(mask, 255, 0))


def test_labels_of_another_size_than_the_image_are_refused():
    with pytest.raises(DatasetError, match="a_mask.bin: 8x9 pixels, the images of A have 16x9"):
        list(make_encoder("A").encode(LabelRecord(T0, "A", np.zeros((9, 8), np.uint8), "a_mask.bin")))


def test_a_pose_is_serialised_as_its_object_would_be():
    turn = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])  # about z: w = z = sqrt(1/2)
    message = only(make_encoder("A").encode(PoseRecord(T0, turn)))
    geometry = "geometry_msgs/msg/"
    half = float(message_quaternion(message)[3])
    transform = make(
        f"{geometry}Transform",
        translation=make(f"{geometry}Vector3", x=1.0, y=2.0, z=3.0),
        rotation=make(f"{geometry}Quaternion", x=0.0, y=0.0, z=half, w=half),
    )
    stamped = make(
        f"{geometry}TransformStamped", header=header("odom"), child_frame_id="base_link", transform=transform
    )
    assert half == pytest.approx(0.5**0.5)
    assert message.data == serialize(make(TF_TYPE, transforms=[stamped]))


def message_quaternion(message):
    (transform,) = STORE.deserialize_cdr(message.data, TF_TYPE).transforms
    q = transform.transform.rotation
    return q.x, q.y, q.z, q.w
