# SPDX-License-Identifier: Apache-2.0
"""One ONNX file in one runtime: tensors in, tensors out."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gaussianocc_core.backends.device import BF16, FP16, FP32, ONNX, ONNX_CUDA, OPENVINO, TENSORRT, Device
from gaussianocc_core.backends.networks import Network, Port
from gaussianocc_core.backends.onnx_export import require
from gaussianocc_core.errors import BackendError
from gaussianocc_core.mistakes import reason_of

PACKAGES = {OPENVINO: "openvino", ONNX: "onnxruntime", ONNX_CUDA: "onnxruntime", TENSORRT: "onnxruntime"}
_PROVIDERS = {ONNX: "CPUExecutionProvider", ONNX_CUDA: "CUDAExecutionProvider", TENSORRT: "TensorrtExecutionProvider"}
_KEPT = 4  # arrays of each output: a result and the one before it, and what the runtime still holds
_TENSORRT_WORKSPACE = 1 << 30  # bytes


@runtime_checkable
class Engine(Protocol):
    """A network that was compiled. Not for several threads at once."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of their own memory; inputs contiguous, of the sizes and types of the network's ports."""
        ...


def make_engine(device: Device, path: Path, network: Network, cache: Path) -> Engine:
    """Of a device with a runtime; cache: a folder for what that compiles. BackendError says what is missing here."""
    runtime, precision = device.runtime, device.precision or FP32
    require(PACKAGES[runtime], f"which the device {runtime!r} runs on")
    try:
        if runtime == OPENVINO:
            return _OpenVino(path, network, precision, cache)
        return _OnnxRuntime(runtime, path, network, precision, cache, device.torch)
    except BackendError:
        raise
    except Exception as error:  # the runtimes raise kinds of their own
        reason = reason_of(error)
        raise BackendError(f"device {runtime!r}: cannot run {path}: {reason}; use cpu or auto") from error


def missing(runtime: str) -> str:
    """Why a runtime cannot be used here; "" if it can, as far as is known without trying."""
    try:
        require(PACKAGES[runtime], f"which the device {runtime!r} runs on")
        if runtime != OPENVINO:
            _check_provider(runtime)
    except BackendError as error:
        return str(error)
    return ""


@cache
def _openvino_core() -> Any:
    """One for the whole life of the process.

    Its plugin gives the thread that makes it a stack for signals, for the sake of the processor's matrix registers.
    When several plugins go away, the last of these stacks may be one that is gone already, and the next Ctrl-C ends the
    process with a segmentation fault (seen with openvino 2026.4).
    """
    from openvino import Core

    return Core()


class _OpenVino:
    """On the CPU. Its converters, which are not used here, are what openvino-telemetry is about."""

    def __init__(self, path: Path, network: Network, precision: str, folder: Path) -> None:
        """folder: where it keeps what it compiles."""
        from openvino import Tensor as Shared

        core = _openvino_core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {FP32: "f32", BF16: "bf16", FP16: "f16"}[precision],
            "ENABLE_CPU_PINNING": False,  # a robot runs more than this
            "CACHE_DIR": str(folder),
        }
        self._request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
        self._shared, self._inputs, self._outputs = Shared, network.inputs, network.outputs
        self._memory = [_Outputs(port) for port in network.outputs]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = [_checked(each, port) for each, port in zip(inputs, self._inputs, strict=True)]
        outputs = [each.take() for each in self._memory]
        for port, each in zip(self._inputs, given, strict=True):
            self._request.set_tensor(port.name, self._shared(each.numpy(), shared_memory=True))
        for port, each in zip(self._outputs, outputs, strict=True):
            self._request.set_tensor(port.name, self._shared(each.numpy(), shared_memory=True))
        self._request.infer()
        return tuple(outputs)


class _OnnxRuntime:
    """With one execution provider; tensors stay on the device."""

    def __init__(
        self, runtime: str, path: Path, network: Network, precision: str, cache: Path, device: torch.device
    ) -> None:
        import onnxruntime

        _check_provider(runtime)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between two sets take the processor from decoding and from everything else on a robot.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider: Any = _PROVIDERS[runtime]
        if runtime == TENSORRT:
            provider = (
                provider,
                {
                    "device_id": device.index or 0,
                    "trt_fp16_enable": precision == FP16,
                    "trt_engine_cache_enable": True,
                    "trt_engine_cache_path": str(cache),
                    "trt_timing_cache_enable": True,
                    "trt_timing_cache_path": str(cache),
                    "trt_max_workspace_size": _TENSORRT_WORKSPACE,
                },
            )
        elif runtime == ONNX_CUDA:
            provider = (provider, {"device_id": device.index or 0})
        more = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if runtime == TENSORRT else []
        self._session = onnxruntime.InferenceSession(str(path), options, providers=[provider, *more])
        if _PROVIDERS[runtime] not in self._session.get_providers():
            raise BackendError(
                f"device {runtime!r}: ONNX Runtime could not start {_PROVIDERS[runtime]} (its libraries are missing or "
                "of another version); use cpu or auto"
            )
        self._binding, self._device = self._session.io_binding(), device
        self._inputs, self._outputs = network.inputs, network.outputs
        self._memory = [_Outputs(port) for port in network.outputs]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = [_checked(each, port) for each, port in zip(inputs, self._inputs, strict=True)]
        if self._device.type == "cpu":
            outputs = [each.take() for each in self._memory]
        else:
            outputs = [torch.empty(port.shape, dtype=port.dtype, device=self._device) for port in self._outputs]
        for port, each in zip(self._inputs, given, strict=True):
            self._binding.bind_input(**self._place(port, each))
        for port, each in zip(self._outputs, outputs, strict=True):
            self._binding.bind_output(**self._place(port, each))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what torch computes on its stream is read on another
        self._session.run_with_iobinding(self._binding)
        return tuple(outputs)

    def _place(self, port: Port, tensor: Tensor) -> dict[str, Any]:
        return {
            "name": port.name,
            "device_type": self._device.type,
            "device_id": self._device.index or 0,
            "element_type": np.uint8 if port.dtype == torch.uint8 else np.float32,
            "shape": list(port.shape),
            "buffer_ptr": tensor.data_ptr(),
        }


class _Outputs:
    """Memory of outputs, used again once nobody has a view of it: to take it from the system anew costs as much as a
    convolution. On the CPU."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._known: list[np.ndarray] = []

    def take(self) -> Tensor:
        for k in range(len(self._known)):
            # The list's and the call's own: a tensor that was made from an array keeps it, and so does its every view.
            if sys.getrefcount(self._known[k]) == 2:
                return torch.from_numpy(self._known[k])
        array = np.empty(self._port.shape, dtype=np.float32)
        if len(self._known) < _KEPT:
            self._known.append(array)
        return torch.from_numpy(array)


def _checked(tensor: Tensor, port: Port) -> Tensor:
    """Contiguous: the runtimes read memory as it lies."""
    if tuple(tensor.shape) != port.shape or tensor.dtype != port.dtype:
        raise ValueError(f"{port.name}: expected {port.dtype} {port.shape}, got {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.contiguous()


def _check_provider(runtime: str) -> None:
    import onnxruntime

    provider = _PROVIDERS[runtime]
    if provider not in onnxruntime.get_available_providers():
        package = "onnxruntime-gpu (Jetson: NVIDIA's wheel for its JetPack)"
        raise BackendError(
            f"device {runtime!r}: this ONNX Runtime ({onnxruntime.__version__}) has no {provider}; install {package} "
            "in place of onnxruntime, or use cpu or auto"
        )


__all__ = ["Engine", "make_engine", "missing"]
