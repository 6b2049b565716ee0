# SPDX-License-Identifier: Apache-2.0
"""The values of `device`: where tensors are, and what runs the networks there."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from gaussianocc_core.errors import BackendError

OPENVINO, ONNX, ONNX_CUDA, TENSORRT = "openvino", "onnx", "onnx-cuda", "tensorrt"
FP32, FP16, BF16 = "fp32", "fp16", "bf16"
# In which each can run. float32 is what they take where none is named: it says what torch says. bfloat16 is faster and
# differs (docs/deploy.md).
PRECISIONS = {OPENVINO: (FP32, BF16, FP16), ONNX: (FP32,), ONNX_CUDA: (FP32,), TENSORRT: (FP32, FP16)}
DEVICES = "auto, cpu, cuda, cuda:N, openvino, onnx, onnx-cuda or tensorrt"
_DEVICE = re.compile(rf"(?:auto|cpu|cuda(?::\d+)?|(?P<runtime>{'|'.join(PRECISIONS)})(?::(?P<precision>\w+))?)")


@dataclass(frozen=True)
class Device:
    """What a device says."""

    torch: torch.device  # of the tensors
    runtime: str = ""  # one of PRECISIONS; "": torch
    precision: str = ""  # "": FP32

    def __str__(self) -> str:
        return ":".join(each for each in (self.runtime or str(self.torch), self.precision) if each)


def is_device(text: str) -> bool:
    """Whether it is written as one; it may still not be had here."""
    found = _DEVICE.fullmatch(text)
    return found is not None and (not found["precision"] or found["precision"] in PRECISIONS[found["runtime"]])


def parse_device(text: str) -> Device:
    """BackendError for what is no device, or for CUDA where there is none.

    "auto" is CUDA where there is one, else the CPU, both by torch: so an evaluation says the same everywhere. The node
    goes on from there and measures (`backend.fastest`).
    """
    found = _DEVICE.fullmatch(text)
    if found is None:
        raise BackendError(f"device {text!r}: expected {DEVICES}")
    cuda, runtime, precision = torch.cuda.is_available(), found["runtime"] or "", found["precision"] or ""
    if runtime:
        if precision and precision not in PRECISIONS[runtime]:
            raise BackendError(f"device {text!r}: {runtime} runs in {' or '.join(PRECISIONS[runtime])}")
        on_gpu = runtime in (ONNX_CUDA, TENSORRT) and cuda
        return Device(torch.device("cuda:0" if on_gpu else "cpu"), runtime, precision)
    if text == "auto":
        return Device(torch.device("cuda" if cuda else "cpu"))
    if text.startswith("cuda") and not cuda:
        raise BackendError(f"device {text!r}: this torch ({torch.__version__}) finds no CUDA device; use cpu or auto")
    try:
        return Device(torch.device(text))
    except RuntimeError as error:  # a number that no index holds
        raise BackendError(f"device {text!r}: expected {DEVICES}") from error


__all__ = [
    "BF16",
    "DEVICES",
    "FP16",
    "FP32",
    "ONNX",
    "ONNX_CUDA",
    "OPENVINO",
    "PRECISIONS",
    "TENSORRT",
    "Device",
    "is_device",
    "parse_device",
]
