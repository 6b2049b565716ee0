# SPDX-License-Identifier: Apache-2.0
"""Train from a configuration: `python -m gaussianocc_core.train CONFIG key=value ...`.

What is here fits the network to Occ3D labels: the supervised loss of the specification, cross-entropy on voxels, plus
the same for the Gaussians' opacity. It makes the first weights; it is not the self-supervised method.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from gaussianocc_core import losses, metrics
from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.config import ModelConfig, load_config, to_dict
from gaussianocc_core.data.labels import FREE
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import ConfigError, DatasetError, GaussianOccError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.models.gaussianocc import GaussianOcc, build_model
from gaussianocc_core.models.lifting import plan_lift
from gaussianocc_core.predictor import resolve_device
from gaussianocc_core.types import Cameras, Lattice, Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataConfig:
    dataroot: str = ""
    version: str = "v1.0-mini"
    held_out: int = 2  # last scenes of the data set that training never reads


@dataclass(frozen=True)
class TrainConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    output: str = "runs/supervised_tiny"
    device: str = "auto"
    seed: int = 0
    steps: int = 600  # one sample each
    # Peaks of the one-cycle schedule. The 3D network sees one sample a step and its scale does not matter (batch norm
    # everywhere): it takes very large steps (measured 2026-11, 250 steps: loss 0.98 at 6e-3, 0.68 at 6e-2).
    learning_rate: float = 6e-2
    encoder_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    part: float = 0.5  # of the lattice's length and width that a step works on, at a random place
    calibration_samples: int = 16  # training keyframes that the offset of the free logit is measured on
    norm_momentum: float = 0.03  # steps see one sample: the statistics that inference uses average over some thirty
    seen_voxels: int = 20000  # per step, of mask_camera
    hidden_voxels: int = 5000  # per step, of the rest: what is behind things is a guess, but a consistent one
    hidden_weight: float = 0.25
    # Occupied voxels are one in twenty of what cameras see and are drawn this many times as often as they occur, seen
    # and hidden ones alike: one offset of the free logit, measured afterwards, undoes it for both.
    surface_odds: float = 3.0
    # Nine in ten visible voxels are free. The published 1/sqrt(frequency) is meant for pixels; on voxels it makes the
    # network fill space (measured 2026-11: IoU 0.12 where flat ground has 0.43).
    balance: float = 0.2  # class weights are frequency ^ -balance
    opacity_weight: float = 0.5
    brightness: float = 0.2  # +- relative, the same for all cameras of a sample
    training_note: str = "supervised on labels"  # goes into the model card


@dataclass(frozen=True)
class PreparedSample:
    """A keyframe at network size, kept in memory."""

    images: UInt8[np.ndarray, "N h w 3"]
    cameras: Cameras  # network size, T_ego_cam relative to the labels' ego frame
    semantics: UInt8[np.ndarray, "X Y Z"]
    mask_camera: Bool[np.ndarray, "X Y Z"]


def prepare(sample: Sample, config: ModelConfig) -> PreparedSample:
    """Rectifies the images and moves each camera to where it was relative to the frame that the labels are in."""
    labels = sample.occupancy
    if labels is None:
        raise DatasetError(f"{sample.scene}: keyframe {sample.token} has no labels.npz under gts/")
    if labels.semantics.shape != config.grid.shape:
        raise DatasetError(
            f"{sample.scene}: labels of keyframe {sample.token} have shape {labels.semantics.shape}, "
            f"the model's grid has {config.grid.shape}"
        )
    rectifier = Rectifier(in_label_frame(sample), config.image_width, config.image_height, config.fisheye_fov_deg)
    return PreparedSample(rectifier(sample.images), rectifier.cameras, labels.semantics, labels.mask_camera)


def in_label_frame(sample: Sample) -> Cameras:
    """The sample's cameras relative to the ego frame of its labels, each from where it was at its own image time."""
    labels = sample.occupancy
    if labels is None or labels.T_world_ego is None:
        return sample.cameras
    T_world_ego = torch.from_numpy(sample.meta["T_world_ego_per_camera"])
    return camera_geometry.relocate(sample.cameras, T_world_ego, torch.from_numpy(labels.T_world_ego))


def mirror(sample: PreparedSample) -> PreparedSample:
    """The same street seen in a mirror at y = 0: a second sample for free, with left and right exchanged."""
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))  # image columns, camera x
    side = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))  # ego y
    intrinsics = sample.cameras.intrinsics.clone()
    intrinsics[:, 0, 2] = torch.tensor(sample.cameras.width) - intrinsics[:, 0, 2]
    cameras = Cameras(
        sample.cameras.names,
        intrinsics,
        side @ sample.cameras.T_ego_cam @ flip,
        sample.cameras.width,
        sample.cameras.height,
    )
    return PreparedSample(
        np.ascontiguousarray(sample.images[:, :, ::-1]), cameras, sample.semantics[:, ::-1], sample.mask_camera[:, ::-1]
    )


def train_step(
    model: GaussianOcc,
    sample: PreparedSample,
    config: TrainConfig,
    weights: Float[Tensor, " K"],
    random: np.random.Generator,
) -> dict[str, Tensor]:
    """Named losses of one sample on a random part of the lattice; `total` is what is minimised."""
    device = weights.device
    part = _draw_part(model.lattice, config.part, random)
    plan = plan_lift(sample.cameras.to(device), lattice_geometry.points(part, device))
    gain = 1.0 + config.brightness * float(random.uniform(-1, 1))
    # Cameras that see nothing of the part cannot change the loss.
    used = [n for n, points in enumerate(plan.points) if len(points)] or list(range(len(plan.points)))
    plan = replace(plan, points=tuple(plan.points[n] for n in used), positions=tuple(plan.positions[n] for n in used))
    images = torch.from_numpy(sample.images[used]).to(device).permute(0, 3, 1, 2)[None].float() * (gain / 255.0)
    field = model(images.clamp(max=1.0), [plan])

    seen, hidden = _draw_voxels(sample, config, part, random)
    index = np.concatenate([seen, hidden])
    cell = np.stack(np.unravel_index(index, sample.semantics.shape), axis=-1)
    positions = torch.from_numpy(voxels.index_centers(config.model.grid, cell)).float().to(device)
    labels = torch.from_numpy(sample.semantics.reshape(-1)[index].astype(np.int64)).to(device)
    logits = lattice_geometry.sample(field.logits, part, positions)[0].T  # (P, K)

    importance = torch.ones(len(index), device=device)
    importance[len(seen) :] = config.hidden_weight
    entropy, weight = losses.semantic_cross_entropy(logits, labels, weights)
    semantic = (entropy * importance).sum() / (weight * importance).sum()
    opacity = (losses.opacity_cross_entropy(logits[:, FREE], labels, FREE) * importance).sum() / importance.sum()
    return {"semantic": semantic, "opacity": opacity, "total": semantic + config.opacity_weight * opacity}


def _draw_part(lattice: Lattice, share: float, random: np.random.Generator) -> Lattice:
    """A part of the lattice, full in height: the network is a convolution, so a step on a part costs that part only."""
    shape = [max(8, round(count * share / 4) * 4) for count in lattice.shape[:2]]  # strides of 4 in the hourglass
    start = [4 * int(random.integers((count - n) // 4 + 1)) for count, n in zip(lattice.shape, shape, strict=False)]
    return lattice_geometry.crop(lattice, (start[0], start[1], 0), (shape[0], shape[1], lattice.shape[2]))


def _draw_voxels(
    sample: PreparedSample, config: TrainConfig, part: Lattice, random: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Flat indices of voxels in the part that cameras see, and of the others in it."""
    grid = config.model.grid
    inside = [
        (voxels.axis_centers(grid, axis) > part.low[axis]) & (voxels.axis_centers(grid, axis) < part.high[axis])
        for axis in range(3)
    ]
    in_part = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
    occupied = sample.semantics != FREE
    return tuple(
        _draw_stratified(in_part & region & occupied, in_part & region & ~occupied, count, config.surface_odds, random)
        for region, count in ((sample.mask_camera, config.seen_voxels), (~sample.mask_camera, config.hidden_voxels))
    )


def _draw_stratified(
    occupied: np.ndarray, free: np.ndarray, count: int, odds: float, random: np.random.Generator
) -> np.ndarray:
    """Flat indices of `count` voxels drawn with replacement, occupied ones `odds` times as often as they occur."""
    strata = np.flatnonzero(occupied), np.flatnonzero(free)
    share = odds * len(strata[0]) / max(odds * len(strata[0]) + len(strata[1]), 1)
    counts = round(count * share), count - round(count * share)
    return np.concatenate(
        [random.choice(index, number) if len(index) else index for index, number in zip(strata, counts, strict=True)]
    )


def balanced_class_weights(samples: Sequence[PreparedSample], power: float) -> Float[np.ndarray, " K"]:
    """Cross-entropy weights frequency^-power over the voxels that cameras see; 0 for a class that never occurs."""
    counts = sum(np.bincount(s.semantics[s.mask_camera], minlength=FREE + 1) for s in samples)
    frequency = np.asarray(counts, dtype=np.float64) / np.sum(counts)
    weights = np.zeros(FREE + 1, dtype=np.float32)
    weights[frequency > 0] = frequency[frequency > 0] ** -power
    return weights


def train(config: TrainConfig) -> Path:
    """Runs the training; returns the model file. The run folder holds config.yaml, metrics.jsonl, model.safetensors."""
    if config.steps < 1:
        raise ConfigError(f"steps: expected at least 1, got {config.steps}")
    device = resolve_device(config.device)
    torch.manual_seed(config.seed)
    random = np.random.default_rng(config.seed)
    samples = _load_samples(config)  # first: a mistake in the data leaves no run folder
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: {output} cannot be a folder ({error.strerror}); choose another") from error
    (output / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")

    weights = torch.from_numpy(balanced_class_weights(samples, config.balance)).to(device)
    model = build_model(config.model).to(device).train()
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            module.momentum = config.norm_momentum
    rates = [config.encoder_learning_rate, config.learning_rate]
    networks = (model.image_encoder, model.voxel_decoder)
    optimiser = torch.optim.AdamW([{"params": n.parameters()} for n in networks], weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, config.steps, pct_start=0.15)
    started, started_cpu = time.monotonic(), time.process_time()
    done = 0
    with (output / "metrics.jsonl").open("w", buffering=1, encoding="utf-8") as log:
        progress = tqdm(_epochs(samples, random), total=config.steps, unit="step", disable=None)
        try:
            for done, sample in zip(range(1, config.steps + 1), progress, strict=False):
                named = train_step(model, sample, config, weights, random)
                if not torch.isfinite(named["total"]):
                    raise GaussianOccError(f"step {done}: the loss is not finite; lower learning_rate")
                optimiser.zero_grad(set_to_none=True)
                named["total"].backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimiser.step()
                schedule.step()
                scalars = {name: round(value.item(), 5) for name, value in named.items()}
                cpu_s = round(time.process_time() - started_cpu, 2)
                log.write(json.dumps({"step": done, "cpu_s": cpu_s, **scalars}) + "\n")
                progress.set_postfix({name: f"{value:.3f}" for name, value in scalars.items()})
        except KeyboardInterrupt:
            _log.warning("stopped after %d of %d steps; the model so far is kept", done, config.steps)
    minutes, cpu_minutes = (time.monotonic() - started) / 60, (time.process_time() - started_cpu) / 60
    _log.info("%d steps in %.1f min, %.1f CPU minutes", done, minutes, cpu_minutes)
    calibrate_free_space(model.eval(), samples, config)
    path = output / "model.safetensors"
    provenance = Provenance(config.training_note, commit=_commit(), seed=config.seed, steps=done)
    save_model(path, model.eval(), config.model, provenance, half=True)
    return path


@torch.no_grad()
def calibrate_free_space(model: GaussianOcc, samples: Sequence[PreparedSample], config: TrainConfig) -> float:
    """Finds the shift of the free logit with the highest IoU over the whole grid, builds it in and returns it.

    Training draws surfaces far more often than they occur, so the raw network claims too much.
    """
    shifts = np.arange(-4.0, 6.01, 0.25)
    confusions = [np.zeros((FREE + 1, FREE + 1), dtype=np.int64) for _ in shifts]
    everywhere = np.ones(config.model.grid.shape, dtype=bool)
    device = model.points.device
    for sample in samples[:: max(1, len(samples) // config.calibration_samples)]:
        images = torch.from_numpy(sample.images).to(device).permute(0, 3, 1, 2)[None].float() / 255.0
        field = model(images, [model.plan(sample.cameras.to(device))])
        logits = model.sample_grid(field, config.model.grid)[0]
        free, (best, label) = logits[FREE], logits[:FREE].max(dim=0)
        for shift, confusion in zip(shifts, confusions, strict=True):
            labels = torch.where(best > free + shift, label, FREE).to(torch.uint8).cpu().numpy()
            confusion += metrics.confusion_matrix(sample.semantics, labels, everywhere)
    shift = float(shifts[int(np.argmax([metrics.occupancy_summary(each)["iou"] for each in confusions]))])
    model.voxel_decoder.class_offset[FREE] += shift
    return shift


def _load_samples(config: TrainConfig) -> list[PreparedSample]:
    source = NuScenesSource(config.data.dataroot, config.data.version)
    available = source.scene_names()
    scenes = available[: -config.data.held_out or None]
    if not scenes:
        raise DatasetError(
            f"{config.data.dataroot}: {len(available)} scenes, none left after data.held_out={config.data.held_out}; "
            "hold out fewer, e.g. data.held_out=0"
        )
    scenes_bar = tqdm(scenes, desc="reading scenes", unit="scene", disable=None)
    return [prepare(sample, config.model) for scene in scenes_bar for sample in source.samples(scene)]


def _epochs(samples: Sequence[PreparedSample], random: np.random.Generator) -> Iterator[PreparedSample]:
    """Every sample once an epoch in random order, mirrored half of the time, for ever."""
    while True:
        for index in random.permutation(len(samples)):
            yield mirror(samples[index]) if random.random() < 0.5 else samples[index]


def _commit() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gaussianocc_core.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m gaussianocc_core.train config/train/supervised_tiny.yaml "
        "data.dataroot=out/street steps=100 output=runs/try",
    )
    parser.add_argument("config", help="YAML file with what differs from the defaults; see config/train/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = train(load_config(options.config, TrainConfig, options.overrides))
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; no model was written", file=sys.stderr)
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
