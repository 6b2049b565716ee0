# SPDX-License-Identifier: Apache-2.0
"""What torch says of a few sets of images: recorded with an export, so that a check on the target needs no data.

An `.npz` of plain arrays. `images` (T, N, h, w, 3) RGB at the network's size with their pinhole cameras, poses and
stamps; of each set what is published. And of the last set `NETWORK.in.NAME` and `NETWORK.out.NAME`, so that a program
in any language can check one network alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gaussianocc_core.arrays import read_npz
from gaussianocc_core.backends.backend import ExportedBackend
from gaussianocc_core.backends.engines import Engine
from gaussianocc_core.backends.networks import NETWORKS, Network
from gaussianocc_core.data.bag import open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.errors import CheckpointError, DatasetError
from gaussianocc_core.files import complete_file
from gaussianocc_core.mistakes import reading
from gaussianocc_core.predictor import OccupancyPredictor, Prediction
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.synthetic.rig import default_rig
from gaussianocc_core.synthetic.world import World, render_frame
from gaussianocc_core.types import Cameras

_WORLD, _FIRST_S, _STEP_S = 781, 4.0, 0.25  # a street that no training saw; far enough apart for views from far away
_MOST_BYTES = 1 << 30
_STEPS = 65535  # of a probability, in the file


@dataclass(frozen=True)
class Moment:
    """A set of images as a predictor takes it."""

    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    cameras: Cameras
    T_world_ego: Float[np.ndarray, "4 4"] | None
    stamp_s: float


@dataclass(frozen=True)
class Samples:
    """Recorded sets, and what torch says of them."""

    moments: tuple[Moment, ...]
    labels: UInt8[np.ndarray, "T X Y Z"]
    occupied: Float[np.ndarray, "T X Y Z"]  # probability, by voxel
    inv_depth: Float[np.ndarray, "T N h2 w2"] | None  # 1/m
    networks: Mapping[str, np.ndarray]  # "look.in.pixels", ..., of the last set

    def first(self, count: int) -> Samples:
        """Of so many sets."""
        depth = None if self.inv_depth is None else self.inv_depth[:count]
        return Samples(self.moments[:count], self.labels[:count], self.occupied[:count], depth, self.networks)


def street_moments(count: int, cameras: int) -> Iterator[Moment]:
    """Of a made-up car with as many cameras in a made-up street."""
    rig, world = default_rig(), World(_WORLD)
    if cameras > len(rig):
        raise DatasetError(f"--cameras: the street is made for {len(rig)} cameras at most; give a bag of your robot")
    chosen = rig.select(rig.names[:cameras])
    for k in range(count):
        stamp = _FIRST_S + _STEP_S * k
        yield Moment(
            render_frame(world, chosen, stamp).images, chosen, np.asarray(world.T_world_ego(stamp)), float(stamp)
        )


def bag_moments(path: str, count: int) -> Iterator[Moment]:
    """Of a rosbag2, spread over all of it in runs of three sets."""
    sources = open_bags(BagConfig(path=path))
    if len(sources) > 1:
        names = ", ".join(source.index.name for source in sources)
        raise DatasetError(f"{path}: holds several bags ({names}); give one of them")
    source = sources[0]
    entries = source.entries(semantics=False)
    if len(entries) < count:
        raise DatasetError(f"{path}: has {len(entries)} sets of images, {count} are needed; give a longer bag")
    step = max(1, len(entries) // count)
    for k in range(count):
        sample = entries[(k // 3) * 3 * step + k % 3].load()
        yield Moment(sample.images, sample.cameras, sample.T_world_ego, 1e-9 * sample.stamp_ns)


def rectified(moment: Moment, preprocess: Preprocessor) -> Moment:
    """At the network's size, with the cameras of the rectified images: what is checked needs no lens."""
    lenses = preprocess(moment.cameras)
    images = lenses.rectify(moment.images)
    return Moment(tuple(images), lenses.views(moment.cameras.T_ego_cam), moment.T_world_ego, moment.stamp_s)


class _Recorder:
    """A network in torch, which keeps what came and went.

    What comes is rounded to float16, which halves the file; what goes follows from that.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.inputs = tuple(each.half().float() if each.is_floating_point() else each.clone() for each in inputs)
        with torch.inference_mode():
            self.outputs = self.network.module(*self.inputs)
        return self.outputs


def record(predictor: OccupancyPredictor, moments: Sequence[Moment]) -> tuple[Samples, list[dict[str, np.ndarray]]]:
    """What a predictor whose networks run in torch on the CPU says; and the networks' inputs at each of the moments,
    for calibration."""
    found = [predict(predictor, moment) for moment in moments]
    predictor.reset()
    recorders: dict[str, _Recorder] = {}

    def engines(networks: Mapping[str, Network], cameras: int) -> dict[str, Engine]:
        recorders.update({name: _Recorder(network) for name, network in networks.items()})
        return dict(recorders)

    before = predictor.prepare(len(moments[0].cameras))
    cameras = len(moments[0].cameras)
    predictor.use_backend(
        ExportedBackend("torch", predictor.model, predictor.config, predictor.device, cameras, engines)
    )
    inputs = []
    for moment in moments:
        predict(predictor, moment)
        inputs.append({key: value for key, value in _arrays(recorders).items() if ".in." in key})
    networks = _arrays(recorders)
    predictor.use_backend(before)
    predictor.reset()
    depths = [each.field.inv_depth for each in found]
    samples = Samples(
        tuple(moments),
        np.stack([each.labels for each in found]),
        np.stack([each.opacity for each in found]).astype(np.float32),
        None if depths[0] is None else np.stack([each[0].numpy() for each in depths if each is not None]),
        networks,
    )
    return samples, inputs


def predict(predictor: OccupancyPredictor, moment: Moment) -> Prediction:
    return predictor(moment.images, moment.cameras, moment.T_world_ego, moment.stamp_s)


def _arrays(recorders: Mapping[str, _Recorder]) -> dict[str, np.ndarray]:
    found = {}
    for name in NETWORKS:
        recorder = recorders[name]
        for kind, ports, values in (
            ("in", recorder.network.inputs, recorder.inputs),
            ("out", recorder.network.outputs, recorder.outputs),
        ):
            for port, value in zip(ports, values, strict=True):
                found[f"{name}.{kind}.{port.name}"] = value.contiguous().numpy().copy()
    return found


def save_samples(path: Path, samples: Samples) -> None:
    """As an .npz, of rectified moments that all have a pose or none."""
    first = samples.moments[0].cameras
    arrays: dict[str, np.ndarray] = {
        "images": np.stack([np.stack(each.images) for each in samples.moments]),
        "cameras": np.array(first.names),
        "intrinsics": np.stack([each.cameras.intrinsics.numpy() for each in samples.moments]),
        "T_ego_cam": np.stack([each.cameras.T_ego_cam.numpy() for each in samples.moments]),
        "stamps_s": np.array([each.stamp_s for each in samples.moments]),
        "labels": samples.labels,
        "occupied": np.round(_STEPS * samples.occupied).astype(np.uint16),
    }
    poses = [each.T_world_ego for each in samples.moments]
    if all(each is not None for each in poses):
        arrays["T_world_ego"] = np.stack([np.asarray(each) for each in poses])
    if samples.inv_depth is not None:
        arrays["inv_depth"] = samples.inv_depth
    with complete_file(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **{**arrays, **samples.networks})  # type: ignore[arg-type]


def load_samples(path: Path) -> Samples:
    """CheckpointError where it is none."""
    with reading(f"{path}: as samples of an export it", "export anew", CheckpointError):
        arrays = read_npz(path, _MOST_BYTES)
        names = tuple(map(str, arrays["cameras"]))
        count, height, width = arrays["images"].shape[1:4]
        poses = arrays.get("T_world_ego")
        moments = tuple(
            Moment(
                tuple(images),
                Cameras(names, torch.from_numpy(K), torch.from_numpy(T), (width,) * count, (height,) * count),
                None if poses is None else poses[k],
                float(stamp),
            )
            for k, (images, K, T, stamp) in enumerate(
                zip(arrays["images"], arrays["intrinsics"], arrays["T_ego_cam"], arrays["stamps_s"], strict=True)
            )
        )
        networks = {name: value for name, value in arrays.items() if name.split(".")[0] in NETWORKS}
        occupied = arrays["occupied"].astype(np.float32) / _STEPS
        return Samples(moments, arrays["labels"], occupied, arrays.get("inv_depth"), networks)


__all__ = [
    "Moment",
    "Samples",
    "bag_moments",
    "load_samples",
    "predict",
    "record",
    "rectified",
    "save_samples",
    "street_moments",
]
