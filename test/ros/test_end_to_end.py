# SPDX-License-Identifier: Apache-2.0
"""Database -> converter -> bag -> player -> DDS -> node -> DDS -> messages; player and node are processes."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rosbags.rosbag2 import Reader
from sensor_msgs.msg import PointCloud2
from support.nuscenes_fixtures import MadeUpDatabase, join_real_full_size_keyframe, read_table, real_keyframes
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.bags.messages import decode_cloud, decode_transform
from gaussianocc_core.bags.typestore import open_typestore
from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.geometry.voxels import unflatten
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_ros import ros_compat
from gaussianocc_ros.camera_rig import CameraRig
from gaussianocc_ros.conversions import exposed
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import stamp_ns

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
PARAMETERS = "config/ros/occupancy_node.yaml"


def made_up(folder, request):
    return MadeUpDatabase().write(folder / "made-up"), "scene-0001", 6  # 2 keyframes and 4 sweeps between them


def real_small(folder, request):
    return real_keyframes(request.getfixturevalue("shared_data")), "scene-0061", 7


def real_full_size(folder, request):
    root = folder / "real"
    root.mkdir()
    return join_real_full_size_keyframe(request.getfixturevalue("shared_data"), root), "scene-0061", 1


@pytest.mark.medium
@pytest.mark.parametrize("database", [made_up, real_small, real_full_size])
def test_database_becomes_one_output_per_set(database, request, graph, spawn, checkpoint, tmp_path):
    root, scene, expected_sets = database(tmp_path, request)
    node = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "--params-file",
        PARAMETERS,
        "-p",
        "reliable:=true",
        "-p",
        f"checkpoint:={checkpoint}",
        "-p",
        "device:=cpu",
    )
    bags = tmp_path / "bags"
    write_scene_bag(NuScenesSource(root), scene, bags / scene)  # test/tools runs the tool around it
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    clouds = graph.record(PointCloud2, "/occupancy_node/points", 100)
    markers = graph.record(MarkerArray, "/occupancy_node/markers", 100)
    graph.until_known_by("/occupancy_node", 180, lambda: node.output)
    player = spawn("-m", "gaussianocc_ros.bag_player", bags / scene, "--step", "--rate", 0, "--clock")
    graph.until(lambda: player.popen.poll() is not None, 120, "the end of the replay")
    assert player.wait() == 0, f"{player.output}\nthe node:\n{node.output}"
    player.wait_for(rf"sets: {expected_sets} of {expected_sets} answered")
    graph.until(lambda: min(map(len, (outputs, clouds, markers))) >= expected_sets, what="all outputs")
    assert node.stop() == 0, node.output
    assert "Traceback" not in node.output
    assert "not compensated" not in node.output

    anchors = anchor_stamps(root)
    assert [stamp_ns(message.header) for message in outputs] == anchors
    assert len(anchors) == expected_sets
    predictions = predict_from_bag(bags / scene, checkpoint, anchors)
    for message, cloud, array, expected in zip(outputs, clouds, markers, predictions, strict=True):
        check(message, cloud, array, expected)


def anchor_stamps(root):
    """Stamps of CAM_FRONT's images as the database's own tables have them, ns."""
    (sensor,) = [row["token"] for row in read_table(root, "sensor") if row["channel"] == CAMERAS[0]]
    of_front = {row["token"] for row in read_table(root, "calibrated_sensor") if row["sensor_token"] == sensor}
    rows = read_table(root, "sample_data")
    return sorted(row["timestamp"] * 1000 for row in rows if row["calibrated_sensor_token"] in of_front)


def predict_from_bag(bag, checkpoint, anchors):
    """What the predictor says about the bag's content without DDS, node or player."""
    store = open_typestore()
    tree = ros_compat.TransformTree(keep_ns=1 << 62)
    rig = CameraRig(CAMERAS, tree, calibration_timeout=0.0, odometry_timeout=0.0)
    images = {camera: {} for camera in CAMERAS}
    with Reader(bag) as reader:
        for connection, _, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            camera = connection.topic.split("/")[1]
            if connection.topic in ("/tf", "/tf_static"):
                for item in message.transforms:
                    pose, static = decode_transform(item.transform), connection.topic == "/tf_static"
                    tree.add(item.header.frame_id, item.child_frame_id, stamp_ns(item.header), pose, static)
            elif connection.topic.endswith("camera_info"):
                rig.add_camera_info(camera, message)
            elif connection.topic.endswith("compressed"):
                images[camera][stamp_ns(message.header)] = message
    predictor = OccupancyPredictor.from_checkpoint(checkpoint, device="cpu")
    reductions = {}  # not known before the first set's calibration
    for anchor in anchors:
        stamps = {camera: min(images[camera], key=lambda stamp: abs(stamp - anchor)) for camera in CAMERAS}
        pictures = [ros_compat.decode_image(images[c][stamps[c]], reduce=reductions.get(c, 1))[0] for c in CAMERAS]
        cameras = rig.lookup(anchor, stamps).cameras
        reductions = predictor.reductions(cameras)
        yield predictor(pictures, cameras)


def check(message, cloud, array, expected):
    grid = expected.grid
    assert message.header.frame_id == "base_link"
    assert tuple(message.cameras) == CAMERAS
    assert (message.size_x, message.size_y, message.size_z) == grid.shape
    low = message.origin.position
    assert (low.x, low.y, low.z) == grid.origin
    labels = unflatten(message.labels, grid.shape)
    # The same arithmetic in another process: a sum in another order may turn a tie between two classes.
    assert (labels == expected.labels).mean() > 0.999
    confidence = unflatten(message.confidence, grid.shape) / 255
    np.testing.assert_allclose(confidence, expected.confidence, atol=0.5 / 255 + 1e-3)

    points = decode_cloud(cloud)
    marker, far = array.markers
    assert not far.points  # so few need no larger cubes
    assert stamp_ns(cloud.header) == stamp_ns(marker.header) == stamp_ns(message.header)
    occupied = labels < message.free_label
    assert len(points) == np.count_nonzero(occupied)
    xyz = np.stack([points["x"], points["y"], points["z"]], axis=-1)
    index = np.floor((xyz - np.array(grid.origin)) / grid.voxel_size).astype(int)
    np.testing.assert_array_equal(labels[tuple(index.T)], points["label"])
    cubes = np.array([(p.x, p.y, p.z) for p in marker.points])
    seen = exposed(occupied)[tuple(index.T)]
    assert 0 < np.count_nonzero(seen) < len(xyz)
    np.testing.assert_allclose(cubes, xyz[seen], atol=1e-6)
