# SPDX-License-Identifier: Apache-2.0
"""The whole visit, on a real drive as it is and with what is done to it; and by the tool."""

import json
import shutil
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.synthetic_bags import run_tool

from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.data.bag import BagSource
from gaussianocc_core.geometry.plausibility import find_doubts
from gaussianocc_core.onboarding.doctor.examine import judge
from gaussianocc_core.onboarding.doctor.features import find_features, plan_cylinder
from gaussianocc_core.onboarding.doctor.findings import FINE, LOOK, WRONG, describe
from gaussianocc_core.onboarding.doctor.image_opinions import from_images
from gaussianocc_core.onboarding.doctor.images import look_at_images
from gaussianocc_core.onboarding.doctor.picture import doctor_picture
from gaussianocc_core.onboarding.doctor.rotations import exp_rotation
from gaussianocc_core.onboarding.doctor.sampling import choose, sample

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def drive(shared_data):
    source = BagSource(open_index(shared_data / "data" / "kitti_drive_0001", cache=False))
    return source, sample(source.entries(), source.cameras)


@pytest.fixture(scope="module")
def keyframes(shared_data, tmp_path_factory):
    """Seven of a real drive, six cameras."""
    root, bags = shared_data / "data" / "nuscenes_scene0061_kf00-06", tmp_path_factory.mktemp("bags")
    run_tool("nuscenes_to_rosbag.py", "--dataroot", root, "--version", "v1.0-mini", "--no-sweeps", "--output", bags)
    source = BagSource(open_index(bags / "scene-0061", cache=False))
    return source, sample(source.entries(), source.cameras)


def turned(cameras, camera: int, degrees: float):
    T = cameras.T_ego_cam.clone()
    T[camera, :3, :3] = torch.from_numpy(exp_rotation(np.radians([0.0, 0.0, degrees]))).to(T) @ T[camera, :3, :3]
    return replace(cameras, T_ego_cam=T)


def test_a_real_drive_is_fine_and_its_scores_say_what_it_teaches(drive):
    source, sampled = drive
    assert len(choose(source.entries())) == len(sampled.moments) >= 12
    visit = judge("drive", sampled, source.T_world_ego, source.doubts)
    assert visit.diagnosis.verdict == FINE, describe(visit.diagnosis)
    assert not visit.diagnosis.proposals
    scores = {score.name: score.value for score in visit.diagnosis.scores}
    assert set(scores) == {"motion", "parallax", "overlap", "texture", "light"} and scores["overlap"] == 1.0
    picture = doctor_picture(visit)
    green = (np.abs(picture.astype(int) - (60, 220, 90)).sum(axis=2) < 60).sum()
    assert picture.shape[1] > 1000 and green > 500


@pytest.mark.parametrize("degrees", [1.0, -1.0, 3.0])
def test_yaw_of_one_camera_is_found_and_the_proposal_takes_it_back(drive, degrees):
    source, sampled = drive
    wrong = replace(sampled, cameras=turned(sampled.cameras, 0, degrees))
    diagnosis = judge("drive", wrong, source.T_world_ego).diagnosis
    first, second = diagnosis.cameras
    assert (first.verdict, second.verdict) == (WRONG if abs(degrees) > 2 else LOOK, FINE)
    assert [finding.kind for finding in first.findings] == ["rotation"]
    (proposal,) = diagnosis.proposals
    assert proposal.camera == "image_02" and abs(proposal.yaw_pitch_roll[0] + degrees) < 0.5
    assert "proposal, not applied" in describe(diagnosis)


def test_cameras_that_show_nothing_are_fine_only_as_far_as_their_images_go(drive):
    """In the dark of a wall there is nothing to check a calibration by: that is said, not hidden behind a "fine"."""
    source, sampled = drive
    wall = np.full(sampled.cylinders[0].seen.shape, 90, np.uint8)
    plain = lambda shot: replace(shot, grey=wall, features=find_features(wall, sampled.cylinders[0]))  # noqa: E731
    moments = tuple(replace(m, now=tuple(map(plain, m.now)), later=tuple(map(plain, m.later))) for m in sampled.moments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnosis = judge("wall", replace(sampled, moments=moments, strips=()), source.T_world_ego).diagnosis
    assert "image_02: fine (its images; they show too little to check its calibration by)" in describe(diagnosis)


def test_a_delay_of_odometry_is_measured_on_a_real_drive(drive):
    source, sampled = drive

    def late(stamp_ns):
        return source.T_world_ego(stamp_ns - 200_000_000)

    (finding,) = judge("drive", sampled, late).diagnosis.others
    assert (finding.verdict, finding.kind) == (WRONG, "delay") and abs(finding.size - 200) < 20


@pytest.mark.parametrize("seconds", [0.2, -0.2, 0.4])
def test_a_delay_is_measured_where_images_come_at_two_hertz(keyframes, seconds):
    """By small turns and jolts, which the front camera and the others see each about the axes that they know."""
    source, sampled = keyframes

    def late(stamp_ns):
        return source.T_world_ego(stamp_ns - round(1e9 * seconds))

    def with_pose(shots):
        return tuple(replace(shot, T_world_ego=late(shot.stamp_ns)) for shot in shots)

    moments = tuple(replace(m, now=with_pose(m.now), later=with_pose(m.later)) for m in sampled.moments)
    diagnosis = judge("keyframes", replace(sampled, moments=moments), late).diagnosis
    (finding,) = diagnosis.others
    assert (finding.verdict, finding.kind) == (WRONG, "delay") and abs(finding.size - 1000 * seconds) < 80
    assert all(camera.verdict == FINE for camera in diagnosis.cameras)


def test_keyframes_as_they_are_have_no_delay(keyframes):
    source, sampled = keyframes
    visit = judge("keyframes", sampled, source.T_world_ego)
    assert visit.diagnosis.verdict == FINE and not visit.delay.sure and visit.delay.shown > visit.delay.noise


def without_odometry(sampled):
    bare = lambda shots: tuple(replace(shot, T_world_ego=None) for shot in shots)  # noqa: E731
    moments = tuple(replace(m, now=bare(m.now), later=bare(m.later)) for m in sampled.moments)
    return replace(sampled, moments=moments, strips=())


def test_cameras_that_are_not_exposed_at_once_are_not_compared_closely_without_odometry(keyframes):
    """43 ms at 9 m/s: things near by lie up to 8 degrees off."""
    diagnosis = judge("keyframes", without_odometry(keyframes[1]), lambda stamp_ns: None).diagnosis
    assert diagnosis.verdict == FINE and not diagnosis.proposals
    assert any("their images are up to " in n and "without odometry" in n for n in diagnosis.notes)


def test_a_degree_about_the_line_between_two_cameras_shows_without_odometry(drive):
    bare = without_odometry(drive[1])
    assert judge("drive", bare, lambda stamp_ns: None).diagnosis.verdict == FINE
    T = bare.cameras.T_ego_cam.clone()
    T[0, :3, :3] = torch.from_numpy(exp_rotation(np.radians([0.0, 1.0, 0.0]))).to(T) @ T[0, :3, :3]
    wrong = replace(bare, cameras=replace(bare.cameras, T_ego_cam=T))
    diagnosis = judge("drive", wrong, lambda stamp_ns: None).diagnosis
    assert {each.kind for each in diagnosis.findings} == {"rotation"}
    assert all(abs(each.size - 1.0) < 0.2 for each in diagnosis.findings)
    assert any("towards each other by less than 1.5 degrees" in note for note in diagnosis.notes)


def test_a_blur_of_one_pixel_is_seen_beside_a_camera_of_the_same_lens(drive):
    source, sampled = drive
    blurred = read_again(source, sampled, lambda grey: cv2.GaussianBlur(grey, (0, 0), grey.shape[1] / 400))
    facts = look_at_images(blurred, sampled.cameras.T_ego_cam.double().numpy())
    (finding,) = from_images(sampled.cameras, facts)
    assert (finding.about, finding.verdict, finding.kind) == ("image_02", LOOK, "blurred")
    K = sampled.cameras.intrinsics.clone()
    K[1, 0, 0] *= 1.5  # another lens: no measure of sharpness to that degree
    assert from_images(replace(sampled.cameras, intrinsics=K), facts) == []


def test_odometry_in_millimetres_is_named(drive):
    source, sampled = drive

    def longer(stamp_ns):
        T = source.T_world_ego(stamp_ns)
        return None if T is None else np.vstack([np.hstack([T[:3, :3], 1000 * T[:3, 3:]]), T[3:]])

    shots = lambda row: tuple(replace(shot, T_world_ego=longer(shot.stamp_ns)) for shot in row)  # noqa: E731
    moments = tuple(replace(m, now=shots(m.now), later=shots(m.later)) for m in sampled.moments)
    findings = judge("drive", replace(sampled, moments=moments), longer).diagnosis.findings
    assert any("in millimetres it would be" in finding.fix for finding in findings)


def test_swapped_cameras_and_a_body_frame_are_told_apart(drive):
    source, sampled = drive
    T = sampled.cameras.T_ego_cam
    swapped = replace(sampled.cameras, T_ego_cam=T.flip(0))
    kinds = {f.kind for f in judge("drive", replace(sampled, cameras=swapped), source.T_world_ego).diagnosis.findings}
    assert kinds == {"swapped"}
    body = T.clone()
    body[0, :3, :3] = T[0, :3, :3] @ torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]).to(T)
    cameras = replace(sampled.cameras, T_ego_cam=body)
    diagnosis = judge("drive", replace(sampled, cameras=cameras), source.T_world_ego, find_doubts(cameras)).diagnosis
    assert [camera.verdict for camera in diagnosis.cameras] == [WRONG, FINE]


def test_a_camera_that_repeats_its_image_and_one_that_is_dark_are_named(drive):
    source, sampled = drive
    moments = tuple(
        replace(
            m,
            now=(m.now[0], replace(m.now[1], grey=(m.now[1].grey * 0.03).astype(np.uint8))),
            later=(replace(m.now[0], stamp_ns=m.later[0].stamp_ns, T_world_ego=m.later[0].T_world_ego), m.later[1])
            if m.later
            else (),
        )
        for m in sampled.moments
    )
    first, second = judge("drive", replace(sampled, moments=moments), source.T_world_ego).diagnosis.cameras
    assert "frozen" in {each.kind for each in first.findings} and "dark" in {each.kind for each in second.findings}


def read_again(source, sampled, change):
    """With the first camera's images changed."""

    def changed(shot, image):
        grey = sampled.cylinders[0].unroll(change(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))
        return replace(shot, grey=grey, features=find_features(grey, sampled.cylinders[0]))

    images = {entry.frame.camera_stamps_ns[0]: entry for entry in source.entries()}
    load = lambda shot: images[shot.stamp_ns].load().images[0]  # noqa: E731
    moments = tuple(
        replace(
            m,
            now=(changed(m.now[0], load(m.now[0])), *m.now[1:]),
            later=(changed(m.later[0], load(m.later[0])), *m.later[1:]),
        )
        for m in sampled.moments
    )
    return replace(sampled, moments=moments)


def test_drops_on_a_lens_are_found_and_on_no_other(drive):
    source, sampled = drive

    def drops(grey):
        cover = np.zeros(grey.shape, np.float32)
        for u, v in ((120, 72), (246, 50)):
            cv2.circle(cover, (u, v), 14, 1.0, -1)
        cover = cv2.GaussianBlur(cover, (0, 0), 2.5)
        return (grey * (1 - cover) + 70 * cover).astype(np.uint8)

    first, second = look_at_images(read_again(source, sampled, drops), sampled.cameras.T_ego_cam.double().numpy())
    assert first.dirty > 0.005 and second.dirty == 0.0
    y, x = np.argwhere(first.dirt).mean(axis=0)
    assert first.dirt.any() and 0 < y < first.dirt.shape[0] and 0 < x < first.dirt.shape[1]
    behind = replace(
        sampled.cylinders[0],
        seen=sampled.cylinders[0].seen
        & ~cv2.dilate(first.dirt.astype(np.uint8), np.ones((25, 25), np.uint8)).astype(bool),
    )
    masked = replace(read_again(source, sampled, drops), cylinders=(behind, sampled.cylinders[1]))
    assert look_at_images(masked, sampled.cameras.T_ego_cam.double().numpy())[0].dirty == 0.0


def test_a_camera_that_is_dark_or_has_a_wrong_focal_length_speaks_not_against_the_other(drive):
    source, sampled = drive
    K = sampled.cameras.intrinsics.clone()
    K[0, 0, 0] *= 1.5
    K[0, 1, 1] *= 1.5
    cameras = replace(sampled.cameras, intrinsics=K)
    cylinder = plan_cylinder(cameras, 0)
    longer = replace(sampled, cameras=cameras, cylinders=(cylinder, sampled.cylinders[1]))

    def again(shot, image):
        grey = cylinder.unroll(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        return replace(shot, grey=grey, features=find_features(grey, cylinder))

    images = {entry.frame.camera_stamps_ns[0]: entry for entry in source.entries()}
    read = lambda row: (again(row[0], images[row[0].stamp_ns].load().images[0]), *row[1:])  # noqa: E731
    moments = tuple(replace(m, now=read(m.now), later=read(m.later)) for m in sampled.moments)
    diagnosis = judge("drive", replace(longer, moments=moments, strips=()), source.T_world_ego).diagnosis
    assert [camera.verdict for camera in diagnosis.cameras] == [WRONG, FINE]
    assert [finding.kind for finding in diagnosis.cameras[0].findings] == ["focal length"]


def test_the_tool_prints_json_for_machines_and_draws_what_it_saw(shared_data, tmp_path, capsys):
    picture = tmp_path / "look.png"
    bag = shutil.copytree(shared_data / "data" / "kitti_drive_0001", tmp_path / "drive")  # an index is kept beside it
    assert run_tool("inspect_bag.py", bag, "--json", "--picture", picture) == 0
    (diagnosis,) = json.loads(capsys.readouterr().out)
    assert diagnosis["verdict"] == FINE and [each["name"] for each in diagnosis["cameras"]] == ["image_02", "image_03"]
    assert cv2.imread(str(tmp_path / "look_doctor.png")) is not None
