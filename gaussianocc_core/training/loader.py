# SPDX-License-Identifier: Apache-2.0
"""Samples at network size, in batches, for every training stage and whatever source they come from.

What a batch holds depends on (seed, epoch, position) and nothing else: not on the number of workers or processes, nor
on where a run was interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gaussianocc_core.data.entries import labels_path, load_occupancy
from gaussianocc_core.data.sources import DataConfig, Entry
from gaussianocc_core.errors import BagError, DatasetError, GaussianOccError
from gaussianocc_core.labels import IGNORE
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.training.sampling import EpochSampler
from gaussianocc_core.types import Cameras, Neighbour, Sample

_MAX_SUBSTITUTES = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ColorJitter:
    """One change of colours for all images of a sample; the identity by default."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns


@dataclass(frozen=True)
class Batch:
    """B samples of one rig size at network size. Frame 0 is now, frames 1 and 2 are the neighbours of `OFFSETS`."""

    tokens: tuple[str, ...]
    images: UInt8[Tensor, "B T N 3 H W"]
    cameras: Cameras  # of this size, leading dimension B; static calibration
    valid: Bool[Tensor, "B N H W"]  # true where a pixel has a source and does not show the robot itself
    T_target_now: Float[Tensor, "B S 4 4"]  # ego frame now -> at the neighbour, from sensor poses; NaN: unknown
    semantics: UInt8[Tensor, "B N H W"] | None  # Occ3D ids, 17 is sky, 255 no label
    jitter: tuple[ColorJitter, ...]
    problems: tuple[str, ...] = ()  # samples that could not be used and what is wrong with them
    # Cameras of a set fire one after another: time of each image after the anchor's, as a share of the time to the
    # neighbour on that side; negative: before. None: at once.
    lags: Float[Tensor, "B N"] | None = None
    # Earlier moments, nearest first, and the ego motion to them; of a batch with fewer in some samples, NaN.
    history: UInt8[Tensor, "B F N 3 H W"] | None = None
    T_history_now: Float[Tensor, "B F 4 4"] | None = None
    # Labels in 3D over the grid of the model, in the ego frame of now: class ids, 255 unknown.
    occupancy: UInt8[Tensor, "B X Y Z"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            cameras=self.cameras.to(device),
            valid=self.valid.to(device, non_blocking=True),
            T_target_now=self.T_target_now.to(device),
            lags=None if self.lags is None else self.lags.to(device),
            semantics=None if self.semantics is None else self.semantics.to(device, non_blocking=True),
            history=None if self.history is None else self.history.to(device, non_blocking=True),
            T_history_now=None if self.T_history_now is None else self.T_history_now.to(device),
            occupancy=None if self.occupancy is None else self.occupancy.to(device, non_blocking=True),
        )

    def current(self) -> UInt8[Tensor, "N 3 H W"]:
        """The images of the first sample that are looked at."""
        return self.images[0, 0]

    def colors(self) -> Float[Tensor, "B T N 3 H W"]:
        """RGB 0-1 as recorded: what photometric losses compare."""
        return self.images.float() / 255.0

    def jittered(self) -> Float[Tensor, "B T N 3 H W"]:
        """RGB 0-1 with each sample's colour change: what networks see."""
        return torch.stack([jitter_colors(s, j) for s, j in zip(self.colors(), self.jitter, strict=True)])

    def jittered_history(self) -> Float[Tensor, "B F N 3 H W"] | None:
        """The same of the history."""
        if self.history is None:
            return None
        colors = self.history.float() / 255.0
        return torch.stack([jitter_colors(s, j) for s, j in zip(colors, self.jitter, strict=True)])


class TrainingSet(Dataset):
    """Entries -> batches of one, addressed by (epoch, index); picklable, for workers of any start method."""

    def __init__(
        self,
        entries: Sequence[Entry],
        config: DataConfig,
        preprocess: Preprocessor,
        seed: int,
    ) -> None:
        self.entries = tuple(entries)
        self.config, self.preprocess, self.seed = config, preprocess, seed

    def __len__(self) -> int:
        return len(self.entries)

    @staticmethod
    def collate(batches: Sequence[Batch]) -> Batch:
        return collate(batches)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        problems: list[str] = []
        for offset in range(_MAX_SUBSTITUTES):
            place = (index + offset) % len(self.entries)
            entry = self.entries[place]
            try:
                sample = entry.load()
                occupancy = self._occupancy(entry)
            except (BagError, DatasetError) as error:
                if self.config.on_bad_sample == "stop":
                    raise
                problems.append(f"sample {entry.token} of {entry.scene} is not used: {error}")
                continue
            for path, count in sample.meta.get("unknown_label_pixels", {}).items():
                problems.append(f"2D labels {path}: {count} pixels of unknown ids are ignored")
            random = np.random.default_rng([self.seed, epoch, place])
            batch = prepare(sample, self.preprocess(sample.cameras, sample.static_masks))
            batch = replace(
                batch,
                problems=tuple(problems),
                jitter=(_draw_jitter(random, self.config.jitter),),
                occupancy=occupancy,
            )
            return mirror(batch) if random.random() < self.config.mirror else batch
        raise DatasetError(f"{_MAX_SUBSTITUTES} samples in a row cannot be read; the last: {problems[-1]}")

    def _occupancy(self, entry: Entry) -> UInt8[Tensor, "1 X Y Z"] | None:
        """The sample's labels in 3D, where the configuration has any."""
        if not self.config.occupancy:
            return None
        found = load_occupancy(labels_path(self.config.occupancy, entry.scene, entry.token))
        return torch.from_numpy(np.where(found.mask_camera, found.semantics, IGNORE))[None]


def prepare(sample: Sample, lenses: Lenses) -> Batch:
    """A batch of one: images rectified and resized, labels and masks brought to the same pixels.

    lenses: the preprocessor's of the sample's cameras and masks.
    """
    frames = [sample.images, *(neighbour.images for neighbour in sample.neighbours)]
    images = np.stack([lenses.rectify(frame) for frame in frames])  # (T, N, h, w, 3)
    cameras = lenses.views(sample.cameras.T_ego_cam)
    semantics = None
    if sample.semantics is not None:
        semantics = torch.from_numpy(
            np.stack([lenses.rectifier.rectify_labels(i, each, IGNORE) for i, each in enumerate(sample.semantics)])
        )[None]
    history, T_history_now = _history(sample, lenses)
    return Batch(
        tokens=(sample.token,),
        images=torch.from_numpy(images).permute(0, 1, 4, 2, 3)[None],
        cameras=replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None]),
        valid=torch.tensor(lenses.valid_mask)[None],
        T_target_now=_sensor_motion(sample)[None],
        semantics=semantics,
        jitter=(ColorJitter(),),
        lags=_lags(sample)[None],
        history=history,
        T_history_now=T_history_now,
    )


def _history(
    sample: Sample, lenses: Lenses
) -> tuple[UInt8[Tensor, "1 F N 3 H W"] | None, Float[Tensor, "1 F 4 4"] | None]:
    """Images and motion of the history, where there is any."""
    known = [each for each in sample.history if each.T_world_ego_per_camera is not None]
    if not known or sample.T_world_ego_per_camera is None:
        return None, None
    images = np.stack([lenses.rectify(each.images) for each in known])
    motions = torch.stack([_motion_to(sample, each) for each in known])
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3)[None], motions[None]


def _lags(sample: Sample) -> Float[Tensor, " N"]:
    after = np.array(sample.camera_stamps_ns or (sample.stamp_ns,) * len(sample.cameras)) - sample.stamp_ns
    lags = np.zeros(len(after))
    for neighbour in sample.neighbours:
        side = np.sign(after) == neighbour.offset
        lags[side] = after[side] / abs(neighbour.camera_stamps_ns[0] - sample.stamp_ns)
    return torch.from_numpy(lags).float()


def _sensor_motion(sample: Sample) -> Float[Tensor, "S 4 4"]:
    """Ego motion to each neighbour by the poses at the anchor camera's image times; NaN where there are none."""
    motions = [_motion_to(sample, neighbour) for neighbour in sample.neighbours]
    return torch.stack(motions) if motions else torch.zeros(0, 4, 4)


def _motion_to(sample: Sample, other: Neighbour) -> Float[Tensor, "4 4"]:
    if other.T_world_ego_per_camera is None or sample.T_world_ego_per_camera is None:
        return torch.full((4, 4), torch.nan)
    T = np.linalg.inv(other.T_world_ego_per_camera[0]) @ sample.T_world_ego_per_camera[0]
    return torch.from_numpy(T).float()


def mirror(batch: Batch) -> Batch:
    """The same street seen in a mirror at y = 0: another sample for free, with left and right exchanged."""
    device = batch.images.device
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], device=device))  # image columns, camera x
    side = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], device=device))  # ego y
    cameras = batch.cameras
    intrinsics = cameras.intrinsics.clone()
    intrinsics[..., 0, 2] = torch.tensor(cameras.width, device=device) - intrinsics[..., 0, 2]
    return replace(
        batch,
        images=batch.images.flip(-1),
        cameras=replace(cameras, intrinsics=intrinsics, T_ego_cam=side @ cameras.T_ego_cam @ flip),
        valid=batch.valid.flip(-1),
        T_target_now=side @ batch.T_target_now @ side,
        semantics=None if batch.semantics is None else batch.semantics.flip(-1),
        history=None if batch.history is None else batch.history.flip(-1),
        T_history_now=None if batch.T_history_now is None else side @ batch.T_history_now @ side,
        occupancy=None if batch.occupancy is None else batch.occupancy.flip(-2),
    )


def collate(batches: Sequence[Batch]) -> Batch:
    """Batches of one -> one; all rigs must have the same number of cameras.

    A sample without 2D labels, in a batch where another has some, gets the label "ignored" at every pixel.
    """
    names = {len(batch.cameras) for batch in batches}
    if len(names) != 1:
        raise DatasetError(f"samples of {sorted(names)} cameras cannot share a batch; use batch_size=1")
    labelled = any(batch.semantics is not None for batch in batches)
    labels = [
        torch.full_like(batch.valid, IGNORE, dtype=torch.uint8) if batch.semantics is None else batch.semantics
        for batch in batches
    ]
    cameras = [batch.cameras for batch in batches]
    lags = [batch.lags for batch in batches if batch.lags is not None]
    occupancy = [batch.occupancy for batch in batches if batch.occupancy is not None]
    history, T_history_now = _collate_history(batches)
    return Batch(
        tokens=sum((batch.tokens for batch in batches), ()),
        images=torch.cat([batch.images for batch in batches]),
        cameras=replace(
            cameras[0],
            intrinsics=torch.cat([each.intrinsics for each in cameras]),
            T_ego_cam=torch.cat([each.T_ego_cam for each in cameras]),
        ),
        valid=torch.cat([batch.valid for batch in batches]),
        T_target_now=torch.cat([batch.T_target_now for batch in batches]),
        semantics=torch.cat(labels) if labelled else None,
        jitter=sum((batch.jitter for batch in batches), ()),
        problems=sum((batch.problems for batch in batches), ()),
        lags=torch.cat(lags) if len(lags) == len(batches) else None,
        history=history,
        T_history_now=T_history_now,
        occupancy=torch.cat(occupancy) if len(occupancy) == len(batches) else None,
    )


def _collate_history(batches: Sequence[Batch]) -> tuple[Tensor | None, Tensor | None]:
    """Of as many moments as the sample with the most has; those that a sample lacks are of unknown motion."""
    most = max((0 if batch.history is None else batch.history.shape[1]) for batch in batches)
    if not most:
        return None, None
    images, motions = [], []
    for batch in batches:
        have = 0 if batch.history is None else batch.history.shape[1]
        rest = batch.images[:, :1].expand(-1, most - have, -1, -1, -1, -1)
        unknown = torch.full((len(batch), most - have, 4, 4), torch.nan)
        images.append(rest if batch.history is None else torch.cat([batch.history, rest], dim=1))
        motions.append(unknown if batch.T_history_now is None else torch.cat([batch.T_history_now, unknown], dim=1))
    return torch.cat(images), torch.cat(motions)


def load_batches(data: Any, sampler: EpochSampler, workers: int) -> Iterator[Any]:
    """Batches for ever, of a `TrainingSet` or what is addressed like one and has its `collate`.

    Workers are spawned: a forked one dies once a parallel Numba kernel has run here.
    """
    loader = DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=data.collate,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_prepare_worker if workers else None,
    )
    batches = iter(loader)
    while True:
        try:
            yield next(batches)
        except GaussianOccError as error:
            # torch puts the traceback of a worker before the message.
            message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
            raise DatasetError(message) from error


def _prepare_worker(_: int) -> None:
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process' to answer
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


# ---- colours -------------------------------------------------------------------------------------------------------

_LUMINANCE = (0.299, 0.587, 0.114)
# RGB -> luminance and two colour axes (YIQ); turning those two is what changes the hue.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def _draw_jitter(random: np.random.Generator, probability: float) -> ColorJitter:
    """Brightness, contrast, saturation +-0.2, hue +-0.1 with the given probability (docs/method.md#h)."""
    values = random.uniform(-1, 1, 4)
    if random.random() >= probability:
        return ColorJitter()
    brightness, contrast, saturation = 1.0 + 0.2 * values[:3]
    return ColorJitter(float(brightness), float(contrast), float(saturation), 0.1 * float(values[3]))


def jitter_colors(images: Float[Tensor, "*shape 3 H W"], jitter: ColorJitter) -> Float[Tensor, "*shape 3 H W"]:
    """RGB 0-1 changed in brightness, contrast (about the mean luminance), saturation and hue."""
    if jitter == ColorJitter():
        return images
    # Saturation and hue are one matrix; so is all of it but the mean that contrast needs.
    device = images.device
    luminance = torch.tensor(_LUMINANCE, device=device)
    grey = luminance.expand(3, 3)
    saturate = jitter.saturation * torch.eye(3, device=device) + (1.0 - jitter.saturation) * grey
    angle = torch.tensor(2.0 * np.pi * jitter.hue)
    turn = torch.eye(3)
    turn[1:, 1:] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    hue = (torch.linalg.inv(_YIQ) @ turn @ _YIQ).to(device)
    bright = (images * jitter.brightness).clamp(0, 1)
    mean = torch.einsum("c,...chw->...hw", luminance, bright).mean(dim=(-2, -1))[..., None, None, None]
    contrasted = (mean + jitter.contrast * (bright - mean)).clamp(0, 1)
    return torch.einsum("dc,...chw->...dhw", hue @ saturate, contrasted).clamp(0, 1)
