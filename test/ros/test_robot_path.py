# SPDX-License-Identifier: Apache-2.0
"""The whole way of a robot that nobody has seen before: a recording -> inspection -> depth -> labels in 3D ->
occupancy -> the node.

Four fisheyes of a forklift, of another size and height than any car's cameras, and a grid to match; in miniature.
"""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from support.synthetic_bags import ROOT, convert, make_dataset, run_tool

from gaussianocc_core.checkpoint import load_model
from gaussianocc_core.config import load_config
from gaussianocc_core.data.bag import open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.labels import CLASS_NAMES
from gaussianocc_core.train import main as train
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import stamp_ns

SMALL = (
    "model.image_height=48",
    "model.image_width=80",
    "model.decoder.channels=8",
    "model.lattice.shape=[40,40,8]",
    "gsv.render_height=24",
    "gsv.render_width=40",
    "steps=3",
    "pictures_every=0",
    "device=cpu",
)
pytestmark = pytest.mark.medium


def test_a_recording_of_an_unknown_robot_becomes_occupancy_in_its_node(graph, spawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # runs/ is made where one stands
    rig = resize(load_rig(ROOT / "config" / "rig" / "forklift.yaml"), 160, 120)
    bag = convert(make_dataset(tmp_path / "world", rig, 2, 11), tmp_path / "recordings")

    config = tmp_path / "forklift.yaml"
    options = ("--write-config", config, "--voxel-size", 0.2, "--no-timing", "--picture", tmp_path / "look.png")
    assert run_tool("inspect_bag.py", bag, *options) == 0
    assert "metric scale comes from these" in capsys.readouterr().out
    assert train([str(config), *SMALL]) == 0
    first = tmp_path / "runs" / "forklift" / "model.safetensors"
    second = tmp_path / "forklift_gsv.yaml"
    carve = ("--config", second, "--checkpoint", first, "--output", "labels/forklift")
    assert run_tool("carve_labels.py", *carve) == 0
    assert load_config(second, TrainConfig).model.class_names == CLASS_NAMES  # the recording has 2D labels
    unlabelled = ("data.semantics=false", "model.class_names=[occupied,free]")  # as if it had none
    assert train([str(second), *SMALL, *unlabelled, f"first_stage={first}"]) == 0
    model = tmp_path / "runs" / "forklift_gsv" / "model.safetensors"
    grid = load_model(model).config.grid
    assert (grid.voxel_size, grid.origin) == (0.2, (-20.0, -20.0, -0.5))

    node = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "--params-file",
        tmp_path / "forklift_node.yaml",
        "-p",
        "reliable:=true",
        "-p",
        "device:=cpu",
    )
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    graph.until_known_by("/occupancy_node", 60, lambda: node.output)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--rate", 0, "--clock")
    graph.until(lambda: player.popen.poll() is not None, 120, "the end of the replay")
    assert player.wait() == 0, f"{player.output}\nthe node:\n{node.output}"
    (source,) = open_bags(BagConfig(str(bag), cameras=rig.names))
    wanted = [entry.frame.camera_stamps_ns[0] for entry in source.entries()]
    assert len(wanted) >= 7  # two keyframes half a second apart, 12 Hz between
    player.wait_for(f"sets: {len(wanted)} of {len(wanted)} answered")
    graph.until(lambda: len(outputs) >= len(wanted), what="all outputs")
    assert node.stop() == 0, node.output
    assert [stamp_ns(message.header) for message in outputs] == wanted
    for message in outputs:
        assert tuple(message.cameras) == rig.names and message.header.frame_id == "base_link"
        assert (message.size_x, message.size_y, message.size_z, message.voxel_size.x) == (200, 200, 16, 0.2)
        assert message.model != "untrained" and list(message.class_names) == ["occupied", "free"]
        observed = np.asarray(message.labels) != message.UNOBSERVED
        assert 0.2 < observed.mean() < 1.0
