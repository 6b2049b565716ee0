# SPDX-License-Identifier: Apache-2.0
"""Parity of the splatted views, the stand-alone splatting scene and the volume renderer (golden README, section 4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gaussianocc_core.models.half_space import half_space_masks
from gaussianocc_core.reference.pipeline import Pipeline
from gaussianocc_core.reference.report import ABSENT, FAIL, Row, compare
from gaussianocc_core.rendering.geometry import Footprints, RasterConstants, project_gaussians
from gaussianocc_core.rendering.march import sample_depths
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.rendering.volume import render_volume
from gaussianocc_core.types import Cameras, Gaussians, OccupancyField

NEAR = 0.2  # m, where the published rasteriser drops Gaussians (docs/method.md#e.1)
_LEAST_SHARE = 0.998  # of pixels within tolerance: rounding flips a contribution of 1/255 here and there
_FEATURE_TOLERANCE, _DEPTH_TOLERANCE = 1e-3, 5e-3  # m for depth
_CHANNEL_STEP = 6  # of the recorded logits of views without the field-of-view quirk
_VOLUME_RANGE = (0.1, 200.0)  # m, to which volume-rendered depth is clamped (docs/method.md#e.11)
_FAR_SHIFT = 6.0  # on the free logit, so that rays reach far (golden README)
_FULL_TAGS = ("s02", "s10", "s10_fovyfixed")


def splatting(run: Pipeline) -> Iterator[Row]:
    """Views of the voxels as Gaussians, for every recorded base scale, with and without the field-of-view quirk."""
    recorded_tags = {name.split("_", 1)[1] for name in run.golden.names("render") if "_" in name}
    for tag in sorted(recorded_tags) or _FULL_TAGS:
        match = re.fullmatch(r"s(\d+)(_fovyfixed)?", tag)
        if match is None:
            yield Row(f"render {tag}", FAIL, note="the tag should be s and ten times the scale, then _fovyfixed or not")
        else:
            yield from _views(run, tag, int(match[1]) / 10, horizontal=match[2] is None)


def _views(run: Pipeline, tag: str, scale: float, horizontal: bool) -> Iterator[Row]:
    step = 1 if horizontal else _CHANNEL_STEP

    def row(name: str, compute: Callable[[], Tensor], tolerance: float, pixel_axis: int | None = None) -> Row:
        recorded = run.golden.array("render", f"{name}_{tag}")
        stage = f"render {tag} {name}"
        return compare(stage, recorded, compute, tolerance, least_share=_LEAST_SHARE, pixel_axis=pixel_axis)

    yield row("depth", lambda: run.views(scale, horizontal).depth[:, 0], _DEPTH_TOLERANCE)
    yield row("alpha", lambda: run.views(scale, horizontal).alpha[:, 0], _FEATURE_TOLERANCE)
    yield row("semantic", lambda: run.views(scale, horizontal).features[:, ::step], _FEATURE_TOLERANCE, pixel_axis=1)
    counts = run.golden.array("render", f"nvis_{tag}")
    yield compare(f"render {tag} visible", counts, lambda: _visible_counts(run, scale, horizontal), 0.0)


def _visible_counts(run: Pipeline, scale: float, horizontal: bool) -> Tensor:
    """Gaussians per camera whose footprint touches a tile, after the half-space filter, transparent ones included."""
    gaussians = run.gaussians(scale)
    cameras = run.render_cameras
    masks = half_space_masks(gaussians.means, cameras, run.quirks.half_spaces)
    raster = replace(run.quirks.raster, horizontal_focal=horizontal)
    return torch.bincount(_project(gaussians, cameras, raster, masks).camera, minlength=len(cameras))


def _project(
    gaussians: Gaussians, cameras: Cameras, raster: RasterConstants, visible: Tensor | None = None
) -> Footprints:
    """Footprints as if all Gaussians were opaque."""
    opaque = replace(gaussians, opacities=torch.ones_like(gaussians.opacities))
    width, height = cameras.width[0], cameras.height[0]
    return project_gaussians(opaque, cameras.intrinsics, cameras.T_ego_cam, width, height, NEAR, raster, visible)


def splatting_scene(run: Pipeline) -> Iterator[Row]:
    """Rotated anisotropic Gaussians before one camera with an off-centre principal point."""
    needed = ("xyz", "quat_wxyz", "scale", "opacity", "feature", "K", "cam_to_world")
    arrays = {name: run.golden.array("rasteriser_scene", name) for name in needed}
    if any(array is None for array in arrays.values()):
        yield Row("splatting scene", ABSENT)
        return
    tensors = {name: torch.from_numpy(array).float() for name, array in arrays.items() if array is not None}
    gaussians = Gaussians(
        tensors["xyz"], tensors["quat_wxyz"], tensors["scale"], tensors["opacity"][:, 0], tensors["feature"]
    )
    for tag, horizontal in (("bug", True), ("fixed", False)):
        yield from _scene(run, gaussians, tensors["K"], tensors["cam_to_world"], tag, horizontal)


def _scene(
    run: Pipeline, gaussians: Gaussians, K: Tensor, T_world_cam: Tensor, tag: str, horizontal: bool
) -> Iterator[Row]:
    features, depth, alpha, radii = (
        run.golden.array("rasteriser_scene", f"{name}_{tag}") for name in ("feat", "depth", "alpha", "radii")
    )
    size = next((image.shape[-2:] for image in (features, depth, alpha) if image is not None), None)
    if size is None:
        yield Row(f"scene {tag}", ABSENT)
        return
    height, width = size
    cameras = Cameras(("scene",), K[None, :3, :3], T_world_cam[None], (width,), (height,))
    raster = replace(run.quirks.raster, horizontal_focal=horizontal)
    views = rasterize(gaussians, cameras, near=NEAR, constants=raster)
    yield compare(f"scene {tag} features", features, lambda: views.features[0, ::3], 1e-5)
    yield compare(f"scene {tag} depth", depth, lambda: views.depth[0, 0], 1e-4)
    yield compare(f"scene {tag} alpha", alpha, lambda: views.alpha[0, 0], 1e-5)

    def visible() -> Tensor:
        mask = torch.zeros(len(gaussians))
        mask[_project(gaussians, cameras, raster).gaussian.long()] = 1
        return mask

    yield compare(f"scene {tag} visible", None if radii is None else radii > 0, visible, 0.0)


def volume(run: Pipeline) -> Iterator[Row]:
    """Ray marching of the same logits, and of logits that are nearly transparent."""
    recorded_depths = run.golden.array("volume_render_prob", "Zval")
    yield compare(
        "volume sample depths",
        None if recorded_depths is None else recorded_depths.reshape(-1),
        lambda: sample_depths(run.lattice, run.quirks.march),
        1e-5,
        relative=True,
    )

    # The first file was recorded in float16 (docs/method.md#e.13), the second in float32.
    for stride, ratio in ((1, "full"), (4, "ratio025")):
        yield from _marched(run, "volume_render_prob", ratio, stride, 0.0, 0.06, 0.02)
    for stride, ratio in ((1, "full"), (4, "ratio025")):
        yield from _marched(
            run, "volume_render_prob_far", ratio, stride, _FAR_SHIFT, _DEPTH_TOLERANCE, _FEATURE_TOLERANCE
        )


def _marched(
    run: Pipeline,
    file: str,
    ratio: str,
    stride: int,
    free_shift: float,
    depth_tolerance: float,
    feature_tolerance: float,
) -> Iterator[Row]:
    title = f"volume {'far ' if free_shift else ''}{ratio}"
    depth, features = run.golden.array(file, f"depth_{ratio}"), run.golden.array(file, f"semantic_{ratio}")
    if depth is None and features is None:
        yield Row(title, ABSENT)
        return
    logits = run.field.logits.clone()
    logits[:, -1] += free_shift
    settings = replace(run.quirks.march, feature_stride=stride)
    views = render_volume(OccupancyField(logits), run.lattice, run.render_cameras, settings=settings)
    if not (free_shift and stride > 1):  # which no directory records: the ratio does not touch depth
        yield compare(
            f"{title} depth",
            depth,
            lambda: views.depth[:, 0].clamp(*_VOLUME_RANGE),
            depth_tolerance,
            least_share=_LEAST_SHARE,
        )
    yield compare(
        f"{title} semantic",
        features,
        lambda: views.features.permute(0, 2, 3, 1)[:, ::3, ::4],
        feature_tolerance,
        least_share=_LEAST_SHARE,
        pixel_axis=-1,
    )
