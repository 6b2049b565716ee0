# SPDX-License-Identifier: Apache-2.0
"""What the images of a batch are matched with while a stage trains: the frame before and the other cameras.

The frame after is left out: a robot does not have it. Views are missing at random, as they are on a robot that starts,
stands still or has no motion, so that the network never forgets what one image says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.data.sources import OFFSETS
from gaussianocc_core.geometry.cameras import pair_matrix
from gaussianocc_core.models.depth_refinement import FarViews, join_far_views
from gaussianocc_core.models.image_encoder import ImageEncoder, Look
from gaussianocc_core.models.matching import EARLIER, SAME_MOMENT, Pairs, Sources, join_pairs
from gaussianocc_core.models.view_choice import Candidates, ViewSettings, choose_views
from gaussianocc_core.types import Cameras

_BEFORE = OFFSETS.index(-1)
_VIEWS = ViewSettings()


@dataclass(frozen=True)
class ViewDropout:
    """Probabilities that views are missing: all of a sample, its past, its other cameras, or any one of the rest."""

    everything: float = 0.15
    past: float = 0.1
    neighbours: float = 0.15
    one: float = 0.1

    def __post_init__(self) -> None:
        values = (self.everything, self.past, self.neighbours, self.one)
        if min(values) < 0 or sum(values[:3]) > 1 or self.one > 1:
            raise ValueError(f"views: expected probabilities, the first three of which add up to at most 1, got {self}")

    def draw(self, used: np.ndarray, candidates: Candidates, random: np.random.Generator) -> np.ndarray:
        """Those of the chosen views (N, M) that stay."""
        stay = used & (random.random(used.shape) >= self.one)
        draw = random.random()
        if draw < self.everything:
            return np.zeros_like(stay)
        if draw < self.everything + self.past:
            return stay & (candidates.moment == 0)[None]
        if draw < self.everything + self.past + self.neighbours:
            return stay & (np.arange(len(used))[:, None] == candidates.camera[None])
        return stay


def look_around(
    encoder: ImageEncoder,
    frames: Float[Tensor, "B T N 3 H W"],
    cameras: Cameras,
    T_target_now: Float[Tensor, "B S 4 4"] | None,
    dropout: ViewDropout | None = None,
    settings: ViewSettings = _VIEWS,
    history: Float[Tensor, "B F N 3 H W"] | None = None,
    T_history_now: Float[Tensor, "B F 4 4"] | None = None,
) -> tuple[Look, Sources]:
    """The first maps of the B N current images, and what they are matched with.

    frames: RGB 0-1, now and then the neighbours of `OFFSETS`; cameras: with a leading dimension B; T_target_now: points
    of the ego frame now in that of each neighbour, m, or None: other cameras of the moment alone. dropout: drawn from
    torch's generator, so that a resumed run draws the same. history: moments from farther away, by which depth is made
    finer; of NaN as motion, none.
    """
    batch, _, count, _, height, width = frames.shape
    past = T_target_now is not None
    now = frames[:, 0].flatten(0, 1)
    look = encoder.look(torch.cat([now, frames[:, 1 + _BEFORE].flatten(0, 1)]) if past else now)
    assert look.features is not None
    present = Look(look.stride4[: batch * count], look.features[: batch * count])
    random = np.random.default_rng(int(torch.randint(1 << 31, ()))) if dropout is not None else None
    parts = []
    for b in range(batch):
        K = cameras.intrinsics[b].double().cpu().numpy()
        T_ego_cam = cameras.T_ego_cam[b].double().cpu().numpy()
        poses = [T_ego_cam]
        if T_target_now is not None:
            poses.append(np.linalg.inv(T_target_now[b, _BEFORE].detach().double().cpu().numpy()) @ T_ego_cam)
        moments = len(poses)
        candidates = Candidates(
            K,
            T_ego_cam,
            np.tile(K, (moments, 1, 1)),
            np.concatenate(poses),
            np.tile(np.arange(count), moments),
            np.repeat(np.arange(moments), count),
        )
        choice = choose_views(candidates, width, height, settings)
        used = choice.used
        if dropout is not None and random is not None:
            used = dropout.draw(used, candidates, random)
        reference, source = np.nonzero(used)
        matrix = pair_matrix(
            torch.from_numpy(K[reference]),
            torch.from_numpy(candidates.K[source]),
            torch.from_numpy(choice.T_source_reference[reference, source]),
        )
        place = np.where(source < count, b * count + source, batch * count + b * count + source - count)
        parts.append(
            Pairs(
                torch.from_numpy(reference + b * count),
                torch.from_numpy(place),
                torch.from_numpy(np.where(source < count, SAME_MOMENT, EARLIER)),
                matrix.float(),
            )
        )
    far = None
    if history is not None and T_history_now is not None:
        far = _look_far(encoder, history, cameras, T_history_now, dropout, random)
    return present, Sources(look.features[batch * count :], join_pairs(parts).to(frames.device), far)


def _look_far(
    encoder: ImageEncoder,
    history: Float[Tensor, "B F N 3 H W"],
    cameras: Cameras,
    T_history_now: Float[Tensor, "B F 4 4"],
    dropout: ViewDropout | None,
    random: np.random.Generator | None,
) -> FarViews:
    moments, count = history.shape[1:3]
    features = encoder.look(history.flatten(0, 2)).features
    assert features is not None
    features = features.unflatten(0, (len(history), moments * count))
    parts = []
    for b, here in enumerate(features):
        K, T_ego_cam = cameras.intrinsics[b].double().cpu(), cameras.T_ego_cam[b].double().cpu()
        T_then_now = T_history_now[b].double().cpu()  # (F, 4, 4)
        known = torch.isfinite(T_then_now).all(dim=-1).all(dim=-1)
        if dropout is not None and random is not None:
            known &= torch.from_numpy(random.random(moments) >= dropout.everything + dropout.past)
        T_then_now = torch.where(known[:, None, None], T_then_now, torch.eye(4, dtype=torch.float64))
        T = torch.linalg.inv(T_ego_cam)[None, :, None] @ T_then_now[:, None, None] @ T_ego_cam  # (F, M, N, 4, 4)
        T = T.permute(2, 0, 1, 3, 4).flatten(1, 2)  # (N, F M, 4, 4): points of camera n now in that of m then
        used = known.repeat_interleave(count)[None].expand(*T.shape[:2])
        parts.append(FarViews.of(here, K, K.repeat(moments, 1, 1), T, used))
    return join_far_views(parts).to(history.device)
