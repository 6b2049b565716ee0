# SPDX-License-Identifier: Apache-2.0
"""Evaluation on what people have: rosbags with lidar, data sets without depth files, DDAD; and estimates that are no
depth."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.ddad_fixtures import MadeUpScene, write_data_set
from support.small_model import SMALL
from support.synthetic_bags import FISHEYES, convert, make_dataset

from gaussianocc_core import evaluate as command
from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.config import load_config
from gaussianocc_core.data.lidar import paint_depth
from gaussianocc_core.data.sources import open_split
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation import evaluate_networks
from gaussianocc_core.evaluation.depth import DepthTable
from gaussianocc_core.evaluation.networks import FAR, Estimates
from gaussianocc_core.evaluation.sources import open_source
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.metrics.depth import depth_errors
from gaussianocc_core.models.gaussianocc import build_depth_net, build_pose_net
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.synthetic.rig import default_rig
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.types import VoxelGrid

CONFIG = replace(SMALL, grid=VoxelGrid())
RIGS = {"pinhole": resize(default_rig(), 160, 90), "fisheye": FISHEYES}


@pytest.fixture(scope="module", params=sorted(RIGS))
def drive(request, tmp_path_factory):
    """A data set with true depth, and the bag that is made of it, which has lidar only."""
    folder = tmp_path_factory.mktemp(request.param)
    data = make_dataset(folder / "street", RIGS[request.param], 2, 5)
    return data, convert(data, folder / "bags")


class Flat:
    """Says the same distance everywhere, and knows the motion."""

    kinds = ("depth", "pose")
    config = CONFIG

    def __init__(self, distance: float = 10.0) -> None:
        self.distance = distance

    def __call__(self, sample, batch):
        depth = torch.full((len(sample.cameras), 24, 40), self.distance)
        return Estimates({"flat": depth}, None, batch.T_target_now[0].double().numpy())


@pytest.mark.medium
def test_lidar_of_a_bag_is_the_true_depth_of_its_pixels(drive):
    data, bag = drive
    tables, recording = open_source(data), open_source(bag=bag)
    (scene,), (name,) = tables.scene_names(), recording.scene_names()
    truth = {entry.load().stamp_ns: entry for entry in tables.entries(scene, neighbours=False)}
    compared = 0
    for entry in recording.entries(name, neighbours=True):
        sample = entry.load()
        if sample.stamp_ns not in truth:
            continue
        lenses = Preprocessor.of(CONFIG)(sample.cameras)
        exact = tables.true_depths(truth[sample.stamp_ns], truth[sample.stamp_ns].load(), lenses)
        drawn = recording.true_depths(entry, sample, lenses)
        for one, other in zip(drawn, exact, strict=True):
            assert one.shape == other.shape
            both = (one > 0) & (other > 0)
            assert both.sum() > 20
            # A scan looks from the roof past edges, and a pixel is as wide as some gaps: most pixels, not all.
            assert np.median(np.abs(one[both] / other[both] - 1)) < 0.02
            compared += int(both.sum())
    assert compared > 1000


@pytest.mark.medium
def test_a_bag_s_scan_is_that_of_its_data_set_in_the_ego_frame_of_the_images(drive):
    data, bag = drive
    tables, recording = open_source(data), open_source(bag=bag)
    (scene,), (name,) = tables.scene_names(), recording.scene_names()
    keyframes = {entry.frame.camera_stamps_ns[0]: entry for entry in tables.entries(scene, neighbours=False)}
    compared = 0
    for entry in recording.entries(name, neighbours=False):
        same = keyframes.get(entry.frame.camera_stamps_ns[0])
        if same is None:
            continue
        ours, truth = recording.lidar_scan(entry, None), tables.lidar_scan(same, same.frame.T_world_ego[0])
        np.testing.assert_allclose(ours.points, truth.points, atol=2e-3)
        assert np.linalg.norm(ours.place - truth.place) < 0.5  # the table's is where it was at its own stamp
        ground = ours.points[np.hypot(*ours.points[:, :2].T) < 8.0]
        assert abs(np.percentile(ground[:, 2], 20)) < 0.1  # the road is at the wheels' height
        compared += 1
    assert compared == 2


@pytest.mark.medium
def test_a_bag_is_measured_by_camera_and_distance_and_odometry(drive):
    _, bag = drive
    result = evaluate_networks(Flat(), open_source(bag=bag), every=4)
    flat = result["depth"]["ways"]["flat"]
    assert result["data"]["bag"] == str(bag) and len(flat["per_camera"]) in (4, 6)
    rings = result["depth"]["by_distance"]
    near, far = rings["edges_m"].index(8.0), rings["edges_m"].index(32.0)
    assert rings["abs_rel"]["flat"][near] < 0.4 < rings["abs_rel"]["flat"][far]  # 10 m, whatever the truth
    assert result["ego_motion"]["length_ratio"] == pytest.approx(1) and result["ego_motion"]["moving_pairs"] > 0
    assert result["mask_camera"] is None and result["ray_iou"] is None


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0, 0.0])
def test_an_estimate_that_is_no_depth_is_an_error_as_large_as_the_limits_allow(nonsense):
    truth = np.full((2, 2), 4.0, dtype=np.float32)
    estimate = truth.copy()
    good = depth_errors(truth, estimate)
    estimate[0, 0] = nonsense
    bad = depth_errors(truth, estimate)
    assert good[0] == 0 and bad[0] == pytest.approx(0.25 * (80 - 4) / 4)  # of 0.1 and 80 m the farther one
    assert bad[4] == pytest.approx(0.75)  # within 1.25
    table = DepthTable()
    assert table.update("guess", "front", truth, torch.from_numpy(estimate)) == pytest.approx(bad[0])
    rings = table.summary()["by_distance"]
    assert np.nansum(rings["abs_rel"]["guess"]) == pytest.approx(bad[0])


def test_the_nearest_point_of_a_pixel_counts():
    points = np.array([[1.2, 0.5, 9.0], [1.9, 0.1, 3.0], [1.5, 0.5, 7.0], [5.0, 0.5, 1.0], [0.5, 0.5, -2.0]])
    assert paint_depth(points, 3, 2).tolist() == [[0, 3, 0], [0, 0, 0]]


@pytest.mark.medium
def test_ddad_is_measured_by_its_lidar_out_to_200_m(tmp_path):
    root = write_data_set(tmp_path / "ddad", MadeUpScene("000001"))
    source = open_source(root, schema="ddad")
    result = evaluate_networks(Flat(FAR), source)
    assert result["depth"]["limits_m"] == [0.1, 200.0] and result["depth"]["images"] > 0
    assert result["ego_motion"]["pairs"] > 0


@pytest.mark.medium
def test_the_command_reads_a_bag_or_a_configuration_and_writes_a_table(drive, tmp_path, capsys):
    _, bag = drive
    checkpoint, table = tmp_path / "first.safetensors", tmp_path / "depth.csv"
    torch.manual_seed(0)
    nets = {"pose_net": build_pose_net(CONFIG), "depth_net": build_depth_net(CONFIG)}
    save_model(checkpoint, None, CONFIG, Provenance("none", steps=7), **nets)
    assert command.main([str(checkpoint), "--bag", str(bag), "--every", "6", "--csv", str(table)]) == 0
    rows = list(csv.DictReader(table.open()))
    cameras = {row["camera"] for row in rows if row["way"] == "depth_network"}
    assert {"mean", "4-8 m"} < cameras and all(float(row["abs_rel"]) > 0 for row in rows if row["camera"] == "mean")
    config = tmp_path / "robot.yaml"
    config.write_text(f"stage: gsp\ndata: {{bag: {{path: {bag}}}}}\n")
    report = tmp_path / "report.json"
    assert command.main([str(checkpoint), "--config", str(config), "--every", "6", "--json", str(report)]) == 0
    again = json.loads(report.read_text())["depth"]["ways"]["depth_network"]["mean"]["abs_rel"]
    mean = next(row for row in rows if (row["way"], row["camera"]) == ("depth_network", "mean"))
    assert again == pytest.approx(float(mean["abs_rel"]))
    arguments = [str(checkpoint), "--config", str(config), "--json", str(report), "--left-out"]
    assert command.main([*arguments, "data.left_out=0.5"]) == 0
    apart = open_split(replace(load_config(config, TrainConfig).data, left_out=0.5))[1]
    assert len(apart) >= 2 and json.loads(report.read_text())["keyframes"] == len(apart) + 1  # the last set of all too
    capsys.readouterr()
    assert command.main(arguments) == 2
    assert "leaves nothing out of training" in capsys.readouterr().err
    assert command.main([str(checkpoint), "--bag", str(bag), "--left-out"]) == 2
    assert "give --config FILE" in capsys.readouterr().err
    assert command.main([str(checkpoint), "--bag", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    config.write_text("stage: gsp\n")
    assert command.main([str(checkpoint), "--config", str(config)]) == 2
    assert "names no bag.path and no dataroot" in capsys.readouterr().err


def test_a_source_is_one_of_two(tmp_path):
    with pytest.raises(DatasetError, match="either dataroot"):
        open_source()


@pytest.mark.medium
def test_a_real_drive_is_measured_against_its_lidar(shared_data):
    result = evaluate_networks(Flat(), open_source(bag=shared_data / "data" / "kitti_drive_0001"), every=40)
    ground = result["depth"]["ways"]["flat_ground"]["mean"]
    assert 0.4 < ground["abs_rel"] < 0.65  # its README: 0.536 on the frames behind these
    assert result["ego_motion"]["true_length_m"] == pytest.approx(1.1, abs=0.1)
