# SPDX-License-Identifier: Apache-2.0
"""The configuration of a model. The defaults are all but the `tiny` model, which runs anywhere;
`config/model/*.yaml` hold only differences from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gaussianocc_core.geometry.rectify import DEFAULT_FISHEYE_FOV_DEG
from gaussianocc_core.labels import CLASS_NAMES
from gaussianocc_core.models.matching import MatchingConfig
from gaussianocc_core.models.quirks import Quirks
from gaussianocc_core.types import Lattice, VoxelGrid


@dataclass(frozen=True)
class EncoderConfig:
    """2D image encoder (docs/method.md#a)."""

    backbone: str = "resnet18"  # resnet18, resnet34, resnet50 or resnet101; layer4 is never used
    width: float = 0.5  # factor on the backbone's channel counts
    up_channels: tuple[int, int] = (64, 48)  # of the decoder blocks at stride 8 and stride 4
    feature_channels: int = 16  # of the stride-4 map that is lifted
    norm: str = "batch"  # of the decoder blocks; published: instance
    rays: bool = True  # the decoder blocks see where their pixels look (ego frame, no lengths); published: False


@dataclass(frozen=True)
class DecoderConfig:
    """From lifted features to logits (docs/method.md#c)."""

    kind: str = "bev"  # "hourglass": 3D, as published; "bev": 2D over the ground plan with height in channels
    surface: bool = True  # a depth head tells the decoder where each camera sees a surface; published: False
    channels: int = 48  # at full resolution; more inside
    hourglasses: int = 1  # published: 3
    head_blocks: int = 1  # convolutions before the class layer; published: 4
    detail: bool = False  # the published voxels, finer than the lattice, are corrected by what is measured at each
    position: bool = True  # tells the network where each lattice point is; published: False


@dataclass(frozen=True)
class GaussianConfig:
    """Voxels to Gaussians (docs/method.md#e)."""

    scale: tuple[float, float, float] = (0.3, 0.3, 0.15)  # standard deviations at a lattice point, m; published: 0.2
    learned: bool = False  # one factor on all of them is learnt (the paper's "learnable" is per voxel and unreleased)
    far_radius: tuple[float, float] = (60.0, 80.0)  # m from the ego origin; beyond, scales grow 4- and 8-fold

    RETIRED: ClassVar[dict[str, Any]] = {"far_factor": (4.0, 8.0)}


@dataclass(frozen=True)
class DepthConfig:
    """Depth and Gaussian scale per pixel (docs/method.md#f.4); needed in the first stage only."""

    near: float = 0.5  # m
    # m; well beyond what counts: near its limits a sigmoid hardly moves. Published: 80.
    far: float = 200.0
    # m, the largest depth of a network with random weights; without `ground` it is their depth everywhere. Ground
    # beyond it starts too near, and what moves by a fraction of a pixel between frames stays where it started.
    first: float = 50.0
    # Fresh weights say the plane z = 0 of the ego frame, this factor times as far; 0: without the plane. A robot's base
    # frame lies near the ground, so training starts from nearly the right scale. Published: 0.
    ground: float = 1.0
    # Whether that plane is the ground to a few percent of the cameras' height, so that it has the scale. False: a base
    # frame at axle height, say; then only the overlaps of the cameras have it.
    metric_ground: bool = True
    max_scale: float = 0.05  # m, standard deviation of a pixel's Gaussian; published: 0.02, at 224 x 352


@dataclass(frozen=True)
class PoseConfig:
    """Network for the ego motion between two frames (docs/method.md#f); needed in training only."""

    backbone: str = "plain"  # plain (convolutions without norms), resnet18 or resnet34; published: resnet34
    width: float = 0.75  # factor on the backbone's channel counts; published: 1
    channels: int = 64  # of the decoder; published: 256
    reduction: int = 2  # of the images it looks at, per side; published: 1
    output_scale: tuple[float, float] = (0.02, 0.5)  # of rotation and translation; published: 0.01 for both


@dataclass(frozen=True)
class ModelConfig:
    name: str = "tiny"
    image_height: int = 96  # of the network's input, pixels
    image_width: int = 176
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    lattice: Lattice = field(
        default_factory=lambda: Lattice(low=(-40.0, -40.0, -1.0), high=(40.0, 40.0, 5.4), shape=(100, 100, 16))
    )
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    gaussians: GaussianConfig = field(default_factory=GaussianConfig)
    grid: VoxelGrid = field(default_factory=VoxelGrid)  # what is published and evaluated
    class_names: tuple[str, ...] = CLASS_NAMES  # the last one is free space
    # m from the ego origin, horizontally, to which what stands on the ground is claimed; beyond, its depth is too
    # uncertain for a voxel, and it is left unobserved. 0: everywhere (published).
    reach: float = 0.0
    # 0-1, higher misses fewer obstacles and shows more ghosts: the probability of free above which a voxel is free.
    # A default that whoever runs the model may change; 0.5: what is more likely (published).
    caution: float = 0.5
    fisheye_fov_deg: float = DEFAULT_FISHEYE_FOV_DEG  # of the rectified view of equidistant lenses
    depth: DepthConfig = field(default_factory=DepthConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    quirks: Quirks = field(default_factory=Quirks)  # in files a section or a name: `quirks: published`
