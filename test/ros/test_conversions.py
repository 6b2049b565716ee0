# SPDX-License-Identifier: Apache-2.0
"""Messages <-> numpy: values worked out by hand, each encoding, each complaint."""

from array import array
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from geometry_msgs.msg import Quaternion, Transform, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.bags.messages import (
    ImageError,
    decode_camera_info,
    decode_cloud,
    decode_transform,
    raw_image_to_rgb,
)
from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry.voxels import centers, unflatten
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, OCCLUDED, ONE_CLASS, PALETTE
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_ros import conversions, ros_compat, stamps
from gaussianocc_ros.ros_compat import decode_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = RGB[..., 0]
RGBA = np.dstack([RGB, GRAY])


def image(encoding, pixels, padding=0, big=False):
    height, width = pixels.shape[:2]
    row = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    padded = np.hstack([row, np.full((height, padding), 77, np.uint8)])
    message = Image(height=height, width=width, encoding=encoding, step=padded.shape[1], is_bigendian=int(big))
    message.data = array("B", padded.tobytes())
    return message


PIXELS = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "rgba8": RGBA,
    "bgra8": RGBA[..., [2, 1, 0, 3]],
    "mono8": GRAY,
    "rgb16": RGB.astype("<u2") << 8,
    "bgr16": RGB[..., ::-1].astype("<u2") << 8,
    "mono16": GRAY.astype("<u2") << 8,
}


def decode_rgb(message):
    return decode_image(message)[0]


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", PIXELS)
def test_image_of_each_encoding_decodes_to_the_same_rgb(encoding, padding):
    expected = np.dstack([GRAY] * 3) if "mono" in encoding else RGB
    np.testing.assert_array_equal(decode_rgb(image(encoding, PIXELS[encoding], padding)), expected)


@pytest.mark.parametrize("encoding", ["mono16", "rgb16"])
def test_big_endian_16_bit_image_keeps_the_upper_byte(encoding):
    expected = np.dstack([GRAY] * 3) if "mono" in encoding else RGB
    pixels = (PIXELS[encoding] | 3).astype(">u2")
    np.testing.assert_array_equal(decode_rgb(image(encoding, pixels, big=True)), expected)


@pytest.mark.parametrize("encoding, corner", [("rggb", "R"), ("bggr", "B"), ("gbrg", "G"), ("grbg", "G")])
def test_bayer_image_of_a_red_scene_decodes_to_red(encoding, corner):
    """Only the photosites under a red filter see anything."""
    tile = np.array([255 if letter == "r" else 0 for letter in encoding], np.uint8).reshape(2, 2)
    decoded = decode_rgb(image(f"bayer_{encoding}8", np.tile(tile, (4, 4))))[2:-2, 2:-2]
    assert decoded[..., 0].mean() > 200
    assert decoded[..., 1:].max() == 0


@pytest.mark.parametrize("encoding, order", [("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv_image_without_color_difference_decodes_to_gray(encoding, order):
    luma = np.array([180 if letter == "y" else 128 for letter in order], np.uint8)
    decoded = decode_rgb(image(encoding, np.tile(luma.reshape(1, 2, 2), (4, 3, 1))))
    assert decoded.shape == (4, 6, 3)
    assert np.ptp(decoded) == 0
    assert decoded[0, 0, 0] == pytest.approx(1.164 * (180 - 16), abs=2)  # BT.601, limited range


def compressed(data, stated="jpeg"):
    message = CompressedImage(format=stated)
    message.data = array("B", data)
    return message


def test_png_image_decodes_without_loss():
    data = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_rgb(compressed(data, "png")), RGB)


def test_a_jpeg_is_decoded_as_small_as_asked_and_a_png_as_it_is():
    picture = np.kron(np.arange(0, 240, 10, np.uint8).reshape(4, 6), np.ones((8, 8), np.uint8))
    for ending, reduced in ((".jpg", 4), (".png", 1)):
        data = cv2.imencode(ending, picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        pixels, reduce = decode_image(compressed(data), reduce=4)
        assert reduce == reduced and pixels.shape == (32 // reduced, 48 // reduced, 3)
        expected = picture.reshape(32 // reduced, reduced, 48 // reduced, reduced).mean(axis=(1, 3))
        assert np.abs(pixels[..., 0] - expected).max() <= 2


def test_jpeg_image_decodes_to_rgb_and_not_bgr():
    data = cv2.imencode(".jpg", np.full((16, 16, 3), (0, 0, 200), np.uint8))[1].tobytes()  # OpenCV writes BGR
    np.testing.assert_allclose(decode_rgb(compressed(data)).mean(axis=(0, 1)), (200, 0, 0), atol=3)


def test_messages_of_rosbags_decode_like_those_of_rclpy():
    store = get_typestore(Stores.ROS2_HUMBLE)
    message = image("bgr8", PIXELS["bgr8"], padding=3)
    other = store.deserialize_cdr(serialize_message(message), "sensor_msgs/msg/Image")
    np.testing.assert_array_equal(decode_rgb(other), RGB)
    info = CameraInfo(width=8, height=6, k=[5.0, 0.0, 4.0, 0.0, 5.0, 3.0, 0.0, 0.0, 1.0], d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.distortion_model = "plumb_bob"
    other = store.deserialize_cdr(serialize_message(info), "sensor_msgs/msg/CameraInfo")
    assert decode_camera_info(other, "front") == decode_camera_info(info, "front")


@pytest.mark.skipif(ros_compat.CvBridge is None, reason="no usable cv_bridge in this environment")
@pytest.mark.parametrize("encoding", PIXELS)
def test_cv_bridge_and_its_stand_in_agree(encoding):
    message = image(encoding, PIXELS[encoding], padding=4)
    difference = ros_compat._decode_with_cv_bridge(message, RGB.size).astype(int) - raw_image_to_rgb(message)
    assert np.abs(difference).max() <= 1  # 16 bits: cv_bridge rounds, we cut


JPEG = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    "message, complaint",
    [
        (image("16UC7", np.zeros((2, 2, 7), np.uint16)), "encoding '16UC7'"),
        (replace_step := image("rgb8", RGB), "step"),
        (compressed(b""), "it is empty"),
        (compressed(b"no image at all"), "neither a JPEG nor a PNG"),
        (compressed(JPEG[: len(JPEG) // 2]), "the JPEG is truncated"),
        (compressed(b"\xff\xd8\xff\xd9"), "no frame header"),
    ],
)
def test_undecodable_image_says_why(message, complaint):
    if message is replace_step:
        message.step = 3
    with pytest.raises(ImageError, match=complaint):
        decode_rgb(message)


def test_image_that_claims_a_huge_size_is_refused_before_memory_is_taken():
    with pytest.raises(ImageError, match="60000x60000"):
        decode_rgb(Image(width=60000, height=60000, encoding="rgb8", step=180000))
    huge = bytearray(JPEG)
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match="65535x65535"):
        decode_rgb(compressed(bytes(huge)))


# ---- calibration and time ------------------------------------------------------------------------------------------


def info(**changes):
    message = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
    message.header.frame_id = "front_optical"
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "model, d, expected",
    [
        ("plumb_bob", [0.0] * 5, ("pinhole", ())),
        ("plumb_bob", [-0.3, 0.1, 0.0, 0.0, 0.01], ("pinhole", (-0.3, 0.1, 0.0, 0.0, 0.01))),
        ("rational_polynomial", [0.1] * 8, ("pinhole", (0.1,) * 8)),
        ("equidistant", [0.0] * 4, ("equidistant", (0.0,) * 4)),
    ],
)
def test_camera_info_gives_lens_model_and_distortion(model, d, expected):
    decoded = decode_camera_info(info(distortion_model=model, d=d), "front")
    assert (decoded.model, decoded.distortion) == expected
    assert decoded.matrix == (500, 0, 320.5, 0, 510, 240.5, 0, 0, 1)  # pixel centres at +0.5
    assert (decoded.width, decoded.height, decoded.frame_id) == (640, 480, "front_optical")


def test_binning_and_region_of_interest_move_the_intrinsics():
    message = info(binning_x=2, binning_y=2)
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 40, 400, 200
    decoded = decode_camera_info(message, "front")
    assert decoded.matrix == (250, 0, 110.25, 0, 255, 100.25, 0, 0, 1)
    assert (decoded.width, decoded.height) == (200, 100)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"k": [0.0] * 9}, "camera front: CameraInfo has no usable K .*calibrate"),
        ({"k": [float("nan"), 0.0, 1.0, 0.0, 5.0, 1.0, 0.0, 0.0, 1.0]}, "camera front: .*not finite"),
        ({"d": [float("inf")] * 5}, "camera front: .*not finite"),
        ({"distortion_model": "omnidirectional"}, "camera front: distortion model 'omnidirectional'"),
        ({"d": [0.1, 0.2]}, "camera front: .*takes 0 or 4 or 5 or 8 or 12 or 14 coefficients, CameraInfo has 2"),
        ({"width": 0}, "camera front: CameraInfo says 0x480"),
    ],
)
def test_unusable_camera_info_names_the_camera(changes, complaint):
    with pytest.raises(CalibrationError, match=complaint):
        decode_camera_info(info(**changes), "front")


def test_quaternion_of_a_quarter_turn_left_maps_forward_to_left():
    half = np.sqrt(0.5)
    turn = Transform(translation=Vector3(x=1.0, y=2.0, z=3.0), rotation=Quaternion(x=0.0, y=0.0, z=half, w=half))
    T_parent_child = decode_transform(turn)
    np.testing.assert_allclose(T_parent_child @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
    assert conversions.encode_transform(T_parent_child).rotation.z == pytest.approx(half)
    assert conversions.encode_transform(T_parent_child).rotation.w == pytest.approx(half)


@pytest.mark.parametrize("w", [0.0, float("nan")])
def test_transform_without_a_rotation_is_refused(w):
    with pytest.raises(CalibrationError, match="not a rigid transform"):
        decode_transform(Transform(rotation=Quaternion(w=w)))


def test_stamp_is_read_from_serialised_bytes_to_the_nanosecond():
    message = CompressedImage()
    message.header.stamp = stamps.time_message(1_532_402_927_612_460_001)
    assert stamps.stamp_ns(message.header) == 1_532_402_927_612_460_001
    assert stamps.cdr_stamp_ns(serialize_message(message)) == 1_532_402_927_612_460_001


# ---- occupancy -----------------------------------------------------------------------------------------------------

GRID = VoxelGrid(origin=(-4.0, -2.0, -1.0), voxel_size=0.5, shape=(12, 10, 6))


def prediction(labels):
    return OccupancyPrediction(
        labels=labels,
        confidence=np.full(labels.shape, 0.8, np.float32),
        observed=labels != 255,
        grid=GRID,
        class_names=CLASS_NAMES,
        trained=False,
        cameras=("front", "left"),
        model="untrained",
    )


@pytest.fixture
def one_voxel():
    """A car in voxel (7, 3, 2), the rest free, and one unobserved voxel."""
    labels = np.full(GRID.shape, CLASS_ID["free"], np.uint8)
    labels[7, 3, 2] = CLASS_ID["car"]
    labels[0, 0, 0] = 255
    return prediction(labels)


CENTER = (-0.25, -0.25, 0.25)  # origin + (index + 0.5) * 0.5


def test_known_voxel_ends_up_at_its_metric_place_in_all_three_outputs(one_voxel):
    dense = conversions.encode_occupancy(one_voxel, 5_000_000_007, "base_link")
    flat = np.array(dense.labels)
    (place,) = np.nonzero(flat == CLASS_ID["car"])[0]
    assert place == 7 + dense.size_x * (3 + dense.size_y * 2)
    x, y, z = place % dense.size_x, place // dense.size_x % dense.size_y, place // (dense.size_x * dense.size_y)
    low, size = dense.origin.position, dense.voxel_size
    assert (low.x + (x + 0.5) * size.x, low.y + (y + 0.5) * size.y, low.z + (z + 0.5) * size.z) == CENTER

    (point,) = decode_cloud(conversions.encode_points(one_voxel, 5_000_000_007, "base_link"))
    assert (point["x"], point["y"], point["z"]) == CENTER
    assert point["label"] == CLASS_ID["car"]
    assert point["confidence"] == pytest.approx(0.8)
    red, green, blue = PALETTE[CLASS_ID["car"]].tolist()
    assert point["rgb"].view(np.uint32) == (red << 16 | green << 8 | blue)

    (marker,) = conversions.encode_markers(one_voxel, 5_000_000_007, "base_link").markers
    assert [(p.x, p.y, p.z) for p in marker.points] == [CENTER]
    assert (marker.scale.x, marker.scale.y, marker.scale.z) == (0.5, 0.5, 0.5)
    assert marker.type == marker.CUBE_LIST
    assert marker.colors[0].r == pytest.approx(red / 255)
    for message in (dense, conversions.encode_points(one_voxel, 5_000_000_007, "base_link"), marker):
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (5, 7)
        assert message.header.frame_id == "base_link"


def test_a_model_with_one_class_is_coloured_by_height(one_voxel):
    labels = np.full(GRID.shape, 1, np.uint8)
    labels[7, 3, 0] = labels[2, 2, 5] = 0
    shown = replace(one_voxel, labels=labels, class_names=ONE_CLASS)
    low, high = sorted(decode_cloud(conversions.encode_points(shown, 0, "base_link")), key=lambda each: each["z"])
    assert {int(each["label"]) for each in (low, high)} == {0}
    blue, red = (int(each["rgb"].view(np.uint32)) for each in (low, high))
    assert blue & 0xFF > blue >> 16 and red >> 16 > red & 0xFF
    (marker,) = conversions.encode_markers(shown, 0, "base_link").markers
    by_height = sorted(zip((p.z for p in marker.points), marker.colors, strict=True), key=lambda each: each[0])
    assert round(255 * by_height[0][1].b) == blue & 0xFF and round(255 * by_height[1][1].r) == red >> 16


def test_dense_message_says_everything_about_its_arrays(one_voxel):
    labels = np.random.default_rng(1).integers(0, 18, GRID.shape, dtype=np.uint8)
    message = conversions.encode_occupancy(prediction(labels), 0, "base_link")
    message = deserialize_message(serialize_message(message), type(message))
    assert (message.size_x, message.size_y, message.size_z) == GRID.shape
    np.testing.assert_array_equal(unflatten(message.labels, GRID.shape), labels)
    assert set(message.confidence) == {204}  # 0.8 of 255
    assert message.class_names[message.free_label] == "free"
    assert list(message.cameras) == ["front", "left"]
    assert message.model == "untrained"


def test_cloud_holds_every_observed_voxel_that_is_not_free():
    labels = np.random.default_rng(2).choice(np.array([3, 17, 255], np.uint8), GRID.shape)
    cloud = conversions.encode_points(prediction(labels), 0, "base_link")
    assert cloud.width == np.count_nonzero(labels == 3)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "label", "confidence"]
    assert len(cloud.data) == cloud.row_step == cloud.width * cloud.point_step


def test_exposed_voxels_are_those_that_some_neighbour_does_not_cover():
    labels = np.full(GRID.shape, CLASS_ID["free"], np.uint8)
    labels[3:8, 2:7, :] = CLASS_ID["manmade"]  # 5 x 5 x 6, from the floor of the grid to its top
    labels[5, 4, 3] = 255  # a hole in it
    exposed = conversions.exposed(labels == CLASS_ID["manmade"])
    expected = np.zeros(GRID.shape, bool)
    for x, y, z in np.ndindex(GRID.shape):
        steps = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
        around = [(x + a, y + b, z + c) for a, b, c in steps]
        inside = [place for place in around if all(0 <= i < n for i, n in zip(place, GRID.shape, strict=True))]
        solid = [labels[place] == CLASS_ID["manmade"] for place in inside]
        expected[x, y, z] = labels[x, y, z] == CLASS_ID["manmade"] and sum(solid) < 6
    np.testing.assert_array_equal(exposed, expected)
    np.testing.assert_array_equal(conversions.exposed(np.asfortranarray(labels == CLASS_ID["manmade"])), expected)
    assert 0 < np.count_nonzero(exposed) < 149


def test_markers_may_hold_exposed_voxels_only_and_points_hold_all():
    labels = np.full(GRID.shape, CLASS_ID["manmade"], np.uint8)
    solid = prediction(labels)
    all_markers = conversions.encode_markers(solid, 0, "base_link").markers[0]
    exposed = conversions.encode_markers(solid, 0, "base_link", exposed_only=True).markers[0]
    assert len(all_markers.points) == conversions.encode_points(solid, 0, "base_link").width == 12 * 10 * 6
    assert len(exposed.points) == len(exposed.colors) == 12 * 10 * 6 - 10 * 8 * 4


@pytest.mark.parametrize("exposed_only", [False, True])
@pytest.mark.parametrize("frame", ["a", "base_link", "base_link1", "base_link12", "base_link123"])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_markers_written_by_numpy_equal_serialised_objects(frame, share, exposed_only):
    """Frame names of all lengths modulo the alignment; an empty list is not padded."""
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(GRID.shape) < share, rng.integers(0, 17, GRID.shape), 17).astype(np.uint8)
    fast = conversions.serialize_markers(prediction(labels), 7, frame, exposed_only)
    slow = serialize_message(conversions.encode_markers(prediction(labels), 7, frame, exposed_only))
    assert len(fast) == len(slow)
    # Bytes cannot be compared: rclpy leaves the padding as it finds it.
    assert deserialize_message(fast, MarkerArray) == deserialize_message(slow, MarkerArray)


@pytest.mark.parametrize("most", [10, 100, 400, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_markers_hold_at_most_so_many_cubes_and_nothing_is_left_out(most, share):
    rng = np.random.default_rng(4)
    labels = np.where(rng.random(GRID.shape) < share, rng.integers(0, 17, GRID.shape), 17).astype(np.uint8)
    full = conversions.encode_markers(prediction(labels), 7, "base_link").markers[0]
    slow = conversions.encode_markers(prediction(labels), 7, "base_link", most=most)
    fast = conversions.serialize_markers(prediction(labels), 7, "base_link", most=most)
    assert deserialize_message(fast, MarkerArray) == deserialize_message(serialize_message(slow), MarkerArray)
    near, far = slow.markers
    assert (near.ns, far.ns) == ("occupancy", "occupancy_far")
    assert len(near.points) + len(far.points) <= most
    if len(full.points) <= most:
        assert near.points == full.points and far.action == far.DELETE  # of the message before
        return
    assert far.action == far.ADD and far.scale.x >= 2 * near.scale.x
    small = {(p.x, p.y, p.z) for p in near.points}
    centers = np.array([(p.x, p.y, p.z) for p in far.points])
    for p in full.points:  # each is there, or within a larger cube
        within = (np.abs(centers - (p.x, p.y, p.z)) <= far.scale.x / 2 + 1e-6).all(axis=1).any()
        assert within or (p.x, p.y, p.z) in small or most == 10


def test_cubes_near_the_robot_keep_their_size():
    grid = VoxelGrid()
    labels = np.full(grid.shape, CLASS_ID["free"], np.uint8)
    labels[:, :, 2] = CLASS_ID["driveable_surface"]
    observed, confidence = np.ones(grid.shape, bool), np.ones(grid.shape, np.float32)
    road = OccupancyPrediction(labels, confidence, observed, grid, CLASS_NAMES, False, ("front",), "untrained")
    near, far = conversions.encode_markers(road, 0, "base_link", most=20_000).markers
    assert 15_000 < len(near.points) + len(far.points) <= 20_000
    away = [np.hypot(p.x, p.y) for p in near.points]
    assert max(away) >= 24.9 and min(np.hypot(p.x, p.y) for p in far.points) > 24.0


def test_hidden_voxels_are_shown_near_the_robot_only():
    labels = np.full(GRID.shape, CLASS_ID["free"], np.uint8)
    labels[5, 5, 2] = labels[11, 9, 2] = OCCLUDED
    place = centers(GRID)[5, 5, 2].numpy()
    (point,) = decode_cloud(
        conversions.encode_hidden(prediction(labels), 0, "base_link", float(np.hypot(*place[:2])) + 0.01)
    )
    assert [point[axis] for axis in "xyz"] == pytest.approx(place.tolist()) and point["label"] == OCCLUDED


def test_cloud_built_by_sensor_msgs_py_is_the_same(one_voxel):
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="no sensor_msgs_py in this environment")
    points = conversions.occupied_points(replace(one_voxel, labels=np.full(GRID.shape, 4, np.uint8)))
    ours = ros_compat.create_cloud(conversions.Header(frame_id="base_link"), points)
    ours.data = ros_compat._cloud_with_numpy(ours.header, ours.fields, points).data
    theirs = point_cloud2.create_cloud(ours.header, ours.fields, points)
    theirs.is_dense = True
    assert ours == theirs
    for name in points.dtype.names:
        np.testing.assert_array_equal(point_cloud2.read_points(ours)[name], decode_cloud(ours)[name])
