# SPDX-License-Identifier: Apache-2.0
"""The networks in other runtimes say what torch says; what is kept of them is not used for anything else."""

import gc
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL_HOURGLASS as HOURGLASS
from support.small_model import SMALL_MATCHING as MATCHING
from support.small_model import SMALL_SURFACE as SURFACE
from support.small_model import outspoken

pytest.importorskip("onnx", reason="no onnx: nothing can be exported")
pytest.importorskip("onnxruntime", reason="no ONNX Runtime")

from gaussianocc_core.backends import backend as backends
from gaussianocc_core.backends import engines
from gaussianocc_core.backends.cache import VARIABLE, _is_ours, cache_folder, weights_hash
from gaussianocc_core.backends.device import is_device, parse_device
from gaussianocc_core.errors import BackendError
from gaussianocc_core.labels import OCCLUDED
from gaussianocc_core.models.lift_cpu import filler_of
from gaussianocc_core.models.lifting import encode_positions, lift_features, surface_features
from gaussianocc_core.types import Cameras


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A fresh one, of this module."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    yield folder
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before


def sets(rig: Cameras, count=3):
    """Images that move sideways, and where the rig is by then."""
    random = np.random.default_rng(0)
    wide = [np.kron(random.integers(0, 255, (12, 40, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in rig.names]
    for k in range(count):
        T = np.eye(4)
        T[0, 3] = 1.0 * k  # far enough for views from far away
        yield [each[:90, 6 * k : 6 * k + 160] for each in wide], T, 1.0 + 0.2 * k


@pytest.mark.parametrize("device", ["onnx", "openvino"])
@pytest.mark.parametrize("config", [MATCHING, SURFACE, HOURGLASS], ids=lambda config: config.name)
def test_every_kind_of_network_says_what_torch_says(config, device):
    pytest.importorskip("openvino" if device == "openvino" else "onnxruntime", reason="not installed")
    rig = ring()
    reference, other = outspoken(config, "cpu"), outspoken(config, device)
    assert weights_hash(reference.model, config) == weights_hash(other.model, config)
    for images, T_world_ego, stamp_s in sets(rig):
        expected = reference(images, rig, T_world_ego, stamp_s)
        found = other(images, rig, T_world_ego, stamp_s)
        torch.testing.assert_close(found.field.logits, expected.field.logits, atol=2e-3, rtol=1e-3)
        np.testing.assert_allclose(found.opacity, expected.opacity, atol=1e-3)
        assert (found.labels == expected.labels).mean() > 0.995  # where two are equal but for rounding
        if expected.field.inv_depth is not None:
            torch.testing.assert_close(found.field.inv_depth, expected.field.inv_depth, atol=1e-4, rtol=1e-3)
    assert (expected.labels[expected.observed] < OCCLUDED).mean() > 0.05
    assert other.backend_name == f"{device} in fp32" and reference.backend_name == "torch on cpu"
    if config is MATCHING:
        assert expected.matched.count and expected.matched.sources.far is not None  # all of the path was taken


def test_fewer_cameras_need_no_other_engines_and_more_get_them():
    rig = ring()
    reference, other = outspoken(MATCHING, "cpu"), outspoken(MATCHING, "onnx")
    images, _, _ = next(iter(sets(rig)))
    fewer = rig.select(rig.names[:2])
    backend = other.prepare(3)
    for cameras, taken, engines_for in ((fewer, images[:2], 3), (rig, images, max(3, len(rig)))):
        found, expected = other(taken, cameras), reference(taken, cameras)
        torch.testing.assert_close(found.field.logits, expected.field.logits, atol=2e-3, rtol=1e-3)
        assert backend.cameras == engines_for


def test_a_result_stays_what_it_was_when_the_next_one_comes():
    rig, predictor = ring(), outspoken(MATCHING, "onnx")
    (first, T, stamp), (second, T2, stamp2), _ = sets(rig)
    found = predictor(first, rig, T, stamp)
    logits, opacity = found.field.logits.clone(), found.opacity.copy()
    predictor(second, rig, T2, stamp2)
    assert torch.equal(found.field.logits, logits) and np.array_equal(found.opacity, opacity)


def exports(cache):
    return {path: path.stat().st_mtime_ns for path in cache.glob("onnx/*/*.onnx")}


def test_what_is_kept_is_used_again_and_only_for_the_same_weights_and_sizes(cache, monkeypatch):
    before = exports(cache)
    outspoken(SURFACE, "onnx", seed=5).prepare(2)
    first = exports(cache)
    assert len(first.keys() - before.keys()) == 3
    written = []
    monkeypatch.setattr(backends, "write_onnx", lambda *a: written.append(a))
    outspoken(SURFACE, "onnx", seed=5).prepare(2)
    assert exports(cache) == first and not written
    for change in ({"seed": 6}, {"cameras": 1}, {"config": replace(SURFACE, caution=0.4)}):
        with pytest.raises(Exception, match="cannot run"):  # nothing is there, and the export was taken away
            outspoken(change.get("config", SURFACE), "onnx", change.get("seed", 5)).prepare(change.get("cameras", 2))
    assert len(written) == 3
    monkeypatch.setattr(backends, "code_hash", lambda: "another")
    with pytest.raises(BackendError, match="cannot run"):
        outspoken(SURFACE, "onnx", seed=5).prepare(2)


def test_a_damaged_export_is_made_anew(cache):
    outspoken(SURFACE, "onnx", seed=7).prepare(1)
    newest = max(exports(cache), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:100])
    predictor = outspoken(SURFACE, "onnx", seed=7)
    predictor.prepare(1)
    assert newest.stat().st_size > 100


def test_a_link_of_somebody_else_is_no_cache(tmp_path, monkeypatch):
    """It leads to a folder of ours now, and elsewhere when an engine is read."""
    (tmp_path / "ours").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ours")
    assert _is_ours(link)
    real = Path.lstat

    def lstat(path):
        found = list(real(path))
        found[4] += path == link  # its user
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert not _is_ours(link) and _is_ours(tmp_path / "ours")


def test_a_service_without_a_home_has_a_cache(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # anybody may put libraries there
    assert cache_folder() != folder


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("abacus", "device 'abacus': expected auto, cpu, cuda, cuda:N, openvino, onnx, onnx-cuda or tensorrt"),
        ("openvino:int4", "device 'openvino:int4': openvino runs in fp32 or bf16 or fp16"),
        ("onnx:fp16", "device 'onnx:fp16': onnx runs in fp32"),
        ("cpu:fp32", "device 'cpu:fp32': expected auto"),
    ],
)
def test_an_impossible_device_is_one_line(device, message):
    assert not is_device(device)
    with pytest.raises(BackendError, match=message) as error:
        parse_device(device)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named_with_what_to_do(monkeypatch):
    predictor = outspoken(SURFACE, "openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"openvino is not installed.*pip install openvino.*\[deploy\]") as error:
        predictor.prepare(1)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has it")
def test_a_provider_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(BackendError, match=r"has no TensorrtExecutionProvider; install onnxruntime-gpu"):
        outspoken(SURFACE, "tensorrt:fp16").prepare(1)


def test_the_fastest_is_measured_and_one_that_says_something_else_is_left_out(monkeypatch):
    predictor = outspoken(MATCHING, "auto")
    said = predictor.take_fastest(2)
    assert said.startswith(f"networks run by {predictor.backend_name} (measured: ") and "torch on cpu" in said
    assert said.count(" ms") == 3 or engines.missing("openvino")
    run = backends.ExportedBackend.run
    monkeypatch.setattr(
        backends.ExportedBackend, "run", lambda self, *a: tuple(each + each.std() for each in run(self, *a))
    )
    said = predictor.take_fastest(2)
    assert predictor.backend_name == "torch on cpu" and "onnx in fp32 is left out: it differs from torch" in said


def test_ctrl_c_is_an_interrupt_after_runtimes_were_tried_and_let_go():
    for cameras in (1, 2, 1):
        outspoken(SURFACE, "auto").take_fastest(cameras)
        gc.collect()
    with pytest.raises(KeyboardInterrupt):  # a stack for signals that a runtime left behind would end the process
        signal.raise_signal(signal.SIGINT)


def test_a_runtime_that_fails_while_it_is_measured_is_left_out(monkeypatch):
    def run(self, *arguments):
        raise RuntimeError("out of memory\nat 0x7f")

    monkeypatch.setattr(backends.ExportedBackend, "run", run)
    predictor = outspoken(SURFACE, "auto")
    said = predictor.take_fastest(1)
    assert predictor.backend_name == "torch on cpu" and "onnx in fp32 cannot be used (out of memory" in said
    assert "\n" not in said


@pytest.mark.parametrize("took, chosen", [(0.90, "torch on cpu"), (0.80, "onnx in fp32")])
def test_a_runtime_that_is_hardly_faster_is_not_taken(monkeypatch, took, chosen):
    monkeypatch.setattr(
        backends, "_time", lambda backend, *_: {"torch on cpu": 1.0, "onnx in fp32": took}.get(backend.name, 2.0)
    )
    predictor = outspoken(SURFACE, "auto")
    predictor.take_fastest(1)
    assert predictor.backend_name == chosen


@pytest.mark.parametrize("config", [MATCHING, SURFACE, HOURGLASS], ids=lambda config: config.name)
def test_the_volume_is_filled_as_its_parts_say(config):
    predictor, cameras = outspoken(config, "cpu"), ring()
    model = predictor.model
    lenses = predictor._lenses_of(cameras)
    view = predictor._view_of(lenses, cameras)
    height, width = config.image_height, config.image_width
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(len(cameras), height // 4, width // 4, 8, generator=generator)
    inv_depth = log_error = None
    if config is not HOURGLASS:
        inv_depth = 0.02 + torch.rand(len(cameras), height // 2, width // 2, generator=generator)
    if config is MATCHING:
        log_error = torch.randn(inv_depth.shape, generator=generator) - 1.0
    parts = [lift_features(maps.permute(0, 3, 1, 2), view.plan), encode_positions(view.plan.places)]
    if inv_depth is not None:
        parts.append(surface_features(inv_depth, view.plan, log_error))
    expected = torch.cat(parts).permute(1, 2, 3, 0)
    filler = filler_of(view.plan, maps, inv_depth, log_error, model.position)
    for reuse in (True, True, False):
        found = filler.fill(maps, inv_depth, log_error, reuse)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert filler.fill(maps, inv_depth, log_error, True).data_ptr() != found.data_ptr()
