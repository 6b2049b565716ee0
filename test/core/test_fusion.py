# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch

from gaussianocc_core.errors import DatasetError, PredictionError
from gaussianocc_core.fusion import TemporalFusion
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.geometry.voxels import centers
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, OCCLUDED, PALETTE, UNOBSERVED
from gaussianocc_core.models.visibility import columns_beyond, leave_unknown, passed_voxels, plan_sight
from gaussianocc_core.navigation.map_file import write_octomap, write_ply
from gaussianocc_core.types import Cameras, OccupancyPrediction, VoxelGrid

GRID = VoxelGrid((-8.0, -8.0, -1.0), 0.5, (32, 32, 8))
CAR, TREE = CLASS_ID["car"], CLASS_ID["vegetation"]
S = 1_000_000_000


def prediction(labels, confidence=1.0):
    confidence = np.where(labels == UNOBSERVED, 0.0, confidence).astype(np.float32)
    return OccupancyPrediction(
        labels.astype(np.uint8), confidence, labels != UNOBSERVED, GRID, CLASS_NAMES, True, ("front",), "made up"
    )


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0, pitch=0.0, roll=0.0):
    (a, b, c), (d, e, f) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    R = np.array([[a, -d, 0], [d, a, 0], [0, 0, 1]]) @ np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    return make_transform(R @ np.array([[1, 0, 0], [0, c, -f], [0, f, c]]), np.array([x, y, z]))


def world(points):
    """A class at each place of a world that is the same from wherever it is seen: blocks of 2 m, and free between."""
    cell = np.floor(points / 2.0).astype(int)
    number = (cell @ np.array([7, 13, 5])) % 11
    return np.where(number == 3, CAR, np.where(number == 7, TREE, FREE))


def seen_from(T):
    points = centers(GRID).numpy().astype(np.float64)
    return world(points @ T[:3, :3].T + T[:3, 3])


def test_one_prediction_comes_back_as_it_was_with_less_certainty():
    labels = seen_from(pose())
    labels[:4] = UNOBSERVED
    fused = TemporalFusion(GRID, CLASS_NAMES).add(prediction(labels), pose(), 0)
    np.testing.assert_array_equal(fused.labels, labels)
    np.testing.assert_array_equal(fused.observed, labels != UNOBSERVED)
    occupied = (labels != FREE) & (labels != UNOBSERVED)
    np.testing.assert_allclose(fused.confidence[occupied], 0.7, atol=1e-5)
    np.testing.assert_allclose(fused.confidence[labels == FREE], 0.7, atol=1e-5)
    assert (fused.confidence[:4] == 0).all() and fused.cameras == ("front",)


@pytest.mark.parametrize("pitch", [0.0, 0.04])
def test_a_world_that_stands_still_stays_where_it_is_while_the_robot_drives_and_turns(pitch):
    fusion = TemporalFusion(GRID, CLASS_NAMES)
    for n in range(60):
        T = pose(0.37 * n, 0.11 * n, 0.02 * n, 0.05 * n, pitch * np.sin(n), 0.5 * pitch)
        fused = fusion.add(prediction(seen_from(T)), T, n * S // 10)
    truth = seen_from(T)
    # Centres move by up to half a voxel between the two rasters: only voxels beside a block's border can differ.
    points = centers(GRID).numpy().astype(np.float64) @ T[:3, :3].T + T[:3, 3]
    inner = np.abs((points / 2.0) % 1.0 - 0.5).max(axis=-1) < 0.5 - 0.45 / 2.0
    known = inner & fused.observed
    assert known.mean() > 0.9 * inner.mean() and inner.mean() > 0.1
    assert (fused.labels == truth)[known].mean() > 0.995
    assert fusion.resets == 0


def test_over_a_long_drive_the_map_agrees_with_a_dictionary_of_voxels():
    fusion, known = TemporalFusion(GRID, CLASS_NAMES, decay=0.0), {}
    rng, size = np.random.default_rng(0), GRID.voxel_size
    index = np.argwhere(np.ones(GRID.shape, bool))
    place = np.zeros(3)
    for n in range(120):
        place = place + size * rng.integers(-3, 4, 3) * (1, 1, 0.34)  # whole voxels, now and then a step up
        place[2] = size * round(place[2] / size)
        labels = np.where(rng.random(GRID.shape) < 0.02, CAR, UNOBSERVED)
        fused = fusion.add(prediction(labels), pose(*place), n * S)
        offset = np.round(place / size).astype(int) + np.round(np.array(GRID.origin) / size).astype(int)
        hit = labels[tuple(index.T)] == CAR
        for voxel in map(tuple, index[hit] + offset):
            known[voxel] = n
        if n % 20 == 19:
            # What the window has left is forgotten; what it never left must be there, and nothing else.
            expected = np.array([tuple(v) in known for v in index + offset]).reshape(GRID.shape)
            assert not ((fused.labels == CAR) & ~expected).any()
            fresh = np.array([n - known.get(tuple(v), -99) < 2 for v in index + offset]).reshape(GRID.shape)
            assert (fused.labels[fresh] == CAR).all() and fresh.any()


def test_an_error_of_one_moment_is_outvoted_and_so_is_a_wrong_class():
    fusion = TemporalFusion(GRID, CLASS_NAMES)
    right = np.full(GRID.shape, FREE)
    right[20, 20, 2] = CAR
    for n in range(4):
        fusion.add(prediction(right), pose(), n * S // 10)
    wrong = right.copy()
    wrong[10, 10, 2], wrong[20, 20, 2] = TREE, TREE
    fused = fusion.add(prediction(wrong), pose(), S // 2)
    assert (fused.labels[10, 10, 2], fused.labels[20, 20, 2]) == (FREE, CAR)


def test_what_moved_away_is_gone_after_three_looks():
    fusion = TemporalFusion(GRID, CLASS_NAMES)
    there, gone = np.full(GRID.shape, FREE), np.full(GRID.shape, FREE)
    there[20, 20, 2] = CAR
    for n in range(50):
        fusion.add(prediction(there), pose(), n * S // 10)
    for n in range(50, 53):
        fused = fusion.add(prediction(gone), pose(), n * S // 10)
    assert fused.labels[20, 20, 2] == FREE


def test_what_is_not_seen_again_stays_for_a_while_and_then_is_forgotten():
    fusion = TemporalFusion(GRID, CLASS_NAMES, decay=2.0)
    labels = np.full(GRID.shape, UNOBSERVED)
    labels[20, 20, 2] = CAR
    fusion.add(prediction(labels), pose(), 0)
    blind = prediction(np.full(GRID.shape, UNOBSERVED))
    fused = fusion.add(blind, pose(1.0), S)  # the robot has driven two voxels on
    assert fused.labels[18, 20, 2] == CAR and fused.observed.sum() == 1
    assert fusion.add(blind, pose(1.0), 4 * S).observed.sum() == 1  # evidence of 0.85 fades to 0.1 in 2.1 times 2 s
    assert fusion.add(blind, pose(1.0), 5 * S).observed.sum() == 0


@pytest.mark.parametrize("T, stamp", [(pose(), -S), (pose(x=1000.0), S)])
def test_a_clock_that_steps_back_or_a_pose_that_jumps_forgets(T, stamp):
    fusion = TemporalFusion(GRID, CLASS_NAMES)
    fusion.add(prediction(np.full(GRID.shape, CAR)), pose(), 0)
    fused = fusion.add(prediction(np.full(GRID.shape, UNOBSERVED)), T, stamp)
    assert fused.observed.sum() == 0 and fusion.resets == 1


def test_reset_forgets_and_is_not_counted():
    fusion = TemporalFusion(GRID, CLASS_NAMES)
    fusion.add(prediction(np.full(GRID.shape, CAR)), pose(), 0)
    fusion.reset()
    assert fusion.add(prediction(np.full(GRID.shape, UNOBSERVED)), pose(), 1).observed.sum() == 0
    assert fusion.resets == 0


def test_certainty_counts_and_evidence_does_not_grow_beyond_the_limits():
    fusion = TemporalFusion(GRID, CLASS_NAMES, decay=0.0)
    labels = np.full(GRID.shape, CAR)
    sure, unsure = (TemporalFusion(GRID, CLASS_NAMES).add(prediction(labels, c), pose(), 0) for c in (1.0, 0.5))
    assert (sure.confidence > unsure.confidence + 0.05).all()
    for n in range(100):
        fused = fusion.add(prediction(labels), pose(), n)
    np.testing.assert_allclose(fused.confidence, 0.9, atol=1e-4)


def test_impossible_settings_and_another_grid_are_refused():
    for settings in ({"hit": 0.4}, {"miss": 0.6}, {"doubt": 0.4}, {"decay": -1.0}, {"limits": (0.6, 0.9)}):
        with pytest.raises(ValueError, match="expected (0 < miss|one below)"):
            TemporalFusion(GRID, CLASS_NAMES, **settings)
    other = replace(prediction(np.full(GRID.shape, CAR)), grid=VoxelGrid())
    with pytest.raises(ValueError, match="prediction over"):
        TemporalFusion(GRID, CLASS_NAMES).add(other, pose(), 0)


def test_where_evidence_cancels_out_what_is_seen_now_holds():
    fusion = TemporalFusion(GRID, CLASS_NAMES, hit=0.6, miss=0.4, decay=0.0)
    fusion.add(prediction(np.full(GRID.shape, FREE)), pose(), 0)
    fused = fusion.add(prediction(np.full(GRID.shape, CAR)), pose(), S)
    assert (fused.labels == CAR).all() and fused.observed.all()


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("z", [0.0, 0.2, 0.33])
def test_heights_stay_where_the_rasters_borders_do_not_meet(z, quarter_turns):
    # The default grid begins 2.5 voxels below the robot: at height 0 its centres lie on multiples of the voxel size.
    grid = VoxelGrid((-4.0, -4.0, -1.0), 0.4, (20, 20, 8))
    labels = np.random.default_rng(0).choice([FREE, CAR, TREE], grid.shape).astype(np.uint8)
    seen = replace(prediction(labels), grid=grid)
    fused = TemporalFusion(grid, CLASS_NAMES).add(seen, pose(z=z, yaw=0.5 * np.pi * quarter_turns), 0)
    np.testing.assert_array_equal(fused.labels, labels)


def test_level_ground_keeps_its_thickness_while_the_robot_heaves():
    grid = VoxelGrid((-4.0, -4.0, -1.0), 0.4, (20, 20, 8))
    labels = np.full(grid.shape, FREE, np.uint8)
    labels[:, :, 2] = CLASS_ID["driveable_surface"]
    fusion = TemporalFusion(grid, CLASS_NAMES)
    for n in range(60):
        T = pose(0.37 * n, 0.11 * n, 0.1 * np.sin(n), 0.12 * n)  # less than half a voxel around the first height
        fused = fusion.add(replace(prediction(labels), grid=grid), T, n * S // 10)
    np.testing.assert_array_equal(fused.labels, labels)


class Street:
    """A camera that looks along x from 1 m above the ground at a wall 6.25 m ahead, with a van before it or not: what
    it sees of each pixel and, as a decoder would say, of each voxel."""

    WALL, VAN = slice(28, 29), slice(20, 22)  # voxels along x: 6 to 6.5 m and 2 to 3 m ahead

    def __init__(self) -> None:
        T = np.eye(4)
        T[:3, :3] = [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]
        T[2, 3] = 1.0
        K = torch.tensor([[[60.0, 0.0, 80.0], [0.0, 60.0, 48.0], [0.0, 0.0, 1.0]]])
        self.cameras = Cameras(("front",), K, torch.from_numpy(T)[None].float(), (160,), (96,))
        self.lines = plan_sight(self.cameras, GRID, np.ones((1, 96, 160), dtype=bool), 2)
        rays = (np.stack(np.meshgrid(np.arange(80), np.arange(48)), axis=-1) * 2.0 + 1.0 - (80, 48)) / 60.0
        # The van is 2 m wide and 1.6 m high; its back is 2 m ahead.
        self.van_pixels = (np.abs(rays[..., 0] * 2.0) < 1.0) & (1.0 - rays[..., 1] * 2.0 < 1.6)

    def see(self, van: bool) -> OccupancyPrediction:
        depth = np.where(van & self.van_pixels, 2.0, 6.0)[None]
        passed = passed_voxels(self.lines, (1.0 / depth).astype(np.float32), np.full(depth.shape, np.log(0.01)))
        labels = np.full(GRID.shape, FREE, np.uint8)
        hidden = self.lines.centred & ~passed
        labels[self.WALL] = np.where(hidden[self.WALL] & van & self.behind()[self.WALL], FREE, CLASS_ID["manmade"])
        if van:
            labels[self.VAN, 14:18, :5] = CAR
        confidence = np.ones(GRID.shape, np.float32)
        observed = leave_unknown(labels, confidence, self.lines.centred, passed, columns_beyond(GRID, 0.0), CLASS_NAMES)
        return OccupancyPrediction(labels, confidence, observed, GRID, CLASS_NAMES, True, ("front",), "made up")

    def behind(self) -> np.ndarray:
        """Voxels that the van hides: behind it, on rays through its back."""
        x, y, z = np.moveaxis(centers(GRID).numpy(), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            column, row = np.floor((60 * -y / x + 80) / 2), np.floor((60 * (1.0 - z) / x + 48) / 2)
        inside = (x > 3.0) & (column >= 0) & (column < 80) & (row >= 0) & (row < 48)
        found = np.zeros(GRID.shape, dtype=bool)
        found[inside] = self.van_pixels[row[inside].astype(int), column[inside].astype(int)]
        return found


def test_what_left_is_cleared_by_rays_and_what_it_hid_is_found():
    street, fusion = Street(), TemporalFusion(GRID, CLASS_NAMES)
    hidden = street.behind()
    before, between = (23, 16, 3), (26, 16, 3)  # 3.75 and 5.25 m ahead, behind the van's back
    assert hidden[before] and hidden[between]
    for n in range(20):
        fused = fusion.add(street.see(van=True), pose(), n * S // 10)
    assert fused.labels[20, 16, 2] == CAR and fused.labels[before] == fused.labels[between] == OCCLUDED
    assert fused.labels[28, 16, 3] == OCCLUDED  # the wall
    assert fused.labels[17, 16, 3] == FREE and fused.labels[26, 8, 3] == FREE  # before the van, and beside it
    for n in range(20, 25):  # half a second
        fused = fusion.add(street.see(van=False), pose(), n * S // 10)
    assert not (fused.labels == CAR).any()
    assert fused.labels[20, 16, 2] == fused.labels[before] == fused.labels[between] == FREE
    assert fused.labels[28, 16, 3] == CLASS_ID["manmade"]


def test_what_is_hidden_by_what_came_is_unknown_and_what_was_found_there_stays():
    street, fusion = Street(), TemporalFusion(GRID, CLASS_NAMES)
    for n in range(20):
        fused = fusion.add(street.see(van=False), pose(), n * S // 10)
    between = (26, 16, 3)
    assert fused.labels[between] == FREE and fused.labels[28, 16, 3] == CLASS_ID["manmade"]
    for n in range(20, 24):
        fused = fusion.add(street.see(van=True), pose(), n * S // 10)
    assert fused.labels[20, 16, 2] == CAR and fused.labels[between] == OCCLUDED
    assert fused.labels[28, 16, 3] == CLASS_ID["manmade"]  # walls do not leave while nobody looks
    assert fused.observed[between] and fused.confidence[between] == 0.0


def test_without_doubt_free_stays_free_where_it_is_hidden_and_hidden_never_becomes_occupied():
    street, sure = Street(), TemporalFusion(GRID, CLASS_NAMES, doubt=0.5, decay=0.0)
    for n in range(5):
        sure.add(street.see(van=False), pose(), n * S // 10)
    for n in range(5, 50):
        fused = sure.add(street.see(van=True), pose(), n * S // 10)
    assert fused.labels[26, 16, 3] == FREE
    doubtful = TemporalFusion(GRID, CLASS_NAMES, doubt=0.99, decay=0.0)
    for n in range(50):
        fused = doubtful.add(prediction(np.full(GRID.shape, OCCLUDED), 0.0), pose(), n)
    assert (fused.labels == OCCLUDED).all()


def test_all_that_is_known_stands_in_a_map_of_the_fixed_frame():
    """Each voxel of the window is where the world is, also after the window has wrapped around."""
    fusion = TemporalFusion(GRID, CLASS_NAMES, decay=0.0)
    assert fusion.snapshot() is None
    for i in range(12):
        fusion.add(prediction(seen_from(pose(x=1.0 * i))), pose(x=1.0 * i), i * S)
    found = fusion.snapshot()
    assert found.stamp_ns == 11 * S and found.grid.voxel_size == GRID.voxel_size
    known = found.labels != UNOBSERVED
    assert known.sum() > 1.2 * np.prod(GRID.shape)  # more than one moment shows
    places = np.array(found.grid.origin) + (np.argwhere(known) + 0.5) * found.grid.voxel_size
    assert (found.labels[known] == world(places)).mean() > 0.99
    assert (found.confidence[known] > 0.5).all() and (found.confidence[~known] == 0).all()
    fusion.reset()
    assert fusion.snapshot() is None


def test_a_map_is_written_as_points_with_their_classes(tmp_path):
    labels = np.full((3, 2, 2), FREE, np.uint8)
    labels[2, 1, 0], labels[0, 0, 1], labels[1, 0, 0], labels[1, 1, 1] = CAR, TREE, UNOBSERVED, OCCLUDED
    grid = VoxelGrid((10.0, -1.0, 0.0), 0.5, (3, 2, 2))
    path = tmp_path / "map.ply"
    assert write_ply(path, labels, np.full(labels.shape, 0.75, np.float32), grid, CLASS_NAMES, "odom") == 2
    head, body = path.read_bytes().split(b"end_header\n")
    assert b"element vertex 2\nproperty float x\n" in head and b"comment frame odom\n" in head
    points = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("label", "u1"), ("confidence", "<f4")])
    assert points["xyz"].tolist() == [[10.25, -0.75, 0.75], [11.25, -0.25, 0.25]]
    assert points["label"].tolist() == [TREE, CAR] and (points["confidence"] == 0.75).all()
    assert points["rgb"].tolist() == PALETTE[[TREE, CAR]].tolist()
    with pytest.raises(DatasetError, match="line break"):
        write_ply(path, labels, np.zeros(labels.shape, np.float32), grid, CLASS_NAMES, "a\nb")


@pytest.mark.parametrize(
    "origin, resolution, shift",
    [
        ((10.0, -1.0, 0.0), 0.5, 0.0),  # cells begin where voxels do
        ((10.25, -1.0, -0.75), 0.25, 0.0),  # half a voxel beside: eight cells a voxel
        ((10.1, -1.0, 0.0), 0.25, -0.1),  # the nearest that there is
    ],
)
def test_octomap_reads_the_map_with_free_and_unknown_space(tmp_path, origin, resolution, shift):
    octomap = pytest.importorskip("octomap", reason="no octomap-python")
    labels = np.random.default_rng(0).choice(np.array([CAR, TREE, FREE, UNOBSERVED, OCCLUDED], np.uint8), (9, 8, 7))
    grid = VoxelGrid(origin, 0.5, labels.shape)
    path = tmp_path / "map.bt"
    assert write_octomap(path, labels, grid, CLASS_NAMES) == resolution
    assert path.read_bytes().startswith(b"# Octomap OcTree binary file\n")
    tree = octomap.OcTree(bytes(path))
    assert tree.getResolution() == resolution
    places = np.array(origin) + (np.argwhere(np.ones(labels.shape, bool)) + 0.5) * 0.5
    expected = np.where(labels == FREE, 0, np.where(labels > FREE, -1, 1)).ravel()
    for corner in np.argwhere(np.ones((2, 2, 2), bool)) - 0.5:  # 0.2 m from the centre to every side
        assert np.array_equal(tree.getLabels(places + [shift, 0.0, 0.0] + 0.4 * corner), expected)
    beside = places - np.array([9 * 0.5, 0.0, 0.0])
    assert (tree.getLabels(beside) == -1).all()
    with pytest.raises(DatasetError, match="too far"):
        write_octomap(path, labels, VoxelGrid((-20000.0, 0.0, 0.0), 0.5, labels.shape), CLASS_NAMES)


@pytest.mark.parametrize("origin, size", [((-1000.0, -1000.0, -1.0), 0.4), ((-1e5, -1e5, -1.0), 0.4)])
def test_a_grid_that_reaches_too_far_is_refused_before_memory_is_taken(origin, size):
    with pytest.raises(PredictionError, match="switch fusion off"):
        TemporalFusion(VoxelGrid(origin, size, (200, 200, 16)), CLASS_NAMES)
