# SPDX-License-Identifier: Apache-2.0
"""A model as a folder of files that says what the model says, and notices when it does not."""

import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_model import SMALL_MATCHING, outspoken

from gaussianocc_core.backends.folder import is_export, read_folder
from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.deployment.check import check_export, table
from gaussianocc_core.deployment.samples import load_samples
from gaussianocc_core.errors import BackendError, CheckpointError
from gaussianocc_core.predictor import OccupancyPredictor

onnx = pytest.importorskip("onnx", reason="no onnx: nothing can be exported")
onnxruntime = pytest.importorskip("onnxruntime", reason="no ONNX Runtime")

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments):
    """The exit status of the tool."""
    before, sys.argv = sys.argv, ["export_model.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "tools" / "export_model.py"), run_name="__main__")
        return ended.value.code
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    predictor = outspoken(SMALL_MATCHING, "cpu")
    save_model(path, predictor.model, SMALL_MATCHING, Provenance("random weights of a test"))
    return path


@pytest.fixture(scope="module")
def exported(model_file):
    output = model_file.parent / "exported"
    assert run(model_file, "--output", output, "--cameras", "2") == 0
    return output


def test_an_export_is_checked_voxel_by_voxel_and_says_what_it_is(exported, model_file, capfd):
    assert run(exported, "--check") == 0
    printed = capfd.readouterr().out
    assert "voxels: share of another label" in printed and "OUT OF TOLERANCE" not in printed
    assert len(printed.splitlines()) == 8  # a heading, three networks, labels, probabilities, depth
    for name in ("look", "see", "decode"):
        model = onnx.load(str(exported / f"{name}.onnx"))
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
        assert sizes and all(min(size) > 0 for size in sizes)  # fixed
        about = {entry.key: entry.value for entry in model.metadata_props}
        assert about["network"] == name and json.loads(about["class_names"])[-1] == "free"
        assert json.loads(about["config"])["matching"]["enabled"] and len(about["checkpoint_sha256"]) == 64
    assert json.loads((exported / "export.json").read_text())["about"]["grid"]["shape"] == [32, 32, 8]
    assert read_folder(exported).model.read_bytes() == model_file.read_bytes()


def test_an_integrator_repeats_the_check_of_one_network_with_nothing_of_ours(exported):
    samples = np.load(exported / "samples.npz")
    for name in ("look", "see", "decode"):
        session = onnxruntime.InferenceSession(str(exported / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        feed = {each.name: samples[f"{name}.in.{each.name}"] for each in session.get_inputs()}
        for each, found in zip(session.get_outputs(), session.run(None, feed), strict=True):
            np.testing.assert_allclose(found, samples[f"{name}.out.{each.name}"], atol=2e-3)


def test_the_predictor_runs_the_exported_files(exported):
    moment = load_samples(exported / "samples.npz").moments[0]
    found = {}
    for device in ("cpu", "onnx"):
        predictor = OccupancyPredictor.from_checkpoint(exported, device=device)
        found[device] = predictor(moment.images, moment.cameras, moment.T_world_ego, moment.stamp_s)
        torch.testing.assert_close(found[device].field.logits, found["cpu"].field.logits, atol=2e-3, rtol=1e-3)
    assert predictor.backend_name == "onnx in fp32, exported in fp32"
    with pytest.raises(BackendError, match="exported for 2 cameras, there are 3; export with --cameras 3"):
        predictor.prepare(2).look(np.zeros((3, 48, 80, 3), np.uint8))


def test_a_network_that_says_something_else_is_out_of_tolerance(exported, tmp_path, capfd):
    """The weights of one layer are off by a tenth, and the index knows the file as it is: the voxels tell."""
    changed = tmp_path / "changed"
    shutil.copytree(exported, changed)
    model = onnx.load(str(changed / "decode.onnx"))
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim == 4:
            weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.3), weight.name))
    onnx.save_model(model, str(changed / "decode.onnx"))
    with pytest.raises(CheckpointError, match="decode.onnx: is not the file that was exported"):
        read_folder(changed)
    index = json.loads((changed / "export.json").read_text())
    index["files"]["decode.onnx"] = hashlib.sha256((changed / "decode.onnx").read_bytes()).hexdigest()
    (changed / "export.json").write_text(json.dumps(index))
    assert run(changed, "--check") == 1
    assert "decode.onnx" in next(line for line in capfd.readouterr().out.splitlines() if "OUT OF TOLERANCE" in line)


def changed_export(exported, folder, change):
    """A copy whose decoder was changed, and whose index says so."""
    shutil.copytree(exported, folder)
    model = onnx.load(str(folder / "decode.onnx"))
    change(model)
    (folder / "decode.onnx").write_bytes(model.SerializeToString())
    index = json.loads((folder / "export.json").read_text())
    index["files"]["decode.onnx"] = hashlib.sha256((folder / "decode.onnx").read_bytes()).hexdigest()
    (folder / "export.json").write_text(json.dumps(index))
    return folder


def append(model, *nodes, **values):
    """Nodes behind what the network says, of which "said" is taken and given."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["before" if name == "said" else name for name in names]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    model.graph.node.extend(nodes)


def call_all_free(model):
    bias = np.zeros(model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value, np.float32)
    bias[len(SMALL_MATCHING.class_names) - 1] = 60.0
    append(model, onnx.helper.make_node("Add", ["before", "bias"], ["said"]), bias=bias)


def branch(model):
    value = onnx.helper.make_tensor_value_info("before", 1, None)
    then = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["before"], ["inner"])], "then", [], [value])
    append(
        model,
        onnx.helper.make_node("If", ["yes"], ["said"], then_branch=then, else_branch=then),
        yes=np.array(True),
    )


def read_elsewhere(model):
    weight = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")


def test_networks_that_call_all_free_are_not_those_of_the_model_beside_them(exported, tmp_path):
    """The model passes its self-test; what would be run is something else."""
    folder = changed_export(exported, tmp_path / "free", call_all_free)
    predictor = OccupancyPredictor.from_checkpoint(folder, device="onnx")
    with pytest.raises(BackendError, match="decode.onnx: is not the network of model.safetensors: it differs"):
        predictor.prepare(2)


@pytest.mark.parametrize(
    "change, why",
    [
        (branch, "it has loops or branches"),
        (read_elsewhere, "its values lie in other files"),
        (lambda model: setattr(model.graph.node[0], "domain", "evil"), "it has an operator .* of 'evil'"),
        (lambda model: setattr(model.graph.node[0], "op_type", "ConstantOfShape"), "it has an operator .*any size"),
    ],
)
def test_what_is_no_plain_network_is_refused_before_a_runtime_reads_it(exported, tmp_path, change, why):
    folder = changed_export(exported, tmp_path / "other", change)
    with pytest.raises(CheckpointError, match=f"decode.onnx: not an exported network .{why}"):
        read_folder(folder)


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_weights_are_checked_by_their_own_tolerances(model_file, tmp_path, precision):
    assert run(model_file, "--output", tmp_path / "small", "--cameras", "1", "--precision", precision) == 0
    folder = read_folder(tmp_path / "small")
    sizes = {name: folder.file(name).stat().st_size for name in ("look", "see", "decode")}
    assert folder.precision == precision and is_export(folder.path)
    text = table(check_export(folder))
    for row in check_export(folder):
        assert np.isfinite(row.found), text
    assert sizes["see"] < 0.8 * (model_file.parent / "exported" / "see.onnx").stat().st_size
    # Random weights of a test are no measure of int8: float16 must hold.
    assert precision == "int8" or all(row.good for row in check_export(folder)), text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "--output: needed, unless an exported folder is given with --check"),
        (["{model}", "--output", "{other}"], "holds something that is no export of this tool; give another"),
        (["{model}", "--output", "{new}", "--opset", "9"], "--opset: expected at least 16, got 9"),
        (["{model}", "--output", "{new}", "--cameras", "9"], "--cameras: the street is made for 6 cameras at most"),
        (["{exported}", "--check", "--device", "abacus"], "device 'abacus': expected auto"),
    ],
)
def test_mistakes_are_one_line(exported, model_file, tmp_path, capfd, arguments, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    places = {"model": model_file, "exported": exported, "other": tmp_path / "other", "new": tmp_path / "new"}
    assert run(*(each.format(**places) for each in arguments)) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists() and (tmp_path / "other" / "letter.txt").read_text() == "mine"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_an_index_is_not_for_that_reason_ours(exported, model_file, tmp_path, capfd):
    """Of another program, damaged, or with something of the user's beside it: it stays as it is."""
    folders = {name: tmp_path / name for name in ("foreign", "damaged", "beside")}
    for name, index in (("foreign", '{"format": "webshop/2"}'), ("damaged", "{"), ("beside", None)):
        shutil.copytree(exported, folders[name])
        if index:
            (folders[name] / "export.json").write_text(index)
    (folders["beside"] / "notes.txt").write_text("mine")
    for name, message in (
        ("foreign", "no export of this tool"),
        ("damaged", "no export of this tool"),
        ("beside", "holds 'notes.txt' beside an export"),
    ):
        before = contents(folders[name])
        assert run(model_file, "--output", folders[name], "--cameras", "1") == 2
        error = capfd.readouterr().err
        assert message in error and str(folders[name]) in error and error.count("\n") == 1
        assert contents(folders[name]) == before


KILLED = """
import os, sys
from pathlib import Path
from gaussianocc_core.deployment import export
export.save_samples = lambda *a: os.kill(os.getpid(), 9)
export.export_model(sys.argv[1], Path(sys.argv[2]), cameras=1)
"""


@pytest.mark.medium
def test_a_killed_export_leaves_what_was_there_and_nothing_that_must_be_removed_by_hand(exported, model_file, tmp_path):
    output = tmp_path / "robot"
    command = [sys.executable, "-c", KILLED, str(model_file), str(output)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not output.exists() and len(list(tmp_path.iterdir())) == 1  # hidden
    shutil.copytree(exported, output)
    before = contents(output)
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert contents(output) == before and read_folder(output).cameras == 2
    # A link to the folder stays a link; the model of the export itself is exported again.
    link = tmp_path / "link"
    link.symlink_to(output)
    assert run(output, "--output", link, "--cameras", "1") == 0
    assert link.is_symlink() and read_folder(output).cameras == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "robot"]


def test_a_folder_that_is_not_whole_is_refused(exported, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(exported, part)
    (part / "see.onnx").unlink()
    with pytest.raises(CheckpointError, match="see.onnx is missing; copy the whole folder"):
        OccupancyPredictor.from_checkpoint(part, device="onnx")
    (part / "export.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not an index of exported networks"):
        read_folder(part)


@pytest.mark.parametrize(
    "changes",
    [
        {"cameras": float("inf")},
        {"cameras": -3},
        {"cameras": 10**9},
        {"files": [[1, "x"]]},
        {"format": "\x1b]0;x\n"},
        "deep",
    ],
)
def test_an_index_that_says_nonsense_is_one_line(tmp_path, changes):
    plain = {"format": "gaussianocc-export/1", "cameras": 2, "precision": "fp32", "files": {}, "about": {}}
    text = "[" * 100_000 if changes == "deep" else json.dumps({**plain, **changes})
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_folder(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("change", [lambda a: a.pop("labels"), lambda a: a.update(labels=a["labels"][:, :2])])
def test_samples_that_lack_something_are_one_line(exported, tmp_path, change):
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    arrays = dict(np.load(folder / "samples.npz"))
    change(arrays)
    np.savez_compressed(folder / "samples.npz", **arrays)
    index = json.loads((folder / "export.json").read_text())
    if "samples.npz" in index["files"]:
        index["files"]["samples.npz"] = hashlib.sha256((folder / "samples.npz").read_bytes()).hexdigest()
        (folder / "export.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="samples.*export anew") as error:
        check_export(read_folder(folder))
    assert "\n" not in str(error.value)


def test_an_index_has_no_other_files_opened(tmp_path, exported):
    folder, other = tmp_path / "export", tmp_path / "pipe"
    shutil.copytree(exported, folder)
    os.mkfifo(other)
    index = json.loads((folder / "export.json").read_text())
    index["files"] |= {"../pipe": "x", str(other): "x"}
    (folder / "export.json").write_text(json.dumps(index))
    assert read_folder(folder).cameras == 2
