# SPDX-License-Identifier: Apache-2.0
"""What becomes of obstacles in Nav2's layers with config/ros/nav2_costmap.yaml: they appear, move, leave, are hidden.

The scene is made of voxels. Depth maps are ray-cast through it; from them the package's own code tells free from hidden
and makes the messages. The layers are modelled (support/nav2_costmap.py).
"""

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from support.nav2_costmap import LETHAL, Observation, ObstacleLayer, VoxelLayer
from support.rigs import ring

from gaussianocc_core.bags.messages import decode_cloud
from gaussianocc_core.geometry.cameras import pixel_rays
from gaussianocc_core.geometry.raymarch import march_labels
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.geometry.voxels import locate
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, OCCLUDED
from gaussianocc_core.models.visibility import (
    columns_beyond,
    leave_unknown,
    observed_voxels,
    passed_voxels,
    plan_sight,
)
from gaussianocc_core.navigation.clearing import passed_rays
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_ros import conversions
from gaussianocc_ros.clearing import encode_ends

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "config/ros/nav2_costmap.yaml").read_text())["local_costmap"]["local_costmap"]
LOCAL = CONFIG["ros__parameters"]
SHARED = LOCAL["voxel_layer"]
SOURCES = SHARED["observation_sources"].split()
GRID = VoxelGrid((-20.0, -20.0, -1.0), 0.4, (100, 100, 16))
RULE = Traversability()
STRIDE = 2
LOG_ERROR = float(np.log(0.01))  # of depth; more makes more voxels doubtful
CAMERAS = ring(width=320, height=240, fov_deg=80.0)
LINES = plan_sight(CAMERAS, GRID, np.ones((6, 240, 320), bool), STRIDE)
SEEN = observed_voxels(CAMERAS, GRID, np.ones((6, 240, 320), bool))


class Box:
    def __init__(self, x, y, length, width, height, name="car"):
        """x, y: centre; m, ego frame. It stands on the ground."""
        self.low, self.high = (
            np.array([x - length / 2, y - width / 2, 0.2]),
            np.array([x + length / 2, y + width / 2, height]),
        )
        self.label = CLASS_ID[name]

    def fill(self, labels):
        first, _ = locate(GRID, self.low[None] + 1e-6)
        last, _ = locate(GRID, self.high[None] - 1e-6)
        labels[tuple(slice(a, b + 1) for a, b in zip(first[0], last[0], strict=True))] = self.label


def see(*boxes):
    """The published prediction of a level road with these boxes on it, and nothing else."""
    truth = np.full(GRID.shape, FREE, np.uint8)
    truth[:, :, :3] = CLASS_ID["driveable_surface"]  # up to z = 0.2 m
    for box in boxes:
        box.fill(truth)
    height, width = 240 // STRIDE, 320 // STRIDE
    K = CAMERAS.intrinsics.clone()
    K[:, :2] /= STRIDE
    rays = pixel_rays(K, width, height).numpy()
    met, depth = np.zeros(GRID.shape, bool), np.empty((6, height, width))
    for n, T in enumerate(CAMERAS.T_ego_cam.numpy()):
        along = rays[n].reshape(-1, 3) @ T[:3, :3].T  # z = 1, so distances are z-depth
        found = march_labels(T[:3, 3], along, truth, GRID)
        met[tuple(found.index[found.hit].T)] = True
        depth[n] = np.where(found.hit, found.entry, 200.0).reshape(height, width)
    passed = passed_voxels(LINES, (1.0 / depth).astype(np.float32), np.full(depth.shape, LOG_ERROR, np.float32))
    labels = np.where(met, truth, np.uint8(FREE))
    confidence = np.ones(GRID.shape, np.float32)
    observed = leave_unknown(labels, confidence, SEEN, passed, columns_beyond(GRID, 0.0), CLASS_NAMES)
    return OccupancyPrediction(labels, confidence, observed, GRID, CLASS_NAMES, True, CAMERAS.names, "made up")


def observe(prediction, clearing=True):
    """The observations of all sources; base_link is where odom is."""
    obstacles = decode_cloud(conversions.encode_obstacles(prediction, 0, "base_link", RULE))
    settings = SHARED["obstacles"]
    found = [_observation(np.zeros(3), obstacles, {**settings, "clearing": settings["clearing"] if clearing else True})]
    for i, source in enumerate(name for name in SOURCES if name != "obstacles" and clearing):
        T = CAMERAS.T_ego_cam[i].numpy()
        cloud = decode_cloud(encode_ends(passed_rays(prediction, CAMERAS, i, RULE), invert_matrix(T), 0, "camera"))
        points = np.stack([cloud[axis] for axis in "xyz"], axis=-1) @ T[:3, :3].T + T[:3, 3]
        found.append(_observation(T[:3, 3], points, SHARED[source]))
    return found


def _observation(origin, points, settings):
    points = points if points.dtype.names is None else np.stack([points[axis] for axis in "xyz"], axis=-1)
    names = Observation.__dataclass_fields__
    return Observation(origin, points.reshape(-1, 3), **{k: v for k, v in settings.items() if k in names})


@pytest.fixture(params=["voxel", "obstacle"])
def layer(request):
    cells = round(LOCAL["width"] / LOCAL["resolution"])
    common = {
        "size": (cells, cells),
        "resolution": LOCAL["resolution"],
        "origin": (-LOCAL["width"] / 2, -LOCAL["height"] / 2),
        "min_obstacle_height": SHARED["min_obstacle_height"],
        "max_obstacle_height": SHARED["max_obstacle_height"],
    }
    if request.param == "obstacle":
        return ObstacleLayer(**common)
    names = ("origin_z", "z_resolution", "z_voxels", "unknown_threshold", "mark_threshold")
    return VoxelLayer(**common, **{name: SHARED[name] for name in names})


def lethal_in(layer, box):
    """Lethal cells within the box, and all others."""
    y, x = np.nonzero(layer.cells == LETHAL)
    x, y = layer.origin[0] + (x + 0.5) * layer.resolution, layer.origin[1] + (y + 0.5) * layer.resolution
    inside = (np.abs(x - (box.low + box.high)[0] / 2) <= (box.high - box.low)[0] / 2 + 0.21) & (
        np.abs(y - (box.low + box.high)[1] / 2) <= (box.high - box.low)[1] / 2 + 0.21
    )
    return int(inside.sum()), int((~inside).sum())


def test_it_appears_and_its_cells_are_lethal(layer):
    car = Box(8.0, 2.0, 2.0, 2.0, 1.6)
    layer.update(observe(see()))
    assert not (layer.cells == LETHAL).any()
    layer.update(observe(see(car)))
    inside, others = lethal_in(layer, car)
    assert inside >= 5 and others == 0  # its front and one side


def test_it_moves_and_leaves_nothing_behind(layer):
    before, after = Box(8.0, 2.0, 2.0, 2.0, 1.6), Box(8.0, -3.2, 2.0, 2.0, 1.6)
    layer.update(observe(see(before)))
    layer.update(observe(see(after)))
    assert lethal_in(layer, before)[0] == 0
    inside, others = lethal_in(layer, after)
    assert inside >= 5 and others == 0


@pytest.mark.parametrize("x, y", [(4.0, 0.0), (8.0, 2.0), (12.0, -5.0), (-9.0, 6.0), (0.4, 7.2)])
def test_it_leaves_an_open_field_and_is_gone(layer, x, y):
    person = Box(x, y, 0.8, 0.8, 1.8, "pedestrian")
    layer.update(observe(see(person)))
    assert lethal_in(layer, person)[0] > 0
    layer.update(observe(see()))
    assert not (layer.cells == LETHAL).any()


def test_without_the_clearing_sources_it_would_stay_for_ever(layer):
    """What the rays of ~/obstacles alone do: nothing stands behind, so none passes."""
    person = Box(8.0, 2.0, 0.8, 0.8, 1.8, "pedestrian")
    for _ in range(5):
        layer.update(observe(see(person), clearing=False))
        before = lethal_in(layer, person)[0]
        layer.update(observe(see(), clearing=False))
        assert lethal_in(layer, person)[0] == before > 0


def test_it_is_hidden_and_stays_until_it_is_seen_to_be_gone(layer):
    person, truck = Box(12.0, 0.0, 0.8, 0.8, 1.8, "pedestrian"), Box(6.0, 0.0, 1.2, 4.0, 3.0, "truck")
    layer.update(observe(see(person)))
    marked = lethal_in(layer, person)[0]
    hidden = see(person, truck)
    index, _ = locate(GRID, np.array([[12.0, 0.0, 0.8]]))
    assert hidden.labels[tuple(index[0])] == OCCLUDED
    layer.update(observe(hidden))
    assert lethal_in(layer, person)[0] == marked > 0 and lethal_in(layer, truck)[0] > 0
    layer.update(observe(see(truck)))  # it has left behind the truck: nobody can know
    assert lethal_in(layer, person)[0] == marked
    layer.update(observe(see()))
    assert not (layer.cells == LETHAL).any()


def test_what_lies_below_the_cameras_view_stays_in_the_voxel_layer_only(layer):
    """A low obstacle that the robot has come near: rays pass above it, which only the voxel layer can tell."""
    low = Box(3.0, 0.0, 0.8, 0.8, 0.6, "barrier")
    mark = np.array([[3.0, 0.0, 0.4]])
    layer.update([_observation(np.zeros(3), mark, SHARED["obstacles"])])  # while it was farther away
    layer.update(observe(see(low)))
    assert layer.is_lethal(3.0, 0.0) == isinstance(layer, VoxelLayer)


def test_the_rays_pass_through_voxels_that_are_free_and_end_before_what_is_not():
    prediction = see(Box(8.0, 2.0, 2.0, 2.0, 1.6), Box(-6.0, 0.0, 1.0, 6.0, 2.0))
    free = 0
    for i, T in enumerate(CAMERAS.T_ego_cam.numpy()):
        ends = passed_rays(prediction, CAMERAS, i, RULE)
        assert len(ends) > 500
        for share in np.linspace(0.0, 1.0, 60):
            points = T[:3, 3] + share * (ends - T[:3, 3])
            far = np.linalg.norm(points - T[:3, 3], axis=1) > 2.2  # farther than what is let through near a lens
            index, inside = locate(GRID, points[far])
            labels = prediction.labels[tuple(index[inside].T)]
            assert set(labels.tolist()) <= {FREE}
            free += len(labels)
    assert free > 50_000


def test_a_source_for_each_camera_of_the_shipped_parameter_file():
    shipped = yaml.safe_load((ROOT / "config/ros/occupancy_node.yaml").read_text())["/**"]["ros__parameters"]["cameras"]
    assert [SHARED[name]["topic"] for name in SOURCES if name != "obstacles"] == [
        f"/occupancy_node/{camera}/clearing" for camera in shipped
    ]
    for name in SOURCES:
        assert SHARED[name]["marking"] == (name == "obstacles") != SHARED[name]["clearing"]
    assert SHARED["obstacles"]["topic"] == "/occupancy_node/obstacles"
    # The voxel layer's voxels are the node's: their centres lie in the middle of its cells.
    assert (GRID.origin[2] + 0.5 * GRID.voxel_size - SHARED["origin_z"]) / SHARED["z_resolution"] % 1 == pytest.approx(
        0.5
    )
