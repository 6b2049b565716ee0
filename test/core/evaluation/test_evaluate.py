# SPDX-License-Identifier: Apache-2.0
"""Evaluation against oracles whose scores are known, against hand computations, and through its command line."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core import evaluate as command
from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.data.entries import in_label_frame
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.evaluation import evaluate, evaluate_networks, format_report
from gaussianocc_core.evaluation.depth import DepthTable, rectify_depths
from gaussianocc_core.evaluation.ego_motion import MotionScores, rotation_angle
from gaussianocc_core.evaluation.networks import FAR, Estimates, _look_at
from gaussianocc_core.evaluation.sources import TableSource
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.ground_plane import flat_ground_depth
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.models.config import GaussianConfig
from gaussianocc_core.models.gaussianocc import build_depth_net, build_model, build_pose_net
from gaussianocc_core.models.pose_net import EgoMotion, PoseNet
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.rendering.background import compose_depth, find_background
from gaussianocc_core.synthetic.rig import default_rig
from gaussianocc_core.synthetic.writer import write_dataset
from gaussianocc_core.training.ego import motion_to
from gaussianocc_core.training.loader import prepare
from gaussianocc_core.training.motion_search import Guess, MotionSearch, as_long_as_depth_says
from gaussianocc_core.training.view import batch_element
from gaussianocc_core.types import Lattice, OccupancyField, RenderedViews, Sample, VoxelGrid
from gaussianocc_core.viz.keyframe import KeyframePicture, compose_keyframe

CONFIG = replace(SMALL, grid=VoxelGrid())  # labels are on the published grid
MEASURED = (
    "depth", "ego_motion", "mask_camera", "mask_camera_and_lidar", "whole_grid", "by_range", "ray_iou", "robot",
)  # fmt: skip


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """One scene of two keyframes half a second apart, with sweeps, labels and true depth; six cameras of 160 x 90."""
    folder = tmp_path_factory.mktemp("evaluate") / "street"
    return write_dataset(folder, frames=2, seed=300, cameras=resize(default_rig(), 160, 90), progress=False)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random weights: a first stage's file and a second's."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    nets = {"pose_net": build_pose_net(CONFIG), "depth_net": build_depth_net(CONFIG)}
    save_model(folder / "first.safetensors", None, CONFIG, Provenance("none", steps=7), **nets)
    save_model(folder / "second.safetensors", build_model(CONFIG), CONFIG, Provenance("none"))
    return folder


class Oracle:
    """Knows everything, but measures all lengths `factor` times too long."""

    kinds = ("occupancy", "depth", "pose")
    config = CONFIG

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, sample, batch):
        depth = torch.from_numpy(np.stack(sample.depths))
        T_target_now = batch.T_target_now[0].double().numpy().copy()
        T_target_now[:, :3, 3] *= self.factor
        labels, said = sample.occupancy.semantics, 3.0 * np.linalg.norm(T_target_now[:, :3, 3], axis=1)
        return Estimates({"told": self.factor * torch.where(depth > 0, depth, FAR)}, labels, T_target_now, said)


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and captured.out == "", captured
    return lines[0]


@pytest.mark.medium
def test_an_oracle_has_no_error_and_its_scale_is_one(street):
    result = evaluate_networks(Oracle(), TableSource(NuScenesSource(street)))
    told = result["depth"]["ways"]["told"]["mean"]
    assert told["abs_rel"] < 1e-6 and told["rmse"] < 1e-4 and told["a1"] == 1.0 and told["scale"] == 1.0
    for mask in ("mask_camera", "mask_camera_and_lidar", "whole_grid"):
        assert result[mask]["states"] == {"unknown": 0.0, "occupied_but_free": 0.0}
        assert set(result[mask]["model"].values()) == {1.0} and set(result[mask]["class_iou"].values()) == {1.0}
        assert 0.05 < result[mask]["flat_ground"]["iou"] < 0.7 and result[mask]["flat_ground"]["non_ground_iou"] == 0
    assert result["ray_iou"]["model"]["ray_iou"] == 1.0 > 5 * result["ray_iou"]["flat_ground"]["ray_iou"]
    against = result["robot"]["truths"]
    for distance in ("5-10", "10-20"):
        labels, lidar = against["labels"]["model"][distance], against["lidar"]["model"][distance]
        assert (labels["missed"], labels["unknown"], labels["found"], labels["ghosts"]) == (0.0, 0.0, 1.0, 0.0)
        # Points lie on surfaces, at the border of a voxel as often as not; a voxel is filled by less than all of it.
        assert lidar["points"] > 500 and lidar["missed"] < 0.2 and lidar["found"] > 0.8 and lidar["ghosts"] < 0.1
        assert against["lidar"]["flat_ground"][distance]["missed"] == 1.0
        assert against["lidar"]["flat_ground"][distance]["ghosts"] is None
    assert result["reliability"] is None  # it says no probabilities
    motion = result["ego_motion"]
    # A keyframe at each end of the scene: one has the sweep after it, the other the one before.
    assert motion["pairs"] == motion["moving_pairs"] == 2 and motion["gap_ms"] == pytest.approx(1000 / 12, abs=1)
    assert motion["length_ratio"] == pytest.approx(1) and motion["length_error"] < 1e-6
    assert motion["rotation_error_deg"] < 1e-4


@pytest.mark.medium
def test_an_oracle_in_other_units_is_told_its_scale(street):
    result = evaluate_networks(Oracle(factor=2.0), TableSource(NuScenesSource(street)), every=2, ray_iou=False)
    assert result["keyframes"] == 1 and result["ray_iou"] is None
    told = result["depth"]["ways"]["told"]
    assert told["mean"]["scale"] == pytest.approx(0.5)
    # Twice the truth, but no more than 80 m: full errors only for what is nearer than 40 m.
    assert 0.9 < told["per_camera"]["CAM_BACK_RIGHT"]["abs_rel"] <= 1.0
    assert result["ego_motion"]["length_ratio"] == pytest.approx(2)
    assert result["ego_motion"]["length_error"] == pytest.approx(1)
    # What a network said before its length was searched is told beside that.
    assert result["ego_motion"]["network_length_ratio"] == pytest.approx(6)
    assert result["ego_motion"]["network_length_error"] == pytest.approx(5)
    rings = result["depth"]["by_distance"]
    assert rings["edges_m"] == [0.1, 2, 4, 8, 16, 32, 80] and sum(rings["share"]) == pytest.approx(1)
    np.testing.assert_allclose(rings["abs_rel"]["told"][1:5], 1.0, rtol=1e-5)
    assert 0.0 < rings["abs_rel"]["told"][5] < 1.0
    report = format_report(result)
    assert "16-32 m" in report and "as the network says        6.000" in report


@pytest.mark.medium
def test_flat_ground_baseline_equals_a_hand_computation(street):
    source = NuScenesSource(street)
    scene = source.scene_names()[0]
    depth = evaluate_networks(Oracle(), TableSource(source), every=2, ray_iou=False)["depth"]
    table = depth["ways"]["flat_ground"]["per_camera"]
    sample = next(source.samples(scene, depths=True))
    for n, camera in enumerate(sample.cameras.names):
        K, T = sample.cameras.intrinsics[n].numpy(), sample.cameras.T_ego_cam[n].numpy()
        errors, estimates, truths = [], [], []
        for (row, column), truth in np.ndenumerate(sample.depths[n]):
            if not 0.1 < truth < 80.0:
                continue
            x, y = (column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1]
            direction = T[:3, :3] @ [x, y, 1.0]  # ego frame, per metre of z-depth
            depth = min(-T[2, 3] / direction[2], 80.0) if direction[2] < 0 else 80.0
            errors.append(abs(max(depth, 0.1) - truth) / truth)
            estimates.append(depth)
            truths.append(truth)
        assert table[camera]["abs_rel"] == pytest.approx(np.mean(errors), rel=1e-5), camera
        assert table[camera]["scale"] == pytest.approx(np.median(truths) / np.median(estimates), rel=1e-5)


def test_flat_ground_depth_is_height_times_focal_length_over_rows_below_the_horizon():
    cameras = ring(yaws=(0.0, 60.0), z=1.5)
    depth = flat_ground_depth(cameras, 1, 160, 90, 80.0)
    focal = float(cameras.intrinsics[1, 1, 1])
    assert (depth[:45] == 80).all()
    expected = np.minimum(1.5 * focal / (np.arange(45, 90) + 0.5 - 45), 80.0)
    np.testing.assert_allclose(depth[45:, 7], expected, rtol=1e-6)


def test_scale_is_the_median_over_images_and_the_mean_is_over_cameras():
    table = DepthTable()
    truth = np.full((4, 6), 12.0, np.float32)
    for camera, estimate in (("front", 6.0), ("front", 12.0), ("front", 48.0), ("back", 12.0)):
        table.update("guess", camera, truth, torch.full((2, 3), estimate))
    assert table.update("guess", "back", np.zeros((4, 6), np.float32), torch.ones(2, 3)) is None
    guess = table.summary()["ways"]["guess"]
    assert guess["per_camera"]["front"]["scale"] == 1.0 and guess["per_camera"]["back"]["images"] == 1
    assert guess["mean"]["scale"] == 1.0  # of 2, 1, 0.25, 1
    assert guess["per_camera"]["front"]["abs_rel"] == pytest.approx((0.5 + 0 + 3) / 3)
    assert guess["mean"]["abs_rel"] == pytest.approx((0.5 + 0 + 3) / 3 / 2)
    assert DepthTable().summary() is None


def test_true_depth_of_a_lens_with_distortion_is_rectified_as_the_images_are():
    plain = ring(yaws=(0.0, 60.0))
    lens = replace(plain, distortion=((), (-0.2, 0.05, 0.0, 0.0)))
    columns = np.tile(np.arange(160, dtype=np.float32) + 0.5, (90, 1))  # a depth that names its source column
    sample = Sample("", "", 0, (), lens, np.eye(4), depths=(columns, columns))
    lenses = Preprocessor(80, 45)(lens)
    straight, bent = rectify_depths(sample, lenses)
    assert straight is columns
    image = np.repeat(columns[..., None], 3, axis=-1).astype(np.uint8)
    shown = lenses.rectifier.rectify(1, image)[..., 0].astype(float)
    inside = lenses.valid_mask[1]
    assert bent.shape == (45, 80) and np.abs(bent - shown)[inside].max() <= 1.5  # px
    assert abs(bent[22, 5] - 11) > 3  # without distortion it would be column 11


def test_a_small_rotation_survives_single_precision():
    angle = 1e-3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    assert rotation_angle(turn.astype(np.float32)) == pytest.approx(angle, rel=1e-3)
    assert rotation_angle(np.diag([-1.0, -1.0, 1.0])) == pytest.approx(np.pi)


def test_standing_still_and_unknown_poses_say_nothing_about_the_scale():
    scores = MotionScores()
    still, unknown, moved = np.eye(4), np.full((4, 4), np.nan), np.eye(4)
    moved[0, 3] = 2.0
    learnt = np.eye(4)
    learnt[0, 3] = 1.5
    scores.update(np.stack([learnt] * 3), np.stack([still, unknown, moved]), np.full(3, 0.1))
    summary = scores.summary()
    assert (summary["pairs"], summary["moving_pairs"]) == (2, 1)
    assert summary["length_ratio"] == 0.75 and summary["length_error"] == 0.25
    assert MotionScores().summary() is None


def test_ego_motion_network_sees_frames_in_temporal_order_and_the_past_is_its_inverse():
    seen = []

    class Scripted(PoseNet):
        def forward(self, earlier, later):
            seen.append((float(earlier.mean()), float(later.mean())))
            forward = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])  # what was here lies a metre back later
            return EgoMotion(torch.zeros(1, 2, 3), forward)

    pose_net = Scripted("resnet18", width=0.125, channels=8)
    images = torch.stack([torch.full((2, 3, 4, 4), value) for value in (0.5, 0.4, 0.6)])[None]  # now, before, after
    before, after = (motion_to(pose_net, images[:, 0], images[:, k], step)[0] for k, step in ((1, -1), (2, 1)))
    assert np.round(seen, 2).tolist() == [[0.4, 0.5], [0.5, 0.6]]
    assert before[0, 3] == 1.0 and after[0, 3] == -1.0


@pytest.mark.medium
def test_learnt_motion_is_as_long_as_the_depth_network_says(street):
    entry = NuScenesSource(street).index("synthetic-0001", depths=True, neighbours=True)[0]
    sample = entry.load()
    lenses = Preprocessor(160, 90)(sample.cameras)
    batch = prepare(sample, lenses)
    truth = batch.T_target_now[0]  # one neighbour: the scene begins here
    depth = torch.from_numpy(np.stack(rectify_depths(sample, lenses)))
    depth = torch.where(depth > 0, depth, FAR).float()
    wrong = truth.clone()
    wrong[:, :3, 3] *= 0.8
    colors = batch.colors()[0, : 1 + len(wrong)]
    found = as_long_as_depth_says(
        colors, Guess(depth, batch.valid[0]), batch_element(batch.cameras, 0), wrong, MotionSearch()
    )
    assert float(found[0, :3, 3].norm() / truth[0, :3, 3].norm()) == pytest.approx(1.0, abs=0.05)


def test_what_the_lattice_leaves_transparent_shows_the_background():
    cameras = ring(yaws=(0.0,), width=4, height=2)
    lattice = Lattice((-10.0, -10.0, -1.0), (10.0, 10.0, 5.0), (4, 4, 4))
    views = RenderedViews(torch.zeros(1, 2, 2, 4), torch.full((1, 1, 2, 4), 2.0), torch.full((1, 1, 2, 4), 0.25))
    inside, background = find_background(views, cameras, lattice, None, FAR)
    # A quarter of the ray ends at 8 m: a quarter of the inverse depth is 1 / 8.
    assert inside.all() and torch.allclose(compose_depth(views, background), torch.tensor(1 / (0.25 / 8 + 0.75 / 80)))
    assert (compose_depth(views, 0.0) == 2.0).all()  # as published: nothing behind
    head = torch.full((1, 2, 4), 6.0)
    head[0, :, 2:] = 30.0  # beyond the lattice
    inside, background = find_background(views, cameras.to(dtype=torch.float32), lattice, head, FAR)
    assert inside.tolist() == [[[True, True, False, False]] * 2]
    far, wall = 1 / (0.25 / 8 + 0.75 / 80), 1 / (0.25 / 8 + 0.75 / 30)
    np.testing.assert_allclose(compose_depth(views, background)[0, 0], [far, far, wall, wall], rtol=1e-6)


@pytest.mark.medium
def test_true_labels_rendered_are_about_the_true_depth(street):
    """Frames, cameras and background of the rendered depth: a mix-up costs more than what voxels round off."""
    grid = VoxelGrid()
    config = replace(
        CONFIG,
        image_height=96,
        image_width=160,
        lattice=Lattice(grid.origin, grid.upper, grid.shape),
        gaussians=GaussianConfig(scale=(0.16, 0.16, 0.16)),
    )
    sample = next(NuScenesSource(street).samples("synthetic-0001", depths=True))
    predictor = OccupancyPredictor.untrained(config, device="cpu")
    labels = torch.from_numpy(sample.occupancy.semantics).long()
    logits = (20.0 * torch.nn.functional.one_hot(labels, 18) - 10.0).permute(3, 0, 1, 2)[None].contiguous()
    predictor.model.decide_from = lambda look, plans, sources: OccupancyField(logits)
    prediction = predictor(sample.images, in_label_frame(sample))
    seen_from = prediction.views
    depths, occupancy, _ = _look_at(predictor, prediction)
    assert (occupancy == sample.occupancy.semantics)[occupancy != 255].all()
    moved = (seen_from.T_ego_cam - sample.cameras.T_ego_cam)[:, :3, 3].norm(dim=-1)
    assert 0.1 < moved.max() < 0.5  # m that the street's car drives in 43 ms, the spread of the cameras
    table = DepthTable(limits=(0.1, 20.0))
    for n, (camera, truth) in enumerate(zip(sample.cameras.names, sample.depths, strict=True)):
        table.update("rendered", camera, truth, depths["rendered"][n])
        table.update("next camera", camera, truth, depths["rendered"][n - 1])
    ways = table.summary()["ways"]
    assert ways["rendered"]["mean"]["a1"] > 0.7 > 1.5 * ways["next camera"]["mean"]["a1"]


class ShortSighted(Oracle):
    """Sees nothing beyond 15 m from the ego origin, horizontally."""

    def __call__(self, sample, batch):
        told = super().__call__(sample, batch)
        x, y, _ = np.indices(told.occupancy.shape) * 0.4 - 39.8
        return replace(told, occupancy=np.where(np.hypot(x, y) > 15.0, UNOBSERVED, told.occupancy))


class Careless(Oracle):
    """Sees a wall across the road that is not there, and knows nothing of one side."""

    def __call__(self, sample, batch):
        told = super().__call__(sample, batch)
        labels = told.occupancy.copy()
        labels[:, :90] = OCCLUDED  # y below -4 m
        labels[107:109, 95:105, 4:8] = 15  # 2.8 to 3.6 m ahead, 2 m to each side
        return replace(told, occupancy=labels)


@pytest.mark.medium
def test_ghosts_block_the_path_and_what_is_hidden_is_unknown(street):
    source = TableSource(NuScenesSource(street))
    result = evaluate_networks(Careless(), source, ray_iou=False, robot=RobotConfig(path_length=3.0))["robot"]
    # Two keyframes: only the first has a path ahead.
    assert result["path"] == {"model": {"moments": 1, "blocked": 1}, "flat_ground": {"moments": 1, "blocked": 0}}
    labels = result["truths"]["labels"]
    assert labels["moments"] == 2 and labels["model"]["5-10"]["unknown"] > 0.2
    assert 0.0 < labels["model"]["0-10"]["ghosts"] < 1.0
    untold = evaluate_networks(Oracle(), source, ray_iou=False, robot=RobotConfig(path_length=3.0))["robot"]
    assert untold["path"]["model"] == {"moments": 1, "blocked": 0}


@pytest.mark.medium
def test_a_range_counts_what_lies_within_it(street):
    result = evaluate_networks(ShortSighted(), TableSource(NuScenesSource(street)), every=2, ray_iou=False)
    iou = {limit: measures["model"]["iou"] for limit, measures in result["by_range"].items()}
    assert list(iou) == ["10", "15", "20", "30"]
    assert iou["10"] == iou["15"] == 1.0 > iou["20"] > iou["30"] > result["mask_camera"]["model"]["iou"] > 0.05
    assert result["by_range"]["20"]["flat_ground"]["non_ground_iou"] == 0
    lines = format_report(result).splitlines()
    assert [line.split()[4] for line in lines if line.startswith("IoU within")] == [
        f"{each:.3f}" for each in iou.values()
    ]


@pytest.mark.medium
def test_first_stage_is_measured_in_depth_and_motion_and_has_no_occupancy(street, checkpoints, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = [str(checkpoints / "first.safetensors"), "--dataroot", str(street), "--json", str(report)]
    assert command.main(arguments) == 0
    result = json.loads(report.read_text())
    assert list(result["depth"]["ways"]) == ["depth_network", "flat_ground"]
    assert result["depth"]["images"] == 12 and len(result["depth"]["ways"]["depth_network"]["per_camera"]) == 6
    assert result["ego_motion"]["pairs"] == 2
    assert [result[key] for key in ("mask_camera", "whole_grid", "by_range", "ray_iou")] == [None] * 4
    assert result["checkpoint"]["networks"] == ["pose", "depth"] and result["checkpoint"]["provenance"]["steps"] == 7
    text = capsys.readouterr().out
    assert "DEPTH" in text and "EGO MOTION" in text and "OCCUPANCY" not in text
    assert "2 moments of 1 scene," in text


@pytest.mark.medium
def test_second_stage_is_measured_in_depth_and_occupancy_and_pictured(street, checkpoints, tmp_path, capsys):
    report, pictures = tmp_path / "report.json", tmp_path / "pictures"
    arguments = [str(checkpoints / "second.safetensors"), "--dataroot", str(street), "--every", "2"]
    assert command.main([*arguments, "--json", str(report), "--pictures", str(pictures)]) == 0
    result = json.loads(report.read_text())
    assert result["keyframes"] == result["labelled_keyframes"] == 1 and result["notes"] == []
    assert list(result["depth"]["ways"]) == ["rendered", "depth_head", "flat_ground"] and result["ego_motion"] is None
    for mask in ("mask_camera", "mask_camera_and_lidar", "whole_grid"):
        assert 0.0 < result[mask]["states"]["unknown"] < 1.0
        for who in ("model", "flat_ground"):
            assert set(result[mask][who]) == {"iou", "non_ground_iou", "miou", "miou_star"}
        assert "driveable_surface" in result[mask]["class_iou"]
    assert set(result["ray_iou"]) == {"model", "flat_ground", "class_ray_iou"}
    bins = result["reliability"]["bins"]
    assert len(bins) == 10 and sum(each["voxels"] for each in bins) > 10_000
    assert all(each["probability"] is None or each["low"] <= each["probability"] <= each["high"] for each in bins)
    assert set(result["robot"]["truths"]) == {"lidar", "labels"} and result["checkpoint"]["caution"] == 0.5
    text = capsys.readouterr().out
    for word in (
        "mIoU*:",
        "RayIoU:",
        "RELIABILITY",
        "FOR A ROBOT",
        "against lidar",
        "ghosts",
        "cam+lidar",
        "abs_rel:",
        "rmse m",
        "CAM_BACK_LEFT",
    ):
        assert word in text
    (picture,) = pictures.iterdir()
    assert picture.name.startswith("01_synthetic-0001_") and cv2.imread(str(picture)).shape[1] > 2000


@pytest.mark.medium
def test_without_labels_depth_is_measured_and_a_note_says_so(street, checkpoints, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(street, data, ignore=shutil.ignore_patterns("gts"))
    result = evaluate(checkpoints / "second.safetensors", data, every=2)
    assert result["depth"] and result["mask_camera"] is None and result["ray_iou"] is None
    assert result["notes"] == ["occupancy: 1 of 1 keyframes, which have no labels.npz under gts/"]
    files = result["depth"]["ways"]["flat_ground"]["mean"]["abs_rel"]
    shutil.rmtree(data / "depth_full")
    drawn = evaluate(checkpoints / "second.safetensors", data, every=2)["depth"]  # from the lidar: fewer pixels
    assert drawn["ways"]["flat_ground"]["mean"]["abs_rel"] == pytest.approx(files, rel=0.5)
    for scan in data.glob("*/LIDAR_TOP/*"):
        scan.write_bytes(b"")
    assert command.main([str(checkpoints / "second.safetensors"), "--dataroot", str(data)]) == 2
    assert "nothing to compare with" in one_line(capsys)
    (data / "gts" / "synthetic-0001").mkdir(parents=True)
    shutil.rmtree(data / "sweeps")
    result = evaluate(checkpoints / "first.safetensors", data)  # only the other keyframe is left to compare with
    assert result["depth"] is None and result["ego_motion"]["gap_ms"] == pytest.approx(500, abs=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dataroot", "absent"], "absent is not a folder"),
        (["--version", "v1.0-trainval"], "version v1.0-trainval is not in"),
        (["--scene", "scene-0009"], "did you mean scene-0001"),
        (["--split", "mini_vall"], "did you mean mini_val"),
        (["--every", "0"], "at least 1, got 0"),
        (["--json", "absent/report.json"], "no such folder"),
        (["--pictures", "file.txt"], "is a file"),
        (["--device", "abacus"], "expected auto, cpu"),
        (["--caution", "1"], "caution: expected a number between 0 and 1, got 1.0"),
        (["--obstacle-heights", "2", "1"], "expected low < high"),
        (["--robot-width", "0"], "width and path_length > 0"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, expected, checkpoints, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    data = MadeUpDatabase(occupancy=False).write(tmp_path / "data")
    checkpoint = checkpoints / "second.safetensors"
    assert command.main([str(checkpoint), "--dataroot", str(data), *arguments]) == 2
    line = one_line(capsys)
    assert line.startswith("error: ") and expected in line


def test_a_checkpoint_that_is_not_there_or_none_is_said_in_one_line(tmp_path, capsys):
    for name, expected in (("absent.safetensors", "no such checkpoint"), ("last.pt", "not a readable .safetensors")):
        (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 something else")
        assert command.main([str(tmp_path / name), "--dataroot", str(tmp_path)]) == 2
        assert expected in one_line(capsys)


def test_picture_shows_too_near_in_blue_and_too_far_in_red():
    names = ("CAM_A", "CAM_B", "CAM_C", "CAM_D")
    image = np.full((90, 160, 3), 128, np.uint8)
    truth = np.full((90, 160), 10.0, np.float32)
    estimates = dict(zip(names, (5.0, 10.0, 20.0, 20.0), strict=True))
    picture = compose_keyframe(
        KeyframePicture(
            images=dict.fromkeys(names, image),
            depths={name: np.full((45, 80), value, np.float32) for name, value in estimates.items()},
            true_depths={**dict.fromkeys(names, truth), "CAM_D": np.zeros_like(truth)},
        )
    )
    cells = [picture[84 + 34 + j * (180 + 8) + 120, 24 + 3 * (320 + 8) + 160].astype(int) for j in range(4)]
    near, right, far, unknown = cells
    assert near[2] > near[0] + 100 and far[0] > far[2] + 100 and right.min() > 220 and unknown.max() < 60
    assert picture.shape[1] == 2 * 24 + 4 * (320 + 8)  # no occupancy: no room for it
