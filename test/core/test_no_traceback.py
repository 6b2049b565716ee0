# SPDX-License-Identifier: Apache-2.0
"""A file's mistake is an error of ours, in one line: whatever is in the file."""

import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.ddad_fixtures import MadeUpScene, write_data_set
from support.nuscenes_fixtures import MadeUpDatabase, read_table, write_table
from support.robot_bags import RobotBag, camera_info, compressed, message, odometry, picture, raw, tf, transform
from support.small_model import SMALL
from support.synthetic_bags import run_tool
from support.training_runs import settings

from gaussianocc_core import train
from gaussianocc_core.bags.check import read_metadata
from gaussianocc_core.bags.convert import describe
from gaussianocc_core.bags.index_cache import fingerprint, read_cache, write_cache
from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.messages import decode_camera_info, decode_transform
from gaussianocc_core.bags.opened import open_bag
from gaussianocc_core.bags.writer import BagReport
from gaussianocc_core.checkpoint import Provenance, load_model, save_model
from gaussianocc_core.command_line import run_command
from gaussianocc_core.config import load_config, to_dict
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import BagError, CalibrationError, CheckpointError, ConfigError, DatasetError
from gaussianocc_core.mistakes import one_line, reading, reason_of
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.reference.release import _read_state_dict
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.run_folder import RunFolder
from gaussianocc_core.training.state import load_state, save_state

ROOT = Path(__file__).resolve().parents[2]
DEEP = "[" * 100_000


def lines(text):
    return text.count("\n")


# ---- the helper ----------------------------------------------------------------------------------------------------


def test_a_message_is_one_printable_line_of_bounded_length():
    assert one_line("a\n  b\tc\x1b[2J") == r"a b c\x1b[2J"
    assert len(one_line("x" * 500_000)) == 1003


@pytest.mark.parametrize(
    "error, said",
    [
        (RecursionError("maximum recursion"), "it is nested too deeply"),
        (MemoryError(), "it asks for more memory than there is"),
        (KeyError("config"), "it has no 'config'"),
        (KeyError(), "it lacks an entry"),
        (ValueError("first line\n\nsecond paragraph"), "first line"),
        (RuntimeError("x" * 10_000), "x" * 200),
        (TypeError("'int' object is not iterable"), "TypeError: 'int' object is not iterable"),
        (AssertionError(), "AssertionError"),
        (FileNotFoundError(2, "No such file or directory", "f"), "No such file or directory"),
    ],
)
def test_what_a_library_says_is_told_in_a_few_words(error, said):
    assert reason_of(error) == said


EVIL = "\x1b[31mEVIL\x07\n\u202e\x9b"


def write_evil_bag(path):
    """Every text of it that is shown holds what a terminal would obey."""
    bag = RobotBag()
    t, image = bag.stamp(0, 0), picture(1, (32, 24))
    bag.add(f"/cam{EVIL}/image_raw/compressed", t, compressed(t, EVIL, image))
    bag.add(f"/pts{EVIL}", t, message("std_msgs/msg/String", data=""))
    for k in range(3):
        cut = compressed(t + k, EVIL, image)
        cut.data, cut.format = cut.data[:20], EVIL
        bag.add("/cut/image_raw/compressed", t + k, cut)
    other = raw(t, EVIL, image, "rgb8")
    other.encoding = EVIL
    bag.add("/enc/image_raw", t, other)
    bag.add("/info/camera_info", t, camera_info(t, EVIL, (32, 24), 20.0, f"model{EVIL}"))
    bag.add("/tf", t, tf(transform(t, f"p{EVIL}", f"c{EVIL}", np.eye(4)), transform(t, "base_link", EVIL, np.eye(4))))
    odometry_of = odometry(t, np.eye(4))
    odometry_of.header.frame_id, odometry_of.child_frame_id = EVIL, EVIL
    bag.add("/odometry", t, odometry_of)
    return bag.write(path)


def test_no_text_of_a_bag_is_obeyed_by_a_terminal(tmp_path, capfd):
    path = write_evil_bag(tmp_path / "bag")
    command = [sys.executable, "tools/inspect_bag.py", path, "--picture", tmp_path / "x.png", "--no-doctor"]
    for _ in range(2):  # the second time from the cached index
        found = subprocess.run([*command, "--cameras", "front", "left"], cwd=ROOT, capture_output=True, text=True)
        text = found.stdout + found.stderr
        assert found.returncode == 0 and text.count("EVIL") >= 6, text
        assert all(each.isprintable() for each in text.replace("\n", "")), ascii(text)
    assert "is not read: it holds the control character '\\x1b'" in text  # the bag without these topics is used
    # and from a cache that a stranger wrote
    whole = open_index(path)
    write_cache(replace(whole, problems=(EVIL,), refused={"x": EVIL}), fingerprint(path))
    assert open_index(path).problems == (one_line(EVIL),) and read_cache(path).refused == {"x": one_line(EVIL)}
    (topic, *_) = whole.topics.values()
    write_cache(replace(whole, topics={EVIL: replace(topic, topic=EVIL)}), fingerprint(path))
    assert read_cache(path) is None


def test_no_name_of_a_file_is_obeyed_by_a_terminal_or_a_shell(tmp_path):
    path = RobotBag().write(tmp_path / "bag").rename(tmp_path / "a; touch x \x1b[31m")
    file = path / "bag.mcap"
    found = subprocess.run(
        [sys.executable, "tools/inspect_bag.py", path, "--picture", tmp_path / "x.png", "--no-doctor", "--no-timing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "a; touch x \\x1b[31m: " in found.stdout and found.stdout.replace("\n", "").isprintable()
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BagError, match=re.escape(f"tools/inspect_bag.py '{file}' --recover NEW_BAG")):
        open_bag(file)
    report = BagReport(tmp_path / "$(touch x)", 1, 1, 1.0)
    assert f"ros2 bag play '{tmp_path}/$(touch x)' --clock" in describe(report)


def test_no_log_line_is_obeyed_by_a_terminal():
    code = "import logging; from gaussianocc_core.command_line import run_command\n"
    code += f"run_command(lambda: logging.getLogger('x').warning('a %s b', {EVIL!r}) or 0, '')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stderr == f"{one_line(f'a {EVIL} b')}\n"


def test_errors_of_ours_and_interrupts_pass_a_reading_as_they_are():
    with pytest.raises(DatasetError, match="^itself$"), reading("x", "y", BagError):
        raise DatasetError("itself")
    with pytest.raises(KeyboardInterrupt), reading("x", "y", BagError):
        raise KeyboardInterrupt
    with (
        pytest.raises(BagError, match=r"^file: part cannot be used \(it has no 'a'\); restore it$"),
        reading("file: part", "restore it", BagError),
    ):
        raise KeyError("a")


def test_every_programs_error_is_one_short_line(capsys):
    def fail():
        raise DatasetError("a\nb" + "x" * 500_000)

    assert run_command(fail, "") == 2
    error = capsys.readouterr().err
    assert lines(error) == 1 and len(error) < 1100

    def run_out():
        raise MemoryError

    assert run_command(run_out, "") == 2
    assert lines(capsys.readouterr().err) == 1


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "model.safetensors", build_model(SMALL), SMALL, Provenance("made up"))
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("key", ["config", "provenance"])
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "3",
        '"x"',
        DEEP,
        "{",
        "",
        '{"": 1}',
        '{"lattice": []}',
        '{"name": {}}',
        '{"steps": 1e999}',
        '{"training": null}',
        '{"grid": {"shape": [1, 2]}}',
    ],
)
def test_metadata_of_any_kind_is_refused_in_one_line(checkpoint, key, text):
    with safe_open(checkpoint, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, checkpoint, metadata={**metadata, key: text})
    with pytest.raises(CheckpointError, match=f"model.safetensors: .*{key}") as caught:
        load_model(checkpoint)
    assert lines(str(caught.value)) == 0 and len(str(caught.value)) < 1000


@pytest.mark.parametrize("size", [0, 4, 8, 100, 1000, -1])
def test_a_truncated_model_file_is_refused(checkpoint, size):
    checkpoint.write_bytes(checkpoint.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"not a readable .safetensors file"):
        load_model(checkpoint)


@pytest.mark.parametrize("size", [0, 10, 500, -100, -1])
def test_a_truncated_release_is_refused(tmp_path, size):
    torch.save({"a": torch.zeros(100)}, tmp_path / "encoder.pth")
    whole = (tmp_path / "encoder.pth").read_bytes()
    (tmp_path / "encoder.pth").write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match="encoder.pth: cannot be read as plain weights") as caught:
        _read_state_dict(tmp_path / "encoder.pth")
    assert len(str(caught.value)) < 500  # torch explains itself over a page


@pytest.mark.parametrize("data", [b"\x80\x02", b"\x80\x04\x95", b"cos\nsystem\n", b"not a pickle", b"(((((("])
def test_a_pickle_of_another_kind_is_refused(tmp_path, data):
    (tmp_path / "encoder.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        _read_state_dict(tmp_path / "encoder.pth")


# ---- training ------------------------------------------------------------------------------------------------------

STATE = {
    "config": {},
    "samples_per_step": 1,
    "stage": {},
    "optimiser": {},
    "schedule": {},
    "scaler": {},
    "step": 1,
    "seconds": 1.0,
    "problems": 0,
}


@pytest.mark.parametrize("missing", STATE)
def test_a_training_state_without_a_part_is_refused(tmp_path, missing):
    save_state(tmp_path / "last.pt", {key: value for key, value in STATE.items() if key != missing})
    with pytest.raises(CheckpointError, match=f"last.pt: the training state has no {missing}; start the run anew"):
        load_state(tmp_path / "last.pt")


@pytest.mark.parametrize("config", [[], None, 3, {"gsp": 3}, {"data": None}, {"data": []}])
def test_a_training_state_of_a_strange_config_is_refused(tmp_path, config):
    save_state(tmp_path / "last.pt", {**STATE, "config": config})
    with pytest.raises((CheckpointError, ConfigError), match=r"last\.pt"):
        RunFolder(settings(tmp_path, tmp_path), 1).load()


@pytest.mark.parametrize(
    "override",
    [
        "steps=[",
        "steps=2020-99-99",
        "steps={a: 1, a: 2}",
        "data.scenes=2020-99-99",
        "steps",
        "steps.x=1",
        "steps=!!python/name:os.system",
    ],
)
def test_an_override_that_cannot_be_read_is_named(override, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"override|steps"):
        load_config(None, TrainConfig, [override])
    (tmp_path / "c.yaml").write_text("{}")
    assert train.main([str(tmp_path / "c.yaml"), override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and lines(error) == 1
    logging.getLogger().handlers.clear()


# ---- tables --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return MadeUpDatabase(keyframes=1, frames_per_keyframe=1).write(tmp_path_factory.mktemp("made_up") / "root")


@pytest.fixture
def root(database, tmp_path):
    shutil.copytree(database, tmp_path / "root")
    return tmp_path / "root"


FIELDS = [
    ("width", "x"),
    ("width", -1),
    ("width", 1 << 70),
    ("width", None),
    ("height", 1.5),
    ("timestamp", "abc"),
    ("timestamp", -5),
    ("timestamp", 1e300),
    ("timestamp", 1 << 62),
    ("filename", None),
    ("filename", 3),
    ("is_key_frame", None),
    ("is_key_frame", "yes"),
    ("token", None),
    ("sample_token", []),
    ("ego_pose_token", None),
    ("calibrated_sensor_token", {}),
]


@pytest.mark.parametrize("field, value", FIELDS)
@pytest.mark.parametrize("gone", [False, True])
def test_a_row_of_sample_data_is_named_with_its_field(root, tmp_path, field, value, gone, capsys):
    rows = read_table(root, "sample_data")
    row = next(row for row in rows if row["filename"].endswith(".jpg"))
    row.pop(field) if gone else row.update({field: value})
    write_table(root, "sample_data", rows)
    assert run_tool("nuscenes_to_rosbag.py", "--dataroot", root, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and lines(error) == 1, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "table", ["scene", "sample", "sample_data", "sensor", "calibrated_sensor", "ego_pose", "map", "log", "instance"]
)
@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", "3", "[3]", "[{}]", DEEP, "", '[{"token": []}]', '[{"token": 1}]']
)
def test_a_table_of_another_kind_is_refused(root, table, text):
    (root / "v1.0-mini" / f"{table}.json").write_text(text)
    try:
        source = NuScenesSource(root)
        for scene in source.scene_names():
            source.index(scene)
    except (DatasetError, CalibrationError) as error:
        assert lines(str(error)) == 0 and len(str(error)) < 2000
    else:
        # Tables without rows; one of what nobody reads.
        assert text in ("[]", "{}") or (table, text) == ("instance", '[{"token": 1}]'), "a damaged table was read"


@pytest.mark.parametrize("table", ["log", "sample_data", "calibrated_sensor", "ego_pose", "scene", "sample"])
def test_a_token_of_two_lines_stays_in_one(root, table):
    """Found by fuzzing: it stood in a message as it was."""
    rows = read_table(root, table)
    for row in rows:
        row["token"] = f"a\nb{row['token']}"
    write_table(root, table, rows)
    with pytest.raises((DatasetError, CalibrationError)) as caught:
        NuScenesSource(root).index("scene-0001")
    assert lines(str(caught.value)) == 0 and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "table, field",
    [
        ("ego_pose", "rotation"),
        ("ego_pose", "translation"),
        ("calibrated_sensor", "camera_intrinsic"),
        ("calibrated_sensor", "camera_distortion"),
    ],
)
@pytest.mark.parametrize(
    "value", ["x", None, [], [1, "a"], [1e300] * 4, {"a": 1}, [[1, 2], [3]], [0.0] * 250_000, 10**400]
)
def test_numbers_of_tables_are_refused_in_a_short_line(root, table, field, value):
    rows = read_table(root, table)
    for row in rows:
        row[field] = value
    write_table(root, table, rows)
    if field == "camera_distortion" and value in ([], None):
        return  # no lens
    with pytest.raises((DatasetError, CalibrationError)) as caught:
        NuScenesSource(root).index("scene-0001")
    assert len(str(caught.value)) < 600 and lines(str(caught.value)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        DEEP,
        '{"samples": [], "data": []}',
        '{"samples": 3, "data": 3}',
        '{"data": [{"key": 3}], "samples": []}',
        "",
    ],
)
@pytest.mark.parametrize("which", ["scene", "calibration", "index"])
def test_a_dgp_file_of_another_kind_is_refused(tmp_path, which, text):
    scene = MadeUpScene(samples=1)
    root = write_data_set(tmp_path / "ddad", scene)
    name = {"scene": scene.json_name, "calibration": scene.calibration_name, "index": "made_up.json"}[which]
    (root / name).write_text(text)
    with pytest.raises((DatasetError, CalibrationError)) as caught:
        DdadSource(root).index("000000")
    assert lines(str(caught.value)) == 0 and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "3",
        "rosbag2_bagfile_information: []",
        "a: [",
        "x: " + DEEP,
        "rosbag2_bagfile_information: {custom_data: 3}",
        "rosbag2_bagfile_information: {storage_identifier: mcap, relative_file_paths: "
        "['../../x'], topics_with_message_count: []}",
        "rosbag2_bagfile_information: {custom_data: {contents: '" + DEEP + "'}}",
    ],
)
def test_a_bags_metadata_of_another_kind_are_refused(tmp_path, text):
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(BagError, match="metadata.yaml is damaged"):
        read_metadata(tmp_path)


# ---- messages ------------------------------------------------------------------------------------------------------


def info(**changes):
    values = {
        "width": 64,
        "height": 48,
        "k": [50.0, 0, 32, 0, 50, 24, 0, 0, 1],
        "d": [0.0] * 5,
        "distortion_model": "plumb_bob",
        "binning_x": 0,
        "binning_y": 0,
        "header": SimpleNamespace(frame_id="c"),
        "roi": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        **changes,
    }
    return SimpleNamespace(**values)


MOST = (1 << 32) - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"binning_x": MOST},
        {"binning_y": MOST},
        {"width": MOST, "height": MOST},
        {"k": [1e300, 0, 1, 0, 1, 1, 0, 0, 1]},
        {"k": [1e-300, 0, 1, 0, 1, 1, 0, 0, 1]},
        {"d": [1e300] * 5},
        {"d": [0.1] * 100_000},
        {"distortion_model": "x" * 500_000},
        {"distortion_model": "a\nb"},
        {"roi": SimpleNamespace(x_offset=MOST, y_offset=0, width=MOST, height=MOST)},
    ],
)
def test_a_camera_info_that_no_camera_has_is_refused_in_a_short_line(changes):
    decode_camera_info(info(), "front")
    with pytest.raises(CalibrationError, match="camera front: ") as caught:
        decode_camera_info(info(**changes), "front")
    assert len(one_line(caught.value)) < 500


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e300, -1e300, 1e154, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 3, 4, 8])
def test_a_rectification_of_absurd_numbers_is_none(value, place):
    """No product of them is formed: 1e300 squared is no number, and a warning in every second of a log."""
    P, R = np.array([40.0, 0, 16, 0, 0, 40, 12, 0, 0, 0, 1, 0]), np.eye(3).ravel()
    P[place] = R[place] = value
    found = decode_camera_info(info(p=P, r=R), "front")
    assert np.isfinite(found.rectified).all() and np.array_equal(found.rotation, np.eye(3).ravel())
    assert found.baseline == 0.0 and (found.rectified == () or place == 3)


@pytest.mark.parametrize(
    "rotation, translation",
    [
        ((0, 0, 0, 1e200), (0, 0, 0)),
        ((0, 0, 0, 1), (1e300, 0, 0)),
        ((0, 0, 0, 0), (0, 0, 0)),
        ((0, 0, 0, np.nan), (0, 0, 0)),
    ],
)
def test_a_transform_that_is_no_place_is_refused(rotation, translation):
    q, t = (SimpleNamespace(**dict(zip("xyzw", v, strict=False))) for v in (rotation, translation))
    with pytest.raises(CalibrationError, match="not a rigid transform"):
        decode_transform(SimpleNamespace(rotation=q, translation=t))


def test_the_settings_of_this_module_are_those_of_the_program():
    assert sys.getrecursionlimit() < 100_000 and json.loads(json.dumps(to_dict(SMALL)))["name"] == "small"
