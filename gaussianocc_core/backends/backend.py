# SPDX-License-Identifier: Apache-2.0
"""One small interface to what runs a model's networks: torch, which is the reference, or another runtime.

    backend = open_backend("openvino", model, config, cameras=6)
    look = backend.look(pixels)                          # before anything is matched
    field = backend.decide(look, plan, sources)          # behind it

`fastest` measures which of them that is here.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gaussianocc_core.backends.cache import cache_folder, code_hash, versions, weights_hash
from gaussianocc_core.backends.device import FP32, ONNX, ONNX_CUDA, OPENVINO, TENSORRT, Device
from gaussianocc_core.backends.engines import Engine, make_engine, missing
from gaussianocc_core.backends.folder import ExportFolder
from gaussianocc_core.backends.kept import Entry, make_room, open_entry
from gaussianocc_core.backends.networks import DECODE, LOOK, NETWORKS, SEE, Network, networks_of
from gaussianocc_core.backends.onnx_export import OPSET, write_onnx
from gaussianocc_core.errors import BackendError
from gaussianocc_core.mistakes import one_line, reason_of
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DEPTH_STRIDE
from gaussianocc_core.models.depth_refinement import refine_depth
from gaussianocc_core.models.detail_head import DETAIL_CHANNELS
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.models.image_encoder import Look
from gaussianocc_core.models.lifting import LiftPlan
from gaussianocc_core.models.matching import Sources
from gaussianocc_core.models.matching_net import MatchingHead, sweep_features
from gaussianocc_core.types import OccupancyField

_log = logging.getLogger(__name__)

MakeEngines = Callable[[Mapping[str, Network], int], dict[str, Engine]]

_WORTH = 0.85  # of the time of torch, that another runtime may take at most
_TRIALS = 5  # of each runtime, when the fastest is sought
# By how much a runtime may differ from torch, mean over a network's output, in standard deviations of that: bfloat16
# has 8 bits. One that differs by more computes something else.
_MOST_DIFFERENCE = 0.03
_MOST_DIFFERENCE_INT8 = 1.0  # with inputs that its ranges were not found on


@runtime_checkable
class Backend(Protocol):
    """Runs the networks of one model. Not for several threads at once."""

    @property
    def name(self) -> str:
        """For logs: what runs them, and in which precision."""
        ...

    def look(self, pixels: UInt8[np.ndarray, "N h w 3"]) -> Look:
        """The first maps of RGB images at the network's size."""
        ...

    def decide(self, look: Look, plan: LiftPlan, sources: Sources | None) -> OccupancyField:
        """From them to the field, of one element; plan and sources as `GaussianOcc.forward` takes them."""
        ...


class TorchBackend:
    """The reference."""

    def __init__(self, model: GaussianOcc, device: torch.device) -> None:
        self._model, self._device = model, device
        self.name = f"torch on {device}"

    def look(self, pixels: UInt8[np.ndarray, "N h w 3"]) -> Look:
        batch = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)[None].float() / 255.0
        return self._model.look(batch)

    def decide(self, look: Look, plan: LiftPlan, sources: Sources | None) -> OccupancyField:
        return self._model.decide_from(look, [plan], sources)


class ExportedBackend:
    """Exported networks in a runtime; sweep, refinement and lift between them as in torch.

    Sizes are fixed, so there are engines for one number of cameras. Fewer are made up for by empty images, whose
    results are dropped; for more the engines are made anew.
    """

    def __init__(
        self,
        name: str,
        model: GaussianOcc,
        config: ModelConfig,
        device: torch.device,
        cameras: int,
        engines: MakeEngines,
    ) -> None:
        """name: for logs; device: of the tensors; engines: makes those of the networks for a number of cameras."""
        self.name = name
        self._model, self._config, self.device, self._make_engines = model, config, device, engines
        self._prepare(cameras)

    def _prepare(self, cameras: int) -> None:
        self.networks = networks_of(self._model, self._config, cameras)
        self._engines = self._make_engines(self.networks, cameras)
        self.cameras = cameras

    def run(self, network: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One network, on inputs of its sizes."""
        return self._engines[network](*inputs)

    def look(self, pixels: UInt8[np.ndarray, "N h w 3"]) -> Look:
        count = len(pixels)
        if count > self.cameras:
            _log.info("%s: engines for %d cameras in place of %d", self.name, count, self.cameras)
            self._prepare(count)
        found = self.run(LOOK, self._fill_up(torch.from_numpy(pixels).to(self.device)))
        features = found[1][:count].permute(0, 3, 1, 2) if len(found) > 1 else None
        return Look(found[0][:count], features)

    def decide(self, look: Look, plan: LiftPlan, sources: Sources | None) -> OccupancyField:
        maps, inv_depth, log_error = self._see(look, plan, sources)
        (said,) = self.run(DECODE, self._lift(maps, inv_depth, log_error, plan))
        logits = said.permute(3, 0, 1, 2)[None]
        inverse, error = (None if each is None else each[None] for each in (inv_depth, log_error))
        if self._model.detail_head is None:
            return OccupancyField(logits, inverse, error)
        return OccupancyField(logits[:, :-DETAIL_CHANNELS], inverse, error, logits[:, -DETAIL_CHANNELS:])

    def _see(self, look: Look, plan: LiftPlan, sources: Sources | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `depth_net.match`: features (N, h, w, C), inverse depth and the log of its expected error."""
        count, head = len(look.stride4), self._model.depth_head
        given = {"stride4": look.stride4, "rays": plan.rays, "ground": plan.ground, "lens": plan.lens}
        if look.features is not None:
            given["features"] = look.features.permute(0, 2, 3, 1)
        if isinstance(head, MatchingHead):
            assert look.features is not None
            volume, seen = sweep_features(look.features, sources, head.config, head.far)
            given["volume"], given["seen"] = volume.permute(0, 2, 3, 1), seen.permute(0, 2, 3, 1)
        inputs = []
        for port in self.networks[SEE].inputs:
            value = given[port.name]
            assert value is not None, port.name
            inputs.append(self._fill_up(value.to(port.dtype)))
        maps, *depths = (each[:count] for each in self.run(SEE, *inputs))
        inv_depth = depths[0] if depths else None
        log_error = depths[1] if len(depths) > 1 else None
        if inv_depth is not None and log_error is not None and sources is not None and sources.far is not None:
            assert look.features is not None
            inv_depth, log_error = refine_depth(look.features, sources.far, DEPTH_STRIDE, inv_depth, log_error)
        return maps, inv_depth, log_error

    def _lift(
        self, maps: Tensor, inv_depth: Tensor | None, log_error: Tensor | None, plan: LiftPlan
    ) -> Float[Tensor, "X Y Z C2"]:
        if self.device.type == "cpu":
            from gaussianocc_core.models.lift_cpu import can_fill, filler_of  # here: it imports Numba

            if can_fill(plan, maps):
                filler = filler_of(plan, maps, inv_depth, log_error, self._model.position)
                return filler.fill(maps, inv_depth, log_error, reuse=True)
        inverse, error = (None if each is None else each[None] for each in (inv_depth, log_error))
        return self._model.lift(maps.permute(0, 3, 1, 2)[None], inverse, [plan], error)[0].permute(1, 2, 3, 0)

    def _fill_up(self, values: Tensor) -> Tensor:
        short = self.cameras - len(values)
        return values if not short else torch.cat([values, values.new_zeros(short, *values.shape[1:])])


def open_backend(
    device: Device,
    model: GaussianOcc,
    config: ModelConfig,
    cameras: int,
    folder: ExportFolder | None = None,
    compare: bool = True,
) -> Backend:
    """What the device says; cameras: as many as will be given as a rule; folder: of networks that were exported, else
    they are exported to the cache. The model is in eval mode, on the device. BackendError where the runtime cannot be
    had, or, unless compare is false, where the folder's networks are not the model's."""
    if not device.runtime:
        return TorchBackend(model, device.torch)
    if problem := missing(device.runtime):
        raise BackendError(problem)
    engines = _cached_engines(device, model, config) if folder is None else _engines_of(device, folder)
    count = cameras if folder is None else folder.cameras
    name = f"{device.runtime} in {device.precision or FP32}"
    if folder is not None:
        name += f", exported in {folder.precision}"
    backend = ExportedBackend(name, model, config, device.torch, count, engines)
    if folder is not None and compare:
        _check_same(backend, folder)
    return backend


def _check_same(backend: ExportedBackend, folder: ExportFolder) -> None:
    """BackendError where files that may have come from somebody are not the networks of the model beside them, which
    alone has passed its self-test: others may call everything free."""
    most = _MOST_DIFFERENCE_INT8 if folder.precision == "int8" else _MOST_DIFFERENCE
    for name, network in backend.networks.items():
        inputs = tuple(each.to(backend.device) for each in network.examples())
        try:
            difference = _difference(backend.run(name, *inputs), _run_torch(network, inputs))
        except Exception as error:  # the runtimes raise kinds of their own, for other names and sizes
            raise BackendError(f"{folder.file(name)}: cannot be run ({reason_of(error)}); export anew") from error
        if not difference <= most:
            raise BackendError(
                f"{folder.file(name)}: is not the network of {folder.model.name}: it differs from it by "
                f"{difference:.2g} deviations, at most {most:g} are accepted; export anew, or use cpu"
            )


def _cached_engines(device: Device, model: GaussianOcc, config: ModelConfig) -> MakeEngines:
    """Of networks that are exported to the cache, unless they are there. What is in use stays there as long as the
    function lives."""
    weights = weights_hash(model, config)
    held: list[Entry] = []

    def make(networks: Mapping[str, Network], cameras: int) -> dict[str, Engine]:
        facts = {"weights": weights, "cameras": cameras, "code": code_hash()}
        exported = open_entry("onnx", {**facts, "opset": OPSET, **versions("torch", "onnx")})
        compiled = _open_compiled(device, facts)
        held[:] = exported, compiled
        found = {}
        for name, network in networks.items():
            path = exported.path / f"{name}.onnx"
            fresh = not path.is_file()
            if fresh:
                write_onnx(path, network, {})
            try:
                found[name] = make_engine(device, path, network, compiled.path)
            except BackendError:
                if fresh:
                    raise
                write_onnx(path, network, {})  # it may have been damaged
                found[name] = make_engine(device, path, network, compiled.path)
        _say_where(make_room())
        return found

    return make


def _engines_of(device: Device, folder: ExportFolder) -> MakeEngines:
    held: list[Entry] = []

    def make(networks: Mapping[str, Network], cameras: int) -> dict[str, Engine]:
        if cameras != folder.cameras:
            raise BackendError(
                f"{folder.path}: exported for {folder.cameras} cameras, there are {cameras}; export with --cameras "
                f"{cameras}"
            )
        compiled = _open_compiled(device, {"files": dict(folder.hashes)})
        held[:] = (compiled,)
        found = {
            name: make_engine(device, folder.file(name), network, compiled.path) for name, network in networks.items()
        }
        _say_where(make_room())
        return found

    return make


def _open_compiled(device: Device, facts: Mapping[str, Any]) -> Entry:
    """For what the runtime compiles."""
    packages = versions("openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt")
    return open_entry(
        device.runtime,
        {**facts, "precision": device.precision or FP32, "threads": torch.get_num_threads(), **packages},
    )


def _say_where(kept_bytes: int) -> None:
    _log.info("networks and engines are kept in %s: %.0f MB", cache_folder(), kept_bytes / 1e6)


def fastest(
    model: GaussianOcc, config: ModelConfig, device: torch.device, cameras: int, folder: ExportFolder | None = None
) -> tuple[Backend, str]:
    """The backend that runs the networks in the least time here, of torch and those whose packages are installed, and
    a line for logs. What a runtime says must be what torch says, or it is left out; it must be clearly faster, too."""
    backends: list[Backend] = [TorchBackend(model, device)]
    said = []
    candidates = (TENSORRT, ONNX_CUDA) if device.type == "cuda" else (OPENVINO, ONNX)
    for runtime in candidates:
        if problem := missing(runtime):
            _log.info("not tried: %s", problem)
            continue
        try:
            backends.append(open_backend(Device(device, runtime), model, config, cameras, folder))
        except BackendError as error:
            said.append(f"{runtime} cannot be used ({error})")
    networks = networks_of(model, config, cameras if folder is None else folder.cameras)
    inputs = {name: tuple(each.to(device) for each in network.examples()) for name, network in networks.items()}
    expected = {name: _run_torch(networks[name], inputs[name]) for name in NETWORKS}
    times: dict[str, float] = {}
    best, least = backends[0], math.inf
    for backend in backends:
        try:
            difference = _difference_of(backend, inputs, expected)
            if not difference < _MOST_DIFFERENCE:
                said.append(f"{backend.name} is left out: it differs from torch by {difference:.2g} deviations")
                continue
            spent = min(_time(backend, networks, inputs, device) for _ in range(_TRIALS))
        except Exception as error:  # a runtime's own, of many kinds; memory of a GPU that is full, for one
            if isinstance(backend, TorchBackend):
                raise
            said.append(f"{backend.name} cannot be used ({one_line(error)})")
            continue
        times[backend.name] = spent
        # Torch is the reference. What is hardly faster is not worth another runtime; on a busy machine it is chance.
        if spent < (_WORTH * least if isinstance(best, TorchBackend) and backend is not best else least):
            best, least = backend, spent
    table = ", ".join(f"{name} {1e3 * spent:.0f} ms" for name, spent in sorted(times.items(), key=lambda item: item[1]))
    where = "" if len(backends) == 1 else f"; engines are kept in {cache_folder()}"
    return best, "; ".join([f"networks run by {best.name} (measured: {table}){where}", *said])


def _difference_of(
    backend: Backend, inputs: Mapping[str, tuple[Tensor, ...]], expected: Mapping[str, tuple[Tensor, ...]]
) -> float:
    """Of the worst network of a runtime, from what torch says; see `_difference`."""
    if not isinstance(backend, ExportedBackend):
        return 0.0
    return max(_difference(backend.run(name, *inputs[name]), expected[name]) for name in NETWORKS)


@torch.inference_mode()
def _run_torch(network: Network, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return network.module(*inputs)


def _time(
    backend: Backend, networks: dict[str, Network], inputs: dict[str, tuple[Tensor, ...]], device: torch.device
) -> float:
    """s, of all networks once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for name in NETWORKS:
        if isinstance(backend, ExportedBackend):
            backend.run(name, *inputs[name])
        else:
            _run_torch(networks[name], inputs[name])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Mean over an output, in standard deviations of what it should be; of the worst output."""
    each = [
        float((a.float() - b.float()).abs().mean() / b.float().std().clamp(min=1e-6))
        for a, b in zip(found, expected, strict=True)
    ]
    return max(each) if all(math.isfinite(one) for one in each) else math.inf


__all__ = [
    "Backend",
    "ExportedBackend",
    "TorchBackend",
    "fastest",
    "open_backend",
]
