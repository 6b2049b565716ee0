# SPDX-License-Identifier: Apache-2.0
"""The checks of images while a robot drives, on a real drive and what is done to its images."""

import cv2
import numpy as np
import pytest

from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.data.bag import BagSource
from gaussianocc_core.onboarding.doctor.features import plan_cylinder
from gaussianocc_core.onboarding.doctor.image_facts import find_dirt, find_passing
from gaussianocc_core.onboarding.doctor.live import LiveImages

pytestmark = pytest.mark.medium
SAME = lambda image: image  # noqa: E731


@pytest.fixture(scope="module")
def drive(shared_data):
    """A look every 0.4 s: poses and images of two cameras."""
    source = BagSource(open_index(shared_data / "data" / "kitti_drive_0001", cache=False))
    entries = source.entries()[::3]
    poses = [source.T_world_ego(entry.frame.camera_stamps_ns[0]) for entry in entries]
    return source.cameras, [entry.load().images for entry in entries], poses


def kinds(drive, first=SAME, posed=True, **options):
    """What is said of each camera at the end of the drive, the first one's images changed."""
    cameras, sets, poses = drive
    live = LiveImages(**options)
    for images, pose in zip(sets, poses, strict=True):
        said = live.look((first(images[0]), images[1]), cameras, pose if posed else None)
    return [{each.kind for each in said[name]} for name in cameras.names]


def drops(image):
    cover = np.zeros(image.shape[:2], np.float32)
    for u, v in ((120, 72), (246, 50)):
        cv2.circle(cover, (u, v), 14, 1.0, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), 2.5)[..., None]
    return (image * (1 - cover) + 70 * cover).astype(np.uint8)


def test_a_real_drive_is_fine(drive):
    assert kinds(drive) == [set(), set()] == kinds(drive, posed=False)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda image: (0.03 * image).astype(np.uint8), "dark"),
        (lambda image: np.clip(image.astype(float) * 4, 0, 255).astype(np.uint8), "burnt"),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 2.0), "blurred"),
        (drops, "dirt"),
    ],
)
def test_what_is_wrong_with_one_camera_is_said_of_it_alone(drive, change, kind):
    first, second = kinds(drive, change)
    assert kind in first and second == set()


def test_a_camera_that_repeats_its_image_is_named(drive):
    image = drive[1][0][0]
    assert "frozen" in kinds(drive, lambda _: image)[0]


def test_images_of_half_the_size_are_judged_as_well(drive):
    cameras, sets, poses = drive
    small = [tuple(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in s) for s in sets]
    assert kinds((cameras, small, poses)) == [set(), set()]
    assert "dark" in kinds((cameras, small, poses), lambda image: image // 40)[0]


def test_a_smooth_wall_before_a_robot_that_stands_is_no_blur(drive):
    """One view says nothing of a lens, however often it is seen."""
    cameras, sets, _ = drive
    wall = cv2.GaussianBlur(sets[0][0], (0, 0), 4.0)
    assert kinds((cameras, [(wall, images[1]) for images in sets], [None] * len(sets)))[0] <= {"frozen"}


def test_a_mask_keeps_the_robot_from_being_taken_for_dirt(drive):
    cameras, sets, _ = drive
    spots = drops(np.full_like(sets[0][0], 255))[..., 0] < 250
    mask = cv2.dilate(spots.astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
    assert kinds(drive, drops, static_masks={cameras.names[0]: mask})[0] == set()


def test_straight_ahead_the_end_of_the_street_is_no_dirt(drive):
    """Of a straight drive nothing far ahead is seen elsewhere; beside it, and in a curve, all is."""
    cameras, _, _ = drive
    cylinder, T_ego_cam = plan_cylinder(cameras, 0), cameras.T_ego_cam[0].double().numpy()
    straight, curve = [], []
    for n in range(20):
        pose = np.eye(4)
        pose[0, 3] = 1.0 * n
        straight.append(pose)
        turned = pose.copy()
        a = np.radians(2.0 * n)
        turned[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        curve.append(turned)
    passing = find_passing(cylinder, T_ego_cam, straight)
    middle = cylinder.places(np.array([[0.0, 0.0, 1.0]]))[0].round().astype(int)
    assert not passing[middle[1], middle[0]] and passing.mean() > 0.6
    assert find_passing(cylinder, T_ego_cam, curve).all()

    rng = np.random.default_rng(0)
    greys = []
    for _ in straight:
        grey = cv2.GaussianBlur(rng.integers(0, 255, cylinder.seen.shape).astype(np.uint8), (0, 0), 3) * 2
        cv2.circle(grey, tuple(int(each) for each in middle), 9, 60, -1)
        greys.append(grey)
    assert find_dirt(greys, cylinder.seen).any() and not find_dirt(greys, cylinder.seen, passing).any()


def test_the_sky_between_houses_is_no_dirt_and_mud_on_it_is(drive):
    cameras, _, _ = drive
    seen, rng = plan_cylinder(cameras, 0).seen, np.random.default_rng(0)

    def spot(level, around):
        greys = []
        for _ in range(12):
            grey = (around + 200 * rng.standard_normal(seen.shape)).clip(0, 255).astype(np.uint8)
            grey = cv2.GaussianBlur(grey, (0, 0), 3.0)
            cv2.circle(grey, (seen.shape[1] // 2, seen.shape[0] // 2), 9, level, -1)
            greys.append(grey)
        return find_dirt(greys, seen).any()

    assert not spot(235, 120) and spot(60, 120) and spot(60, 190)
