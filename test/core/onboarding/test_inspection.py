# SPDX-License-Identifier: Apache-2.0
"""What inspection says of bags whose contents are known, and what it proposes to train on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.robot_bags import RobotBag, header, message

from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.recover import recover
from gaussianocc_core.checkpoint import load_model
from gaussianocc_core.config import from_dict, load_config
from gaussianocc_core.data.bag import BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_topics
from gaussianocc_core.errors import BagError, ConfigError
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.onboarding.doctor.ground import GroundOpinion
from gaussianocc_core.onboarding.inspection import Inspection, describe, inspect
from gaussianocc_core.onboarding.inspection_picture import inspection_picture
from gaussianocc_core.onboarding.proposal import Runs, propose, propose_size, write_proposal
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.start import start_decoder


def inspected(path, **settings) -> tuple[BagSource, Inspection]:
    (source,) = open_bags(BagConfig(str(path), **settings))
    return source, inspect(source, source.entries())


def cloud(stamp_ns: int, points: np.ndarray, more: tuple[str, ...] = ()) -> object:
    """PointCloud2 of (P, 3) points in the frame `lidar`, with a column that nobody needs between y and z."""
    columns = ("x", "y", "other", "z", *more)
    rows = np.zeros(len(points), dtype=[(name, "<f4") for name in columns])
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    fields = [
        message("sensor_msgs/msg/PointField", name=name, offset=4 * i, datatype=7, count=1)
        for i, name in enumerate(rows.dtype.names)
    ]
    return message(
        "sensor_msgs/msg/PointCloud2",
        header=header(stamp_ns, "base_link"),
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=False,
        point_step=rows.dtype.itemsize,
        row_step=rows.nbytes,
        data=rows.view(np.uint8).ravel(),
        is_dense=True,
    )


def test_rates_gaps_and_synchronisation_are_those_of_the_recording(tmp_path):
    robot = RobotBag(frames=20)
    lost = [robot.stamp(n, 1) for n in (8, 9, 10)]
    robot.messages = [m for m in robot.messages if not m[0].startswith("/left/") or _stamp(m[2]) not in lost]
    _, found = inspected(robot.write(tmp_path / "bag"))
    front, left = found.cameras
    assert (front.images, front.gaps, left.images, left.gaps) == (20, 0, 17, 1)
    assert front.rate_hz == pytest.approx(10.0) and left.longest_gap_s == pytest.approx(0.4)
    assert front.delay_ms == pytest.approx(20.0)
    assert (found.sync.sets, found.sync.anchor_images, found.sync.missing["left"]) == (17, 20, 3)
    assert found.sync.spread_ms == pytest.approx(7.0)
    assert found.motion.speed_m_s == pytest.approx(1.0, rel=0.01)
    assert found.motion.neighbour_m == pytest.approx(0.1, rel=0.01)
    (overlap,) = found.overlaps
    assert overlap.names == ("front", "left") and 0.1 < overlap.share < 0.6
    text = describe(found)
    assert found.unlatched == ("/tf_static",)  # this bag was written without any QoS
    for fact in (
        "17 sets of 20 images of front (85.0 %)",
        "it is the anchor",
        "replay: /tf_static was stored without",
        "missing: left 3 times",
        "1 gaps, the longest 0.40 s",
    ):
        assert fact in text


def _stamp(content) -> int:
    return content.header.stamp.sec * 1_000_000_000 + content.header.stamp.nanosec


def test_a_rig_without_overlap_is_told_what_to_do(tmp_path):
    source, found = inspected(RobotBag(cameras={"front": 0.0, "back": 180.0}).write(tmp_path / "bag"))
    assert found.overlaps == () and found.alone == ("front", "back")
    assert "Stage 1 cannot learn metric scale" in describe(found)
    proposal = propose(source, found, 100)
    assert proposal.stage1["gsp"]["cross_weight"] == 0.0 and proposal.stage2["gsv"]["ego_motion"] == "auto"


def test_lidar_falls_where_the_calibration_and_the_motion_say(tmp_path):
    robot = RobotBag(frames=6)
    ahead = np.array([[5.0, 0.0, 0.5], [5.0, 0.5, 1.0], [-5.0, 0.0, 0.5]])
    scanned = robot.stamp(2, 0) + 30_000_000  # 30 ms, 3 cm, after the image
    robot.add("/lidar/points", scanned, cloud(scanned, ahead))
    source, found = inspected(robot.write(tmp_path / "bag"))
    (lidar,) = found.lidars
    assert lidar.in_view == {"front": 2, "left": 0} and "left: hardly a point in view" in describe(found)
    (topic,) = lidar_topics(source)
    cameras = Rectifier(source.cameras, 128, 96).cameras
    entry = source.entries()[2]
    front, _ = lidar_depths(source, topic, entry, cameras)
    # The camera stands 0.3 m ahead of base_link and 0.5 m high; at the image's time the points were 3 cm farther away.
    depth = 5.0 + 0.03 - 0.3
    np.testing.assert_allclose(front[:, 2], depth, atol=1e-4)
    np.testing.assert_allclose(front[:, 0], [64, 64 - 80 * 0.5 / depth], atol=1e-2)
    np.testing.assert_allclose(front[:, 1], [48, 48 - 80 * 0.5 / depth], atol=1e-2)
    assert lidar_depths(source, topic, source.entries()[5], cameras) is None  # 300 ms away
    picture = inspection_picture(source, entry)
    assert picture.shape[2] == 3 and picture.std() > 20


def test_what_the_node_published_is_not_taken_for_lidar(tmp_path):
    robot = RobotBag(frames=6)
    stamp = robot.stamp(2, 0)
    robot.add(
        "/occupancy_node/points", stamp, cloud(stamp, np.array([[5.0, 0.0, 0.5]]), ("rgb", "label", "confidence"))
    )
    robot.add("/lidar/points", stamp, cloud(stamp, np.array([[5.0, 0.0, 0.5]]), ("intensity",)))
    source, found = inspected(robot.write(tmp_path / "bag"))
    assert lidar_topics(source) == ("/lidar/points",) and [each.topic for each in found.lidars] == ["/lidar/points"]


def test_the_ground_in_the_images_decides_whether_the_height_of_the_cameras_is_used(tmp_path):
    source, found = inspected(RobotBag().write(tmp_path / "bag"))
    agrees = GroundOpinion(True, "front 0.50 m over it (0.50 m by TF), tilted by 0.2 degrees")
    differs = GroundOpinion(False, "front 0.65 m over it (0.50 m by TF), tilted by 0.2 degrees")
    for overlaps, ground, metric, said in (
        (found.overlaps, agrees, True, "where TF has it: front 0.50 m"),
        (found.overlaps, differs, False, "not at z = 0 of the base frame: front 0.65 m"),
        (found.overlaps, None, False, "the cameras that overlap know the scale"),
        ((), differs, False, "base_footprint"),
        ((), None, True, "no camera saw enough"),
    ):
        proposal = propose(source, replace(found, overlaps=overlaps), 100, ground=ground)
        for stage in (proposal.stage1, proposal.stage2):
            assert stage["model"]["depth"]["metric_ground"] is metric
        assert proposal.ground.startswith(f"metric_ground: {str(metric).lower()}") and said in proposal.ground


def test_the_proposal_fits_robot_and_speed_and_is_a_configuration(tmp_path):
    source, found = inspected(RobotBag().write(tmp_path / "bag"))  # cameras 0.3 m from the middle, 1 m/s
    proposal = propose(source, found, 1000)
    assert proposal.voxel_size == 0.1 and proposal.steps == 5000
    for content in (proposal.stage1, proposal.stage2):
        config = from_dict(TrainConfig, content)
        assert config.model.grid.voxel_size == 0.1
        assert config.model.lattice.low == config.model.grid.origin
        assert config.model.lattice.high == pytest.approx(config.model.grid.upper)
        assert config.data.bag.cameras == ("front", "left")
    first, second = (from_dict(TrainConfig, each) for each in (proposal.stage1, proposal.stage2))
    assert second.model.decoder.detail and second.gsv.ego_motion == "auto" and second.data.history == (0.3, 0.6)
    assert second.model.class_names == ("occupied", "free") and not second.data.semantics  # the bag has no 2D labels
    assert (first.model.grid, first.data.left_out) == (second.model.grid, second.data.left_out)
    assert propose(source, replace(found, labelled=5), 10).stage2["data"]["semantics"]
    assert "class_names" not in propose(source, replace(found, labelled=5), 10).stage2["model"]
    assert propose(source, found, 10, voxel_size=0.25).voxel_size == 0.25
    # Where voxels are those of the shipped occupancy, its decoder is gone on from, and it does fit.
    assert second.gsv.decoder_from == "" and second.steps == 2500
    as_shipped = from_dict(TrainConfig, propose(source, found, 1000, voxel_size=0.4).stage2)
    assert as_shipped.gsv.decoder_from == "tiny" and as_shipped.steps == 1250
    ours, theirs = build_model(as_shipped.model), load_model("tiny").model
    start_decoder(ours, as_shipped)
    assert torch.equal(ours.voxel_decoder.level1[0].weight, theirs.voxel_decoder.level1[0].weight)
    stage1, stage2, rig, node = write_proposal(proposal, source, tmp_path / "out" / "mine.yaml")
    (parameters,) = (section["ros__parameters"] for section in yaml.safe_load(node.read_text()).values())
    assert parameters["cameras"] == ["front", "left"]
    assert parameters["image_topic"] == "{camera}/image_raw/compressed"
    assert parameters["camera_info_topic"] == "{camera}/camera_info"
    assert stage1.name == "mine.yaml" and stage2.name == "mine_gsv.yaml"
    runs = Runs.of(stage1)
    assert load_config(stage2, TrainConfig).data.occupancy == str(runs.labels) == "labels/mine"
    printed = runs.describe(Path("my recordings"))
    for command in (runs.carve, runs.train_second, runs.remember, runs.evaluate):
        assert command in stage2.read_text() and command in printed
    assert "gaussianocc_core.report 'my recordings' runs/mine_gsv/model.safetensors" in printed
    np.testing.assert_allclose(load_rig(rig).T_ego_cam, source.cameras.T_ego_cam, atol=1e-5)
    with pytest.raises(ConfigError, match="exists already"):
        write_proposal(proposal, source, tmp_path / "out" / "mine.yaml")


def test_topics_without_a_common_pattern_are_proposed_one_by_one(tmp_path):
    robot = RobotBag()
    robot.messages = [(topic.replace("/front/", "/stereo/front/"), *rest) for topic, *rest in robot.messages]
    source, found = inspected(robot.write(tmp_path / "bag"))
    *_, node = write_proposal(propose(source, found, 10), source, tmp_path / "mine.yaml")
    (parameters,) = (section["ros__parameters"] for section in yaml.safe_load(node.read_text()).values())
    assert parameters["image_topics"] == ["stereo/front/image_raw/compressed", "left/image_raw/compressed"]
    assert parameters["camera_info_topics"] == ["stereo/front/camera_info", "left/camera_info"]
    assert "image_topic" not in parameters


# ---- recordings that were cut off ----------------------------------------------------------------------------------


def test_what_is_left_of_a_cut_off_recording_is_saved(tmp_path):
    robot = RobotBag(frames=60, size=(160, 120), encoding="rgb8")
    file = robot.write(tmp_path / "bag") / "bag.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(0.6 * len(whole))])
    count = recover(file, tmp_path / "saved")
    saved = open_index(tmp_path / "saved")
    assert (
        count
        == sum(len(t) for t in saved.topics.values())
        + sum(len(series.stamps_ns) for series in saved.poses if series.topic == "/tf")
        + 1
    )  # and /tf_static
    assert 25 < len(saved.topics["/front/image_raw"]) < 40
    entries = BagSource(saved).entries()
    np.testing.assert_array_equal(entries[3].load().images[1], robot.picture(3, 1))
    assert len(file.read_bytes()) == int(0.6 * len(whole))


def test_where_nothing_is_left_nothing_is_written(tmp_path):
    file = RobotBag().write(tmp_path / "bag") / "bag.mcap"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(BagError, match="no complete chunk"):
        recover(file, tmp_path / "saved")
    file.write_bytes(b"text")
    with pytest.raises(BagError, match="no MCAP file"):
        recover(file, tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag"]


def test_without_odometry_the_images_say_how_much_moves(tmp_path):
    _, found = inspected(RobotBag(odometry="", frames=8).write(tmp_path / "bag"))
    assert found.motion is None and 20 < found.change[0] <= found.change[1] < 120  # pictures of noise
    assert f"change by {found.change[1]:.1f} grey levels" in describe(found)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((397, 120), (320, 96)), ((1600, 900), (176, 96)), ((640, 480), (144, 112)), ((480, 640), (112, 144))],
)
def test_the_input_of_the_network_has_the_shape_of_the_images(tmp_path, size, expected):
    source, found = inspected(RobotBag(size=size, frames=3).write(tmp_path / "bag"))
    assert propose_size(source.cameras) == expected
    stage1 = propose(source, found, samples=1).stage1
    config = from_dict(TrainConfig, stage1, "proposal")
    assert (config.model.image_width, config.model.image_height) == expected
    assert config.first_stage == "tiny_matching" and config.model.matching.enabled and config.data.left_out == 0.1
    assert config.gsp.ego_motion == "auto"
