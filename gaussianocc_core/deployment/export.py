# SPDX-License-Identifier: Apache-2.0
"""A model file -> a folder of ONNX networks for a rig of so many cameras (`backends.folder`)."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gaussianocc_core._version import __version__
from gaussianocc_core.backends.cache import weights_hash
from gaussianocc_core.backends.device import FP16, FP32
from gaussianocc_core.backends.folder import (
    MODEL,
    SAMPLES,
    ExportFolder,
    check_replaceable,
    file_hash,
    is_export,
    read_folder,
    write_folder,
)
from gaussianocc_core.backends.networks import NETWORKS, networks_of
from gaussianocc_core.backends.onnx_export import OPSET, require, write_onnx
from gaussianocc_core.checkpoint import find_weights
from gaussianocc_core.config import to_dict
from gaussianocc_core.deployment.samples import bag_moments, record, rectified, save_samples, street_moments
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.files import complete_file, discard_hidden_folder, make_hidden_folder, replace_folder
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.preprocess import Preprocessor

INT8 = "int8"
EXPORT_PRECISIONS = (FP32, FP16, INT8)
KEPT = 3  # sets that are recorded with an export
_CALIBRATION = 12  # sets that ranges of int8 are found on, of a bag; of the street as many as are recorded
_LEAST_OPSET = 16  # of the standard operators that the networks take

_log = logging.getLogger(__name__)


def export_model(
    checkpoint: str | Path,
    output: Path,
    precision: str = FP32,
    opset: int = OPSET,
    cameras: int = 6,
    bag: str = "",
) -> ExportFolder:
    """Writes the folder. bag: of the robot, whose first images are recorded and, in int8, calibrate; "": a made-up
    street. It appears when it is complete; an export of the same name is replaced, nothing else."""
    require("onnx", "which networks are exported with")
    if precision != FP32:
        require("onnxruntime", f"which makes networks {precision}")
    if opset < _LEAST_OPSET:
        raise DatasetError(f"--opset: expected at least {_LEAST_OPSET}, got {opset}")
    if cameras < 1:
        raise DatasetError(f"--cameras: expected at least 1, got {cameras}")
    place = output.resolve()  # a link stays one
    check_replaceable(place)
    source = read_folder(checkpoint).model if is_export(checkpoint) else find_weights(checkpoint)
    predictor = OccupancyPredictor.from_checkpoint(source, device="cpu", memory=False)  # networks alone
    count = KEPT if precision != INT8 or not bag else _CALIBRATION
    preprocess = Preprocessor.of(predictor.config)
    given = bag_moments(bag, count) if bag else street_moments(count, cameras)
    moments = [rectified(each, preprocess) for each in islice(given, count)]
    cameras = len(moments[0].cameras)
    samples, calibration = record(predictor, moments)
    networks = networks_of(predictor.model, predictor.config, cameras)
    about = _about(predictor, source, cameras, precision, opset, bag)
    hidden = make_hidden_folder(place)
    try:
        new = hidden / place.name
        new.mkdir()
        for name in NETWORKS:
            path = new / f"{name}.onnx"
            told = {"network": name, **{key: _text(value) for key, value in about.items()}}
            write_onnx(path, networks[name], told, opset)
            if precision == FP16:
                _make_half(path)
            elif precision == INT8:
                ports = [port.name for port in networks[name].inputs]
                _quantize(path, [{port: each[f"{name}.in.{port}"] for port in ports} for each in calibration])
        shutil.copyfile(source, new / MODEL)
        save_samples(new / SAMPLES, samples.first(KEPT))
        folder = write_folder(new, cameras, precision, about)
        replace_folder(place, new, hidden / f"{place.name}.replaced")
    finally:
        discard_hidden_folder(place, hidden)
    return replace(folder, path=output)


def _about(
    predictor: OccupancyPredictor, source: Path, cameras: int, precision: str, opset: int, bag: str
) -> dict[str, Any]:
    """What an integrator needs to know of the networks; it stands in the index and in each of them."""
    config = predictor.config
    return {
        "gaussianocc": __version__,
        "checkpoint": source.name,
        "checkpoint_sha256": file_hash(source),
        "weights_sha256": weights_hash(predictor.model, config),
        "training": predictor.provenance.training if predictor.provenance else "untrained",
        "config": to_dict(config),
        "class_names": list(config.class_names),
        "grid": to_dict(config.grid),
        "cameras": cameras,
        "precision": precision,
        "opset": opset,
        "samples": Path(bag).name if bag else "street",
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _make_half(path: Path) -> None:
    """Weights and maps in float16, inputs and outputs in float32 as before."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
    with complete_file(path) as partial:
        onnx.save_model(model, str(partial))


def _quantize(path: Path, calibration: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Convolutions in 8 bits, with the ranges that these inputs have; where points are looked at alone, float32 stays:
    those layers are few operations, and a logit is a sum of theirs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, np.ndarray]] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self._left, None)
            return None if found is None else dict(found)

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends another step, by the root logger
    try:
        with complete_file(path) as partial:
            quantize_static(
                str(path),
                str(partial),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logging.getLogger().setLevel(level)


__all__ = ["EXPORT_PRECISIONS", "INT8", "export_model"]
