# SPDX-License-Identifier: Apache-2.0
"""Parity of the photometric chain and of every loss of the second stage (docs/method.md#g)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core import losses
from gaussianocc_core.geometry import warp
from gaussianocc_core.labels import class_weights
from gaussianocc_core.reference.pipeline import NEIGHBOURS, Pipeline
from gaussianocc_core.reference.report import Row, compare

_SCALE = 1.0  # m, base scale of the views that the recorded losses are of
_SMOOTHNESS, _SEMANTICS, _ENTROPY, _VARIATION = 0.001, 0.02, 0.1, 0.1  # weights of the losses (docs/method.md#k)


class LossChain:
    """The losses of one sample with the depth, logits and motions of a pipeline."""

    def __init__(self, run: Pipeline) -> None:
        self.run = run
        self.cameras = run.network_cameras
        self.pixel_center = run.quirks.warp_pixel_center

    @cached_property
    def depth(self) -> Float[Tensor, "N H W"]:
        return warp.resize_depth(self.run.views(_SCALE).depth[:, 0], *self.run.golden.config.image_hw)

    @cached_property
    def pixels(self) -> tuple[Tensor, ...]:
        """Where each neighbour sees the points of frame 0, per neighbour (N, H, W, 2)."""
        K = self.cameras.intrinsics
        return tuple(
            warp.reproject(self.depth, K, self.run.camera_motion(neighbour), K, self.pixel_center)[0]
            for neighbour in NEIGHBOURS
        )

    def sampling_grid(self, neighbour: int) -> Float[Tensor, "N H W 2"]:
        height, width = self.depth.shape[-2:]
        return warp.to_sampling_grid(self.pixels[neighbour], width, height, self.pixel_center)

    @cached_property
    def warped(self) -> tuple[Tensor, ...]:
        """Each neighbour's image as frame 0 would see it, per neighbour (N, 3, H, W)."""
        images = [self.run.images(f"t{neighbour}")[0] for neighbour in NEIGHBOURS]
        return tuple(
            warp.sample_pixels(image, pixels, self.pixel_center)
            for image, pixels in zip(images, self.pixels, strict=True)
        )

    @cached_property
    def errors(self) -> tuple[Tensor, ...]:
        """Photometric error of each warped neighbour (N, H, W)."""
        return tuple(losses.photometric_error(image, self.run.images("t0")[0]) for image in self.warped)

    @cached_property
    def least(self) -> tuple[Tensor, Tensor]:
        """Least error per pixel without tie-breaking noise, and where a warped image has it."""
        image = self.run.images("t0")[0]
        identity = torch.stack(
            [losses.photometric_error(self.run.images(f"t{neighbour}")[0], image) for neighbour in NEIGHBOURS]
        )
        return losses.least_error(identity, torch.stack(self.errors), torch.zeros_like(identity))

    @property
    def smooth(self) -> float:
        return losses.sum_of_means(losses.smoothness(self.depth, self.run.images("t0")[0])).item()

    @property
    def photometric(self) -> float:
        return self.least[0].mean().item() + _SMOOTHNESS * self.smooth

    @property
    def semantic(self) -> float:
        labels = losses.resize_labels(self.run.input("semantic_label").long(), *self.run.golden.config.render_hw)
        logits = self.run.views(_SCALE).features
        weighted = losses.semantic_cross_entropy(logits, labels, self.class_weights)
        return _SEMANTICS * losses.weighted_mean(*weighted).item()

    @property
    def class_weights(self) -> Float[Tensor, " K"]:
        """As published, without weights where the class list is not the one of the frequencies."""
        weights = torch.from_numpy(class_weights())
        classes = self.run.golden.config.num_classes
        return weights if len(weights) == classes else torch.ones(classes)

    @property
    def entropy(self) -> float:
        return _ENTROPY * losses.opacity_entropy(self.run.gaussians(_SCALE).opacities).mean().item()

    @property
    def variation(self) -> float:
        """Unweighted."""
        return losses.sum_of_means(losses.total_variation(self.run.field.logits)).item() / 3


def loss_values(run: Pipeline) -> Iterator[Row]:
    """Images of the photometric chain, then every scalar."""
    chain = LossChain(run)

    def row(stage: str, name: str, compute: Callable[[], object], tolerance: float, file: str = "losses") -> Row:
        return compare(stage, run.golden.array(file, name), compute, tolerance)

    def pixel_row(stage: str, name: str, compute: Callable[[], object], tolerance: float, axis: int | None) -> Row:
        # Depth differs where rounding flips a contribution of the splatting; a pixel there moves.
        return compare(stage, run.golden.array("losses", name), compute, tolerance, least_share=0.998, pixel_axis=axis)

    yield pixel_row("depth at image size", "depth_fullres", lambda: chain.depth[:, ::4, ::4], 5e-3, None)
    yield pixel_row("warp positions m1", "pix_coords_m1", lambda: chain.sampling_grid(0)[:, ::8, ::8], 1e-4, -1)
    yield pixel_row("warped image m1", "warped_m1", lambda: chain.warped[0][:, :, ::4, ::4], 1e-3, 1)
    yield pixel_row("photometric error m1", "reproj_m1", lambda: chain.errors[0][:, ::4, ::4], 1e-3, None)
    yield row("class weights", "class_weights", lambda: chain.class_weights, 1e-6)
    yield row("min depth", "scalar_min_d", lambda: chain.depth[0].min().item(), 5e-3)
    yield row("max depth", "scalar_max_d", lambda: chain.depth[0].max().item(), 5e-3)
    moved = lambda: chain.least[1].float().mean().item()  # noqa: E731
    yield row("share of warped minima", "scalar_automask_fraction", moved, 1e-4)
    yield row("smoothness", "scalar_smooth_unweighted", lambda: chain.smooth, 1e-5)
    yield row("loss photometric", "scalar_loss_pe_0", lambda: chain.photometric, 1e-6)
    yield row("loss semantic", "scalar_loss_semantic_0", lambda: chain.semantic, 1e-6)
    yield row("loss entropy", "scalar_loss_entropy_last_0", lambda: chain.entropy, 1e-6)
    yield row("loss variation", "scalar_loss_distortion_0", lambda: _VARIATION * chain.variation, 1e-6)
    total = lambda: chain.photometric + chain.semantic + chain.entropy + _VARIATION * chain.variation  # noqa: E731
    yield row("loss total", "scalar_self_loss", total, 1e-6)
    yield row("entropy of Gaussians", "entropy_loss_weighted", lambda: chain.entropy, 1e-6, file="gaussians")
    yield row("total variation", "total_variation", lambda: chain.variation, 1e-5, file="gaussians")
