# SPDX-License-Identifier: Apache-2.0
"""Pretraining of depth by matching on clips of synthetic truth, for the shipped starting weights alone.

What is learnt about matching leaves its town, what is learnt about streets does not. So clips are as different as they
can be (`synthetic.clips`), images suffer what cameras do to them, views are dropped and motion errs.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset

from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry.cameras import pair_matrix
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.image_encoder import Look
from gaussianocc_core.models.matching import EARLIER, SAME_MOMENT, Pairs, Sources, plane_coordinate
from gaussianocc_core.models.matching_net import HeadOutput, MatchingHead
from gaussianocc_core.models.view_choice import Candidates, choose_views
from gaussianocc_core.synthetic.clips import Clip, load_clip
from gaussianocc_core.training.config import PretrainConfig
from gaussianocc_core.training.stage import Look as StageLook
from gaussianocc_core.training.stage import Networks, Stage

_FARTHEST = 120.0  # m; what is farther counts as so far, and so does the sky


@dataclass(frozen=True)
class ClipBatch:
    """Some clips of one image size; S images, R of them references."""

    images: UInt8[Tensor, "S 3 H W"]
    reference: Int[Tensor, " R"]  # which of the images are references
    pairs: Pairs  # reference counts references, source counts images
    intrinsics: Float[Tensor, "R 3 3"]
    T_ego_cam: Float[Tensor, "R 4 4"]
    depth: Float[Tensor, "R H W"]  # true z-depth, m; 0: sky, negative: unknown, as of the robot itself
    tokens: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def current(self) -> UInt8[Tensor, "R 3 H W"]:
        """The images whose depth is asked for."""
        return self.images[self.reference]

    def to(self, device: torch.device | str) -> ClipBatch:
        moved = {
            name: getattr(self, name).to(device)
            for name in ("images", "reference", "pairs", "intrinsics", "T_ego_cam", "depth")
        }
        return replace(self, **moved)


class ClipSet(Dataset):
    """Clips of a folder -> batches of one, addressed by (epoch, index)."""

    def __init__(self, config: PretrainConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        if not config.clips:
            raise ConfigError("pretrain.clips: expected the folder that tools/make_clips.py wrote")
        self.paths = tuple(sorted(Path(config.clips).glob("*.npz")))
        if not self.paths:
            raise DatasetError(f"{config.clips}: holds no clips; tools/make_clips.py makes some")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch:
        epoch, index = key
        path = self.paths[index]
        try:
            clip = load_clip(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path}: not a readable clip ({error}); delete it, or make the clips anew") from error
        random = np.random.default_rng([self.seed, epoch, index])
        return replace(prepare_clip(clip, random, self.config), tokens=(path.stem,))

    @staticmethod
    def collate(batches: Sequence[ClipBatch]) -> ClipBatch:
        return join_clips(batches)


def prepare_clip(clip: Clip, random: np.random.Generator, config: PretrainConfig, augment: bool = True) -> ClipBatch:
    """One clip with its views chosen; augment: mirrored at times, played backwards, its images and motion disturbed."""
    images, depth, K = clip.images, clip.depth, clip.intrinsics.copy()
    T_ego_cam, T_world_ego = clip.T_ego_cam, clip.T_world_ego
    moments, count = images.shape[:2]
    width, height = clip.size
    if augment and random.random() < 0.1:
        images, depth, T_world_ego = images[::-1], depth[::-1], T_world_ego[::-1]
    if augment and random.random() < 0.5:
        side, flip = np.diag([1.0, -1.0, 1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0])
        images, depth = images[:, :, :, ::-1], depth[..., ::-1]
        K[:, 0, 2] = width - K[:, 0, 2]
        T_ego_cam, T_world_ego = side @ T_ego_cam @ flip, side @ T_world_ego @ side
    if augment:
        images = disturb_images(images, random)
    T_now_cam = np.linalg.inv(T_world_ego[-1, 0]) @ T_world_ego @ T_ego_cam  # (T, N, 4, 4)
    candidates = Candidates(
        K,
        T_now_cam[-1],
        np.tile(K, (moments, 1, 1)),
        T_now_cam.reshape(-1, 4, 4),
        np.tile(np.arange(count), moments),
        np.repeat(np.arange(moments)[::-1], count),
    )
    choice = choose_views(candidates, width, height, config.views)
    used = config.dropout.draw(choice.used, candidates, random) if augment else choice.used
    T = choice.T_source_reference
    if augment and random.random() < config.motion_error:
        T = np.linalg.inv(_disturb_motion(T_now_cam, random, config).reshape(-1, 4, 4))[None] @ T_now_cam[-1][:, None]
    if augment:
        T_ego_cam = _tilt(random, config) @ T_ego_cam
    reference, source = np.nonzero(used)
    pairs = Pairs(
        torch.from_numpy(reference),
        torch.from_numpy(source),
        torch.from_numpy(np.where(candidates.moment[source] == 0, SAME_MOMENT, EARLIER)),
        pair_matrix(*(torch.from_numpy(each) for each in (K[reference], candidates.K[source], T[reference, source]))),
    )
    return ClipBatch(
        images=torch.from_numpy(np.ascontiguousarray(images.reshape(-1, height, width, 3))).permute(0, 3, 1, 2),
        reference=torch.arange((moments - 1) * count, moments * count),
        pairs=pairs,
        intrinsics=torch.from_numpy(K).float(),
        T_ego_cam=torch.from_numpy(np.ascontiguousarray(T_ego_cam)).float(),
        depth=torch.from_numpy(np.ascontiguousarray(depth[-1])).float(),
    )


def _disturb_motion(T_now_cam: np.ndarray, random: np.random.Generator, config: PretrainConfig) -> np.ndarray:
    """The cameras' places with a motion that errs; that of the last moment, calibration, by little."""
    out = []
    for k, poses in enumerate(T_now_cam):
        last = k == len(T_now_cam) - 1
        turn = random.normal(0, math.radians(config.turn_error), 3)
        if last:  # each camera by itself
            turns = random.normal(0, math.radians(config.calibration_error), (len(poses), 3))
            out.append([pose @ _turn(each) for pose, each in zip(poses, turns, strict=True)])
            continue
        factor = 1.0 + random.normal(0, config.length_error)
        # All cameras of the moment moved with the ego: shorten that motion about the place of the last moment.
        moved = poses.copy()
        moved[:, :3, 3] = T_now_cam[-1][:, :3, 3] + factor * (poses[:, :3, 3] - T_now_cam[-1][:, :3, 3])
        out.append(_turn(turn) @ moved)
    return np.array(out)


def _tilt(random: np.random.Generator, config: PretrainConfig) -> np.ndarray:
    """Of the ego frame that the ground's plane and the rays are told in; half of the clips have little of it."""
    size = 1.0 if random.random() < 0.5 else 0.25
    T = _turn(np.array([*random.normal(0, size * math.radians(config.tilt_error), 2), 0.0]))
    T[2, 3] = random.normal(0, size * config.height_error)
    return T


def _turn(vector: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.asarray(vector, dtype=np.float64))[0]
    return T


def disturb_images(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What lenses, sensors and encoders do: exposure, gamma, colour, blur, noise, JPEG."""
    moments, count = images.shape[:2]
    gamma = math.exp(random.normal(0, 0.25))
    contrast, bright = 1.0 + random.normal(0, 0.15), random.normal(0, 12)
    saturation = random.uniform(0.0, 1.4)
    gains = np.exp(random.normal(0, 0.06, (1, count, 1)) + random.normal(0, 0.02, (moments, count, 1)))
    gains = gains * np.exp(random.normal(0, 0.05, 3))
    blur = abs(random.normal(0, 0.5)) if random.random() < 0.4 else 0.0
    noise = abs(random.normal(0, 5.0)) if random.random() < 0.7 else 0.0
    quality = int(random.integers(35, 96)) if random.random() < 0.5 else 0
    table = (np.linspace(0, 1, 256) ** gamma * 255.0).astype(np.float32)
    out = np.empty_like(images)
    for t in range(moments):
        for n in range(count):
            x = table[images[t, n]]
            grey = x.mean(axis=-1, keepdims=True)
            x = (grey + saturation * (x - grey)) * gains[t, n].astype(np.float32)
            x = (x - 110.0) * contrast + 110.0 + bright
            if blur > 0.2:
                x = cv2.GaussianBlur(x, (0, 0), blur)
            if noise:
                x = x + random.standard_normal(x.shape, dtype=np.float32) * np.float32(noise)
            y = np.clip(x + 0.5, 0, 255).astype(np.uint8)
            if quality:
                y = cv2.imdecode(cv2.imencode(".jpg", y, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
            out[t, n] = y
    return out


def join_clips(parts: Sequence[ClipBatch]) -> ClipBatch:
    """Clips of one image size as one batch."""
    images, references = 0, 0
    pairs, reference = [], []
    for part in parts:
        each = part.pairs
        pairs.append(Pairs(each.reference + references, each.source + images, each.group, each.matrix))
        reference.append(part.reference + images)
        images, references = images + len(part.images), references + len(part.reference)
    return ClipBatch(
        images=torch.cat([part.images for part in parts]),
        reference=torch.cat(reference),
        pairs=Pairs(
            *(torch.cat([getattr(each, name) for each in pairs]) for name in ("reference", "source", "group", "matrix"))
        ),
        intrinsics=torch.cat([part.intrinsics for part in parts]),
        T_ego_cam=torch.cat([part.T_ego_cam for part in parts]),
        depth=torch.cat([part.depth for part in parts]),
        tokens=sum((part.tokens for part in parts), ()),
    )


class Pretrain(Stage):
    """Depth network on clips with truth."""

    reports = ("depth", "planes", "error", "sky", "total", "abs_rel")
    note = "pretrained: depth by matching, from the truth of synthetic scenes"

    def __init__(self, depth_net: DepthNet, config: PretrainConfig) -> None:
        super().__init__()
        self.depth_net, self.config = depth_net, config

    def predict(self, batch: ClipBatch) -> HeadOutput:
        look = self.depth_net.image_encoder.look(batch.images.float() / 255.0)
        assert look.features is not None
        present = Look(look.stride4[batch.reference], look.features[batch.reference])
        pairs = replace(batch.pairs, source=batch.pairs.source + len(batch.reference))
        height, width = batch.images.shape[-2:]
        return self.depth_net.match(
            present, Sources(look.features, pairs), batch.intrinsics, batch.T_ego_cam, width, height
        )

    def forward(self, batch: Any, progress: float = 0.5) -> dict[str, Tensor]:
        config = self.config
        if self.training:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train(progress < config.freeze_norms_at)
        predicted = self.predict(batch)
        height, width = predicted.inv_depth.shape[-2:]
        truth = F.interpolate(batch.depth[:, None], size=(height, width), mode="nearest-exact")[:, 0]
        sky = truth == 0
        log_true = truth.clamp(0.1, _FARTHEST).log()
        error = -predicted.inv_depth.log() - log_true  # of log depth
        weight = (truth > 0).float()
        count = weight.sum().clamp(min=1.0)
        absolute = error.abs()
        named = {"depth": (absolute * weight).sum() / count}
        # The error's own likelihood; depth itself must not learn to be wrong where that is expected.
        spread = predicted.log_error
        likelihood = absolute.detach() * (-spread).exp() + spread
        named["error"] = config.error_weight * (likelihood * weight).sum() / count
        # Sky is as far as can be: nearer than the farthest is wrong.
        near = (predicted.inv_depth.log() + math.log(_FARTHEST)).clamp(min=0.0)
        named["sky"] = config.sky_weight * (near * sky).mean()
        named["planes"] = config.planes_weight * self._plane_error(predicted.log_planes, batch.depth)
        named["total"] = torch.stack(list(named.values())).sum()
        with torch.no_grad():
            relative = (error.exp() - 1.0).abs()
            named["abs_rel"] = (relative * weight).sum() / count
        return named

    def _plane_error(self, log_planes: Float[Tensor, "R D h w"], depth: Float[Tensor, "R H W"]) -> Tensor:
        head = self.depth_net.head
        assert isinstance(head, MatchingHead)
        truth = F.interpolate(depth[:, None], size=log_planes.shape[-2:], mode="nearest-exact")
        place = plane_coordinate(1.0 / truth.clamp(0.1, _FARTHEST), head.config, head.far)
        low = place.floor().clamp(0, head.config.depths - 2).long()
        share = (place - low).clamp(0.0, 1.0)
        log_likelihood = (1.0 - share) * log_planes.gather(1, low) + share * log_planes.gather(1, low + 1)
        weight = (truth > 0).float()
        return -(log_likelihood * weight).sum() / weight.sum().clamp(min=1.0)

    # ---- what the loop asks for ------------------------------------------------------------------------------------

    def image_modules(self) -> list[nn.Module]:
        return [self.depth_net.image_encoder]

    def look(self, batch: Any) -> StageLook:
        predicted = self.predict(batch)
        depth = F.interpolate(1.0 / predicted.inv_depth[:, None], size=batch.images.shape[-2:], mode="nearest")[:, 0]
        return StageLook(depth, None)

    def networks(self, config: ModelConfig) -> Networks:
        return Networks(config, depth_net=self.depth_net)
