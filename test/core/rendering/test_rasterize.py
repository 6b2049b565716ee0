# SPDX-License-Identifier: Apache-2.0
"""The CPU rasteriser against the float64 oracle and against answers that can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import render_oracle
from support.render_scenes import ATOL, assert_equal_images, ball, cloud, join, looking_forward

from gaussianocc_core.errors import BackendError
from gaussianocc_core.rendering import cpu_projection
from gaussianocc_core.rendering.geometry import GSPLAT, PUBLISHED, TILE, project_gaussians
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, Gaussians


@pytest.mark.parametrize("channels", [0, 1, 3, 18, 33])
def test_random_scene_equals_the_oracle_for_any_feature_width(channels):
    gaussians = cloud(channels=channels, seed=channels)
    cameras = looking_forward()
    assert_equal_images(rasterize(gaussians, cameras), render_oracle.render_cameras(gaussians, cameras))


def test_several_cameras_with_off_centre_principal_points_equal_the_oracle():
    gaussians = cloud(seed=1)
    cameras = join(
        looking_forward(center=(5.0, 22.5)),
        looking_forward(center=(31.0, 3.0), yaw=2.0, position=(0.5, -1.0, 0.7)),
        looking_forward(focal=12.0, yaw=-1.3),
    )
    assert_equal_images(rasterize(gaussians, cameras), render_oracle.render_cameras(gaussians, cameras))


def test_dense_opaque_scene_that_stops_every_pixel_equals_the_oracle():
    gaussians = cloud(count=600, seed=2, spread=4.0)
    gaussians = dataclasses.replace(gaussians, opacities=torch.full((600,), 0.98), scales=gaussians.scales + 0.3)
    cameras = looking_forward()
    expected = render_oracle.render_cameras(gaussians, cameras)
    assert expected[2].min() > 0.99
    assert_equal_images(rasterize(gaussians, cameras), expected)


@pytest.mark.parametrize("constants", [GSPLAT, PUBLISHED])
def test_compiled_projection_equals_the_differentiable_one(constants):
    gaussians = cloud(count=2000, seed=6)
    cameras = join(looking_forward(center=(5.0, 22.5)), looking_forward(yaw=2.0, position=(0.5, -1.0, 0.7)))
    arguments = (gaussians, cameras.intrinsics, cameras.T_ego_cam, 40, 28, 0.2, constants)
    a, b = cpu_projection.project_gaussians(*arguments), project_gaussians(*arguments)
    # A radius just at a whole pixel may round up in one and down in the other; none does here.
    for name in ("camera", "gaussian", "tiles"):
        assert torch.equal(getattr(a, name).long(), getattr(b, name).long()), name
    for name in ("centers", "conics", "depth", "reach"):  # float32 both, in another order of operations
        assert torch.allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-5), name


def test_order_of_the_input_does_not_matter():
    gaussians, cameras = cloud(seed=3), looking_forward()
    order = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(0))
    shuffled = Gaussians(
        gaussians.means[order],
        gaussians.quats[order],
        gaussians.scales[order],
        gaussians.opacities[order],
        gaussians.features[order],
    )
    a, b = rasterize(gaussians, cameras), rasterize(shuffled, cameras)
    assert torch.equal(a.features, b.features) and torch.equal(a.depth, b.depth) and torch.equal(a.alpha, b.alpha)


def test_one_opaque_gaussian_on_the_axis_gives_its_depth():
    # The principal point lies on a pixel centre, so that alpha there is exactly the clamp, 0.999.
    cameras = looking_forward(center=(20.5, 14.5))
    views = rasterize(ball((7.0, 0.0, 0.0)), cameras)
    assert views.alpha[0, 0, 14, 20] == pytest.approx(0.999, abs=1e-6)
    assert views.depth[0, 0, 14, 20] == pytest.approx(7.0 * 0.999, abs=1e-5)
    normalised = rasterize(ball((7.0, 0.0, 0.0)), cameras, normalize_depth=True)
    assert normalised.depth[0, 0, 14, 20] == pytest.approx(7.0, abs=1e-5)
    assert normalised.depth[0, 0, 0, 0] == 0


def test_depth_is_along_the_optical_axis_not_along_the_ray():
    cameras = looking_forward(focal=20.0)
    views = rasterize(ball((5.0, 3.0, 0.0), sigma=0.4), cameras, normalize_depth=True)
    row, column = divmod(int(views.alpha.argmax()), 40)
    assert column < 20 / 2 and views.depth[0, 0, row, column] == pytest.approx(5.0, abs=1e-4)


def test_nearer_gaussian_hides_the_farther_one():
    features = torch.eye(2)
    views = rasterize(ball([(9.0, 0, 0), (4.0, 0, 0)], features=features), looking_forward(center=(20.5, 14.5)))
    assert views.features[0, 1, 14, 20] == pytest.approx(0.999, abs=1e-6)
    # What is left, 0.001 x 0.999, is added; the pixel then stops, because 1e-6 <= 1e-4 would remain: so it is not.
    assert views.features[0, 0, 14, 20] == 0


def test_nothing_is_drawn_for_empty_transparent_hidden_or_too_near_gaussians():
    cameras = looking_forward()
    for gaussians in (
        ball(np.zeros((0, 3)), features=torch.ones(0, 4)),
        ball((5.0, 0, 0), opacity=0.0),
        ball((5.0, 0, 0), opacity=1 / 256),
        ball((-5.0, 0, 0)),
        ball((0.19, 0, 0)),
    ):
        views = rasterize(gaussians, cameras)
        assert views.features.abs().sum() == 0 and views.depth.sum() == 0 and views.alpha.sum() == 0
    assert rasterize(ball((0.21, 0, 0)), cameras).alpha.sum() > 0
    assert rasterize(ball((0.21, 0, 0)), cameras, near=0.3).alpha.sum() == 0


def test_image_does_not_depend_on_where_the_tiles_lie():
    # Shifting the principal point and the window by five pixels moves every tile border across the picture.
    gaussians, shift = cloud(seed=4), 5
    plain = looking_forward(width=48, height=48, center=(24.0, 24.0))
    wide = looking_forward(width=48 + shift, height=48 + shift, center=(24.0 + shift, 24.0 + shift))
    # The linearisation's slope limits follow the image size, so only Gaussians well inside both are compared.
    inside = (gaussians.means[:, 0] > 2) & (gaussians.means[:, 1:].abs().amax(-1) < 0.5 * gaussians.means[:, 0])
    gaussians = Gaussians(*(getattr(gaussians, f.name)[inside] for f in dataclasses.fields(gaussians)))
    a = rasterize(gaussians, plain)
    b = rasterize(gaussians, wide)
    assert a.alpha[0, 0, TILE - 1 : TILE + 1].max() > 0.1
    assert (a.features - b.features[..., shift:, shift:]).abs().max() < ATOL


def test_width_and_height_scale_the_intrinsics():
    gaussians, cameras = cloud(seed=5), looking_forward(width=80, height=56, focal=60.0)
    small = looking_forward(width=40, height=28, focal=30.0)
    assert torch.equal(rasterize(gaussians, cameras, width=40, height=28).alpha, rasterize(gaussians, small).alpha)


def test_bad_calls_say_what_is_wrong():
    gaussians, cameras = ball((5.0, 0, 0)), looking_forward()
    with pytest.raises(BackendError, match="opengl"):
        rasterize(gaussians, cameras, backend="opengl")
    with pytest.raises(ValueError, match="Rectifier"):
        rasterize(gaussians, dataclasses.replace(cameras, distortion=((0.1, 0.0, 0.0, 0.0),)))
    with pytest.raises(ValueError, match="one image size"):
        rasterize(gaussians, join(cameras, looking_forward(width=44)))
    with pytest.raises(ValueError, match="both"):
        rasterize(gaussians, cameras, width=40)


def test_importing_the_renderers_imports_no_numba_and_inference_no_gsplat():
    code = (
        "import sys, gaussianocc_core.rendering.volume, gaussianocc_core.rendering.gpu\n"
        "if 'numba' in sys.modules: sys.exit('numba')\n"
        "import gaussianocc_core.predictor\n"
        "if 'gsplat' in sys.modules: sys.exit('gsplat')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("tag, horizontal_focal", [("bug", True), ("fixed", False)])
def test_published_constants_give_the_published_images(shared_data, tag, horizontal_focal):
    arrays = np.load(shared_data / "golden" / "rasteriser_scene.npz")
    golden = {key: torch.from_numpy(value).float() for key, value in arrays.items()}
    gaussians = Gaussians(
        golden["xyz"], golden["quat_wxyz"], golden["scale"], golden["opacity"][:, 0], golden["feature"]
    )
    cameras = Cameras(("camera",), golden["K"][None, :3, :3], golden["cam_to_world"][None], (64,), (48,))
    constants = dataclasses.replace(PUBLISHED, horizontal_focal=horizontal_focal)
    views = rasterize(gaussians, cameras, constants=constants)
    # Both sides are float32; the largest difference seen is 8e-7 (features) and 2.4e-6 m.
    assert (views.features[0, ::3] - golden[f"feat_{tag}"]).abs().max() < 3e-6
    assert (views.alpha[0, 0] - golden[f"alpha_{tag}"]).abs().max() < 3e-6
    assert (views.depth[0, 0] - golden[f"depth_{tag}"]).abs().max() < 1e-5
    footprints = project_gaussians(gaussians, cameras.intrinsics, cameras.T_ego_cam, 64, 48, 0.2, constants)
    visible = (golden[f"radii_{tag}"] > 0) & (gaussians.opacities >= 1 / 255)  # the reference keeps transparent ones
    assert torch.equal(footprints.gaussian.sort().values, torch.nonzero(visible)[:, 0])


def visible_by_the_published_rule(gaussians: Gaussians, cameras: Cameras, horizontal_focal: bool):
    """(camera, Gaussian) pairs whose rectangle of tiles is not empty, one by one in float64 (docs/method.md#e, 1 to 5),
    and those of them that touch nothing but the part of the last tiles beyond the image."""
    visible, beyond = set(), set()
    for n in range(len(cameras)):
        K, T_cam_ego = cameras.intrinsics[n].double().numpy(), np.linalg.inv(cameras.T_ego_cam[n].double().numpy())
        width, height, fx = cameras.width[n], cameras.height[n], K[0, 0]
        tan_x = width / (2 * fx)
        tan_y = tan_x if horizontal_focal else height / (2 * K[1, 1])
        for g in range(len(gaussians)):
            x, y, z = T_cam_ego[:3, :3] @ gaussians.means[g].double().numpy() + T_cam_ego[:3, 3]
            if z <= 0.2:
                continue
            u = fx * x / (z + 1e-7) + K[0, 2] - 0.5
            v = K[1, 1] * y / (z + 1e-7) + K[1, 2] - 0.5
            qw, *q = (gaussians.quats[g].double() / gaussians.quats[g].double().norm()).tolist()
            cross = np.array([[0, -q[2], q[1]], [q[2], 0, -q[0]], [-q[1], q[0], 0]])
            axes = (np.eye(3) + 2 * qw * cross + 2 * cross @ cross) * gaussians.scales[g].double().numpy()
            tx, ty = np.clip(x / z, -1.3 * tan_x, 1.3 * tan_x), np.clip(y / z, -1.3 * tan_y, 1.3 * tan_y)
            focal_y = height / (2 * tan_y)
            J = np.array([[fx / z, 0, -fx * tx / z], [0, focal_y / z, -focal_y * ty / z]])
            in_image = J @ T_cam_ego[:3, :3] @ axes
            covariance = in_image @ in_image.T + 0.3 * np.eye(2)
            determinant, middle = np.linalg.det(covariance), np.trace(covariance) / 2
            if determinant == 0:
                continue
            radius = math.ceil(3 * math.sqrt(middle + math.sqrt(max(0.1, middle**2 - determinant))))
            spans = []
            for at, size in ((u, width), (v, height)):
                ends = int((at - radius) / 16), int((at + radius + 15) / 16)
                spans.append([min(max(end, 0), math.ceil(size / 16)) for end in ends])
            if all(end > first for first, end in spans):
                visible.add((n, g))
                if u - radius > width or v - radius > height:
                    beyond.add((n, g))
    return visible, beyond


@pytest.mark.parametrize("horizontal_focal", [True, False])
@pytest.mark.parametrize(("width", "height"), [(77, 45), (33, 19), (64, 37), (64, 48)])
def test_published_constants_count_what_the_published_rule_calls_visible(width, height, horizontal_focal):
    gaussians = dataclasses.replace(cloud(count=1500, seed=11), opacities=torch.ones(1500))
    gaussians = dataclasses.replace(gaussians, scales=0.1 * gaussians.scales)
    cameras = join(*(looking_forward(width, height, 0.6 * width, yaw=yaw) for yaw in (0.0, 1.6, -2.0)))
    expected, beyond = visible_by_the_published_rule(gaussians, cameras, horizontal_focal)
    assert len(expected) > 300 and bool(beyond) == (width % 16 > 0 or height % 16 > 0)
    constants = dataclasses.replace(PUBLISHED, horizontal_focal=horizontal_focal)
    arguments = (gaussians, cameras.intrinsics, cameras.T_ego_cam, width, height, 0.2, constants)
    for project in (project_gaussians, cpu_projection.project_gaussians):
        found = project(*arguments)
        assert set(zip(found.camera.tolist(), found.gaussian.tolist(), strict=True)) == expected
