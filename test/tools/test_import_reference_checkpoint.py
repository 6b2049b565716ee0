# SPDX-License-Identifier: Apache-2.0
"""tools/import_reference_checkpoint.py on folders laid out as the releases are, with weights we make."""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.checkpoint import load_model, load_pose_net
from gaussianocc_core.config import load_config
from gaussianocc_core.errors import CheckpointError
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.gaussianocc import build_model, build_pose_net
from gaussianocc_core.models.quirks import PUBLISHED
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.reference.names import OCCUPANCY, POSE, Source, is_dead, our_name, their_name

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "config/model/reference.yaml"
SPEC = importlib.util.spec_from_file_location(
    "import_reference_checkpoint", ROOT / "tools/import_reference_checkpoint.py"
)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

# As the reference, but narrow and on a small lattice.
SMALL = [
    "image_height=48",
    "image_width=80",
    "encoder.backbone=resnet50",
    "encoder.width=0.125",
    "encoder.up_channels=[16, 12]",
    "encoder.feature_channels=8",
    "lattice.shape=[16, 16, 8]",
    "decoder.channels=4",
    "pose.backbone=resnet18",
    "pose.width=0.125",
    "pose.channels=8",
]
DEAD = {
    "encoder": {"height": 384, "width": 640},
    "depth": {
        "xyz_min": torch.zeros(3, dtype=torch.float64),
        "Zval": torch.zeros(1, 424),
        "scene_centroid": torch.zeros(1, 3),
        "vox_util.posfreq": torch.zeros(3),
        "gs_vox_util.posfreq": torch.zeros(3),
        "_3DCNN.classif3.8.0.weight": torch.zeros(1, 32, 3, 3, 3),
        "_3DCNN.classif_flow.6.1.bias": torch.zeros(3),
    },
    "pose_encoder": {"encoder.fc.weight": torch.zeros(4, 5), "encoder.fc.bias": torch.zeros(4)},
    "pose": {"refine_mlp.2.0.weight": torch.zeros(2, 2), "finial_conv.bias": torch.zeros(2)},
}


@pytest.fixture(scope="module")
def config():
    return load_config(REFERENCE, ModelConfig, SMALL)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, config):
    import yaml

    from gaussianocc_core.config import to_dict

    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return path


def networks(config):
    torch.manual_seed(3)
    model, pose_net = build_model(config), build_pose_net(config)
    for module in (*model.modules(), *pose_net.modules()):
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            module.running_mean.normal_(std=0.1)
            module.num_batches_tracked.fill_(7)
    return model.eval(), pose_net.eval()


def release(model, pose_net):
    """The state dicts of a release with these weights, dead entries included."""
    states = {network: dict(dead) for network, dead in DEAD.items()}
    for ours, network in ((OCCUPANCY, model), (POSE, pose_net)):
        for name, value in network.state_dict().items():
            source = their_name(name, ours)
            states[source.network][source.name] = value
    return states


def write(folder, states, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for network, state in states.items():
        torch.save({prefix + name: value for name, value in state.items()}, folder / f"{network}.pth")
    return folder


@pytest.mark.medium
@pytest.mark.parametrize("prefix", ["", "module."])
def test_imported_weights_predict_what_they_did(tmp_path, capsys, config, config_file, prefix):
    model, pose_net = networks(config)
    folder = write(tmp_path / "nusc-sem-gs", release(model, pose_net), prefix)
    output = tmp_path / "out.safetensors"
    assert tool.main([str(folder), str(output), "--config", str(config_file), "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "7 unused ones ignored" in printed and "ignored depth: _3DCNN.classif_flow.6.1.bias" in printed

    loaded = load_model(output)
    assert loaded.config.quirks == PUBLISHED and "nusc-sem-gs" in loaded.provenance.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    frames = torch.rand(2, 1, 2, 3, 48, 80)
    with torch.no_grad():
        torch.testing.assert_close(
            load_pose_net(output).pose_net(*frames).translation, pose_net(*frames).translation, atol=0, rtol=0
        )
    rig = ring()
    images = [np.random.default_rng(n).integers(0, 256, (90, 160, 3), dtype=np.uint8) for n in range(6)]
    prediction = OccupancyPredictor.from_checkpoint(output, device="cpu")(images, rig)
    assert prediction.trained and prediction.labels.shape == config.grid.shape


def test_a_first_stage_folder_gives_a_pose_net_only(tmp_path, capsys, config, config_file):
    states = release(*networks(config))
    folder = write(tmp_path / "stage1", {name: states[name] for name in ("pose_encoder", "pose")})
    output = tmp_path / "pose.safetensors"
    assert tool.main([str(folder), str(output), "--config", str(config_file)]) == 0
    assert "no occupancy network in this folder: the file serves training only" in capsys.readouterr().out
    assert load_pose_net(output).config.pose == config.pose
    with pytest.raises(CheckpointError, match="holds no occupancy network"):
        load_model(output)


def test_a_folder_without_pose_networks_serves_inference(tmp_path, capsys, config, config_file):
    states = release(*networks(config))
    folder = write(tmp_path / "release", {name: states[name] for name in ("encoder", "depth")})
    output = tmp_path / "out.safetensors"
    assert tool.main([str(folder), str(output), "--config", str(config_file)]) == 0
    assert "no pose networks in this folder" in capsys.readouterr().out
    assert load_model(output).config == config
    with pytest.raises(CheckpointError, match="no ego-motion network"):
        load_pose_net(output)


def drop(network, name):
    return lambda states: states[network].pop(name)


def put(network, name, value):
    return lambda states: states[network].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("encoder", "depth_layer.bias"), "encoder.pth lacks 1 weights (first: depth_layer.bias)"),
        (drop("depth", "_3DCNN.dres3.conv5.0.weight"), "lacks 1 weights (first: _3DCNN.dres3.conv5.0.weight)"),
        (drop("pose", "net.2.bias"), "pose.pth lacks 1 weights (first: net.2.bias)"),
        (put("encoder", "backbone.7.0.weight", torch.zeros(2)), "encoder.pth has backbone.7.0.weight"),
        (put("pose_encoder", "fc.weight", torch.zeros(2)), "pose_encoder.pth has fc.weight"),
        (put("depth", "_3DCNN.dres2.conv7.weight", torch.zeros(2)), "depth.pth has _3DCNN.dres2.conv7.weight"),
        (put("encoder", "layer3.9.bn1.bias", torch.zeros(2)), "weights too many (first: layer3.9.bn1.bias)"),
        (put("encoder", "depth_layer.bias", torch.zeros(3)), "depth_layer.bias as (3,), the configuration needs (8,)"),
        (put("pose", "net.0.bias", torch.full((8,), float("nan"))), "values in net.0.bias that are not finite"),
        (put("pose", "net.0.bias", 3), "pose.pth has net.0.bias"),
        (lambda states: states.pop("depth"), "has encoder.pth but not depth.pth"),
        (lambda states: states.clear(), "holds none of encoder.pth"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, capsys, config, config_file, change, message):
    states = release(*networks(config))
    change(states)
    folder = write(tmp_path / "release", states)
    assert tool.main([str(folder), str(tmp_path / "out.safetensors"), "--config", str(config_file)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_are_no_weights_are_one_line_and_never_run(tmp_path, capsys, config, config_file):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trapped",))

    folder = write(tmp_path / "release", release(*networks(config)))
    for content, message in (
        (pickle.dumps(Trap(), protocol=2), "cannot be read as plain weights"),
        (b"not a checkpoint", "cannot be read as plain weights"),
        (b"", "cannot be read as plain weights"),
    ):
        (folder / "pose.pth").write_bytes(content)
        assert tool.main([str(folder), str(tmp_path / "out.safetensors"), "--config", str(config_file)]) == 2
        captured = capsys.readouterr().err
        assert "pose.pth" in captured and message in captured and captured.count("\n") == 1
    torch.save([1, 2], folder / "pose.pth")
    assert tool.main([str(folder), str(tmp_path / "out.safetensors"), "--config", str(config_file)]) == 2
    assert "expected a state dict, got a list" in capsys.readouterr().err
    assert not (tmp_path / "trapped").exists()


def test_wrong_arguments_are_one_line(tmp_path, capsys, config_file):
    (tmp_path / "there.safetensors").write_bytes(b"x")
    for folder, output, message in (
        (tmp_path / "none", "out.safetensors", "no such folder"),
        (tmp_path, "out.pt", "ends in .safetensors"),
        (tmp_path, "there.safetensors", "exists already"),
    ):
        assert tool.main([str(folder), str(tmp_path / output), "--config", str(config_file)]) == 2
        captured = capsys.readouterr().err
        assert message in captured and captured.count("\n") == 1
    assert (tmp_path / "there.safetensors").read_bytes() == b"x"


def test_every_name_of_the_published_layout_is_ours_or_known_to_be_dead():
    layout = json.loads((ROOT / "test/data/golden/state_dict_layout_nusc-sem-gs.json").read_text())
    sources = [Source(network, name) for network, entries in layout.items() for name, _, _ in entries]
    assert len(sources) == 570 + 222 + 218 + 24  # docs/method.md#l
    for source in sources:
        assert (our_name(source) is not None) != is_dead(source), source


MEASURE = """
import json, resource, sys, time
import numpy as np
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.predictor import OccupancyPredictor

predictor = OccupancyPredictor.from_checkpoint(sys.argv[1], device="cpu")
rig = load_rig(sys.argv[2])
random = np.random.default_rng(0)
images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in zip(rig.height, rig.width)]
start = time.perf_counter()
prediction = predictor(images, rig)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB; Linux counts in KiB
print(json.dumps([seconds, peak, prediction.labels.shape, int(np.unique(prediction.labels).size)]))
"""


@pytest.mark.slow
def test_a_release_of_full_size_imports_and_runs_on_a_cpu_within_16_gib(tmp_path):
    from gaussianocc_core.reference.golden import Golden
    from gaussianocc_core.reference.pipeline import Pipeline

    reference = load_config(REFERENCE, ModelConfig)
    states = Pipeline(Golden(ROOT / "test/data/golden"), reference).states
    for network, dead in DEAD.items():
        states[network] |= dead
    folder, output = write(tmp_path / "nusc-sem-gs", states), tmp_path / "reference.safetensors"
    assert tool.main([str(folder), str(output)]) == 0
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(output), str(ROOT / "config/rig/nuscenes.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    seconds, peak, shape, classes = json.loads(result.stdout.splitlines()[-1])
    print(f"reference network on the CPU: {seconds:.0f} s, peak {peak:.1f} GiB")
    assert peak < 16 and shape == [200, 200, 16] and classes > 1
