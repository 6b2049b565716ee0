# SPDX-License-Identifier: Apache-2.0
"""Whether exported networks say what torch said, on the samples that were recorded with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gaussianocc_core.backends.backend import ExportedBackend
from gaussianocc_core.backends.device import BF16, FP16, FP32, parse_device
from gaussianocc_core.backends.folder import ExportFolder
from gaussianocc_core.backends.networks import NETWORKS
from gaussianocc_core.deployment.samples import Samples, load_samples, predict
from gaussianocc_core.errors import BackendError, CheckpointError
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED
from gaussianocc_core.mistakes import reading
from gaussianocc_core.predictor import OccupancyPredictor


@dataclass(frozen=True)
class Tolerances:
    """What may differ; each is twice or more what was measured with the shipped model (docs/deploy.md)."""

    network: float  # mean difference of a network's output, in standard deviations of it
    labels: float  # share of the observed voxels of another label
    probability: float  # mean difference, by observed voxel, of the probability that it is occupied
    depth: float  # median difference of log depth


TOLERANCES = {
    FP32: Tolerances(1e-4, 1e-3, 1e-4, 1e-4),
    FP16: Tolerances(1e-2, 5e-3, 2e-3, 2e-3),
    BF16: Tolerances(3e-2, 1e-2, 5e-3, 1e-2),
    "int8": Tolerances(2.5e-1, 6e-2, 3e-2, 3e-2),
}
_ROUGHEST = (FP32, FP16, BF16, "int8")  # in this order


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    found: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.found <= self.tolerance  # of NaN: no


def check_export(folder: ExportFolder, device: str = "onnx") -> list[Row]:
    """Of the networks alone, and of what is published. device: one with another runtime than torch, or cpu: torch
    itself, on another machine than it was recorded on."""
    samples = load_samples(folder.samples)
    chosen = parse_device(device)
    predictor = OccupancyPredictor.from_checkpoint(folder.path, device=device, memory=False)  # networks alone
    backend = predictor.prepare(folder.cameras, compare=False)  # what differs is what is asked
    rough = max(folder.precision, chosen.precision or FP32, key=_ROUGHEST.index) if chosen.runtime else FP32
    tolerances = TOLERANCES[rough]
    rows = []
    with reading(f"{folder.samples}: what was recorded", "export anew", CheckpointError):  # keys and shapes of a file
        if isinstance(backend, ExportedBackend):
            rows = [_check_network(backend, samples, name, tolerances) for name in NETWORKS]
        return rows + _check_voxels(predictor, samples, tolerances)


def _check_network(backend: ExportedBackend, samples: Samples, name: str, tolerances: Tolerances) -> Row:
    network = backend.networks[name]
    inputs = [
        torch.from_numpy(samples.networks[f"{name}.in.{port.name}"]).to(backend.device) for port in network.inputs
    ]
    found = backend.run(name, *inputs)
    worst = 0.0
    for port, value in zip(network.outputs, found, strict=True):
        expected = samples.networks[f"{name}.out.{port.name}"]
        scale = max(float(expected.std()), 0.1 * float(np.abs(expected).mean()), 1e-6)
        difference = float(np.abs(value.float().cpu().numpy() - expected).mean()) / scale
        worst = max(worst, difference) if np.isfinite(difference) else float("inf")
    return Row(f"{name}.onnx: worst output, mean difference / deviation", worst, tolerances.network)


def _check_voxels(predictor: OccupancyPredictor, samples: Samples, tolerances: Tolerances) -> list[Row]:
    labels, probabilities, depths, hidden = [], [], [], 0
    for k, moment in enumerate(samples.moments):
        found = predict(predictor, moment)
        seen = found.observed | (samples.labels[k] < UNOBSERVED)  # what it fails to see is a difference as well
        labels.append(float((found.labels != samples.labels[k])[seen].mean()))
        hidden += int((samples.labels[k] < OCCLUDED).sum())
        probabilities.append(float(np.abs(found.opacity - samples.occupied[k])[seen].mean()))
        if samples.inv_depth is not None and found.field.inv_depth is not None:
            said = found.field.inv_depth[0].float().cpu().numpy()
            depths.append(float(np.median(np.abs(np.log(said / samples.inv_depth[k])))))
    if not hidden:
        raise BackendError("samples: torch saw nothing in them; export with --bag, of a robot that sees something")
    rows = [
        Row("voxels: share of another label, worst set", max(labels), tolerances.labels),
        Row("voxels: mean difference of probability, worst set", max(probabilities), tolerances.probability),
    ]
    if depths:
        rows.append(Row("depth: median difference of its logarithm, worst set", max(depths), tolerances.depth))
    return rows


def table(rows: list[Row]) -> str:
    """Lines for a terminal."""
    wide = max(len(row.what) for row in rows)
    lines = [f"{'':{wide}}  {'found':>9}  {'at most':>9}"]
    lines += [
        f"{row.what:{wide}}  {row.found:9.2e}  {row.tolerance:9.2e}  {'' if row.good else 'OUT OF TOLERANCE'}".rstrip()
        for row in rows
    ]
    return "\n".join(lines)


__all__ = ["TOLERANCES", "Row", "Tolerances", "check_export", "table"]
