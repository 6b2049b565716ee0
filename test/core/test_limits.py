# SPDX-License-Identifier: Apache-2.0
"""What files ask for is bounded before memory is taken for it, and nothing takes long to refuse."""

import io
import json
import os
import pickle
import re
import resource
import struct
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import nuscenes.nuscenes  # noqa: F401  takes 3 s, which count below
import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.robot_bags import RobotBag
from support.small_model import SMALL

from gaussianocc_core import bounded
from gaussianocc_core.arrays import check_npz, read_npz
from gaussianocc_core.bags.image_codec import decode_grey, decode_rgb, decode_stored, image_size
from gaussianocc_core.bags.index import BagIndex, PoseSeries
from gaussianocc_core.bags.index_cache import cache_path, read_cache
from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.messages import decode_cloud
from gaussianocc_core.checkpoint import Provenance, load_model, save_model
from gaussianocc_core.config import find_model_config, load_config, read_yaml
from gaussianocc_core.data.dgp_scene import Datum, find_scene_index, read_points
from gaussianocc_core.data.entries import load_occupancy, read_file, read_label_image, read_mask, read_semantics
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import CheckpointError, ConfigError, DatasetError, GaussianOccError
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.geometry.transform_tree import FrameRefused, TransformTree, TransformUnavailable
from gaussianocc_core.mapping.depth_files import read_depth
from gaussianocc_core.mapping.label_files import LabelFolder
from gaussianocc_core.models import limits
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.gaussianocc import build_depth_net, build_model, build_pose_net
from gaussianocc_core.reference.golden import Golden
from gaussianocc_core.reference.release import _read_state_dict
from gaussianocc_core.synthetic.clips import load_clip
from gaussianocc_core.training.state import FORMAT, load_state
from gaussianocc_core.types import Lattice, VoxelGrid
from gaussianocc_core.yaml_text import MOST_BYTES, MOST_NODES


@pytest.fixture(autouse=True)
def cheap():
    """Each refusal takes less than 2 s of this process and grows it by less than 100 MB."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# ---- models --------------------------------------------------------------------------------------------------------

LATTICE = {"low": (-40.0, -40.0, -1.0), "high": (40.0, 40.0, 5.4)}


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"lattice": Lattice(**LATTICE, shape=(1 << 40, 100, 16))}, "lattice.shape: expected a whole number from 2 to"),
        ({"lattice": Lattice(**LATTICE, shape=(2000, 2000, 2000))}, "lattice.shape: 8000000000 cells; at most"),
        ({"lattice": Lattice((-1e30, 0.0, 0.0), (1.0, 1.0, 1.0), (16, 16, 8))}, "lattice.low: expected a number from"),
        ({"grid": VoxelGrid(shape=(2000, 2000, 2000))}, "grid.shape: 8000000000 cells"),
        ({"grid": VoxelGrid(origin=(float("nan"), 0.0, 0.0))}, "grid.origin: expected a number"),
        ({"grid": VoxelGrid(voxel_size=1e300)}, "grid.voxel_size: expected a number"),
        ({"class_names": ("free", "car")}, "class_names: the last one is free space, got 'car'; put free last"),
        ({"class_names": ("car", "occupied")}, "class_names: the last one is free space, got 'occupied'"),
        ({"class_names": ("car", "free", "nothing")}, "class_names: the last one is free space, got 'nothing'"),
        ({"image_height": 1 << 20}, "image_height: expected a whole number from 16 to 4096, got 1048576"),
        ({"image_height": 4096, "image_width": 4096}, "image_height, image_width: 4096x4096 is too large"),
        ({"encoder": replace(SMALL.encoder, width=1e9)}, "encoder.width"),
        ({"encoder": replace(SMALL.encoder, up_channels=(1 << 30, 8))}, "encoder.up_channels"),
        ({"encoder": replace(SMALL.encoder, feature_channels=-1)}, "encoder.feature_channels"),
        ({"decoder": replace(SMALL.decoder, channels=1 << 40)}, "decoder.channels"),
        ({"decoder": replace(SMALL.decoder, hourglasses=10**6)}, "decoder.hourglasses"),
        ({"decoder": replace(SMALL.decoder, head_blocks=10**6)}, "decoder.head_blocks"),
        ({"matching": replace(SMALL.matching, depths=1 << 40)}, "matching.depths"),
        ({"pose": replace(SMALL.pose, channels=1 << 40)}, "pose.channels"),
        ({"class_names": tuple(f"c{i}" for i in range(256))}, "class_names: expected 2 to 254"),
        ({"class_names": ("free",)}, "class_names: expected 2 to 254"),
        ({"class_names": ("car", "car", "free")}, "class_names: a name is there twice"),
        ({"class_names": ("../car", "free")}, r"class_names, name: '../car' is refused"),
        ({"name": "a\nb"}, "is refused: it holds the control character"),
    ],
)
def test_a_model_that_asks_for_too_much_is_refused_before_it_is_built(changes, match):
    config = replace(SMALL, **changes)
    for build in (build_model, build_depth_net, build_pose_net):
        with pytest.raises(ValueError, match=match):
            build(config)


def test_a_checkpoint_that_asks_for_too_much_is_refused_by_its_path(tmp_path):
    import torch

    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    greedy = replace(SMALL, lattice=Lattice(**LATTICE, shape=(1000, 1000, 200)))
    save_model(path, build_model(SMALL), greedy, Provenance("made up"))
    with pytest.raises(CheckpointError, match=r"model.safetensors: its configuration is impossible: lattice.shape: 2"):
        load_model(path)


def test_the_memory_of_the_machine_is_compared(monkeypatch):
    monkeypatch.setattr(limits, "memory_bytes", lambda: 10**4)
    with pytest.raises(ValueError, match=r"needs about 0.0 GB of memory for one forward pass, this machine has 0.0 GB"):
        limits.check_limits(SMALL)
    monkeypatch.setattr(limits, "memory_bytes", lambda: 0)  # nobody says
    limits.check_limits(SMALL)


@pytest.mark.parametrize("name", ["tiny", "small", "8gb", "24gb", "reference"])
def test_our_models_are_far_below_the_limits(name, monkeypatch):
    monkeypatch.setattr(limits, "memory_bytes", lambda: 8 * 10**9)
    config = load_config(find_model_config(name), ModelConfig)
    limits.check_limits(config)
    assert limits.estimate_bytes(config) < 4e9
    twice = tuple(2 * side for side in config.lattice.shape[:2])
    monkeypatch.setattr(limits, "memory_bytes", lambda: 0)
    limits.check_limits(replace(config, lattice=replace(config.lattice, shape=(*twice, config.lattice.shape[2]))))


# ---- YAML ----------------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text, match",
    [
        (BOMB, f"more than {MOST_NODES} values of YAML, counting aliases"),
        (MERGES, f"more than {MOST_NODES} values of YAML, counting aliases"),
        ("a: &a [*a]", "an alias holds itself"),
        ("x: [" + "1," * (MOST_NODES + 10) + "]", f"more than {MOST_NODES} values of YAML"),
        ("x: '" + "y" * (MOST_BYTES + 10) + "'", f"it has {MOST_BYTES + 15} bytes, at most {MOST_BYTES} are read"),
        ("x: " + "[" * 100_000, "it is nested too deeply"),
        ("x: " + "{a: " * 10_000, "it is nested too deeply"),
        ("steps: 1\nsteps: 2", "line 2: the key 'steps' is there twice"),
        ("data: {workers: 1, workers: 2}", "line 1: the key 'workers' is there twice"),
        ("? [a, b]\n: 1", "a key is a list or a section"),
        ("date: 2020-99-99", "cannot be used"),
        ("x: !!python/object/apply:os.system [ls]", "cannot be used|not valid YAML"),
        ("x: [", "not valid YAML"),
        ("x: \x01", "not valid YAML"),
    ],
)
def test_yaml_is_bounded_and_says_everything_once(tmp_path, text, match):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError):
        load_rig(path)


def test_aliases_are_fine_where_they_are_few(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: &lens [1.0, 2.0]\nb: *lens\nc: {<<: &more {x: 1}, y: 2}\n")
    assert read_yaml(path) == {"a": [1.0, 2.0], "b": [1.0, 2.0], "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    "field, value",
    [
        ("width", str(1 << 70)),
        ("width", "100000"),
        ("intrinsics", "[1e-300, 1e-300, 1, 1]"),
        ("intrinsics", "[1e300, 1, 1, 1]"),
        ("translation", "[1e300, 0, 0]"),
        ("rotation", "[1e200, 1e200, 0, 0]"),
        ("distortion", "[1e300, 0, 0, 0]"),
        ("distortion", str([1.0] * 5000)),
    ],
)
def test_a_rig_of_impossible_numbers_is_refused_in_a_short_line(tmp_path, field, value):
    values = {
        "width": "64",
        "height": "48",
        "intrinsics": "[50, 50, 32, 24]",
        "translation": "[0, 0, 1]",
        "rotation": "[1, 0, 0, 0]",
        "distortion": "[]",
        field: value,
    }
    path = tmp_path / "rig.yaml"
    path.write_text("cameras:\n  front:\n" + "".join(f"    {key}: {text}\n" for key, text in values.items()))
    with pytest.raises(ConfigError, match=rf"cameras.front.{field}: expected ") as caught:
        load_rig(path)
    assert len(str(caught.value)) < 400


def test_a_rig_has_no_thousand_cameras(tmp_path):
    camera = "{width: 64, height: 48, intrinsics: [50, 50, 32, 24], translation: [0, 0, 1], rotation: [1, 0, 0, 0]}"
    path = tmp_path / "rig.yaml"
    path.write_text("cameras:\n" + "".join(f"  c{i}: {camera}\n" for i in range(1000)))
    with pytest.raises(ConfigError, match="1000 cameras; at most 64"):
        load_rig(path)


def test_whole_numbers_of_any_length_are_no_calibration():
    assert find_fault(translation=[10**400, 0, 0]).field == "translation"
    assert find_fault(model=["pinhole"]).field == "model"


# ---- images --------------------------------------------------------------------------------------------------------


def jpeg(side, *options):
    return cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8), options)[1].tobytes()


@pytest.mark.parametrize("marker", [b"\xff\xd0", b"\xff\x00", b"\xff\x01", b"\xff\xd8"])
def test_a_jpeg_of_two_sizes_is_refused(marker):
    """Its first frame header is small to whom jumps over a segment that is none, and behind the marker a large one
    follows: 65 kB became 2.4 GB."""
    whole = jpeg(16)
    place = whole.index(b"\xff\xc0")
    small = whole[place : place + 2 + int.from_bytes(whole[place + 2 : place + 4], "big")]
    large = whole[2 : place + 5] + struct.pack(">HH", 20_000, 20_000) + whole[place + 9 : -2]
    begin = b"\xff\xd8" + marker + large
    data = begin.ljust(4 + int.from_bytes(large[:2], "big"), b"\0") + small + bytes(20) + b"\xff\xd9"
    for read in (image_size, decode_rgb, decode_stored, decode_grey):
        with pytest.raises(ValueError, match="no frame header"):
            read(data)
    assert decode_rgb(whole).shape == (16, 16, 3)


def test_a_jpeg_that_goes_over_its_pixels_for_ever_is_refused():
    whole = jpeg(4000, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 10)
    places = [match.start() for match in re.finditer(b"\xff\xda", whole)]
    with pytest.raises(ValueError, match="goes over its pixels 10009 times; at most 100 are accepted"):
        decode_rgb(whole[:-2] + whole[places[-2] : places[-1]] * 9_999 + b"\xff\xd9")
    assert len(places) == 10 and decode_rgb(whole, reduce=8).shape == (500, 500, 3)


def write_large_png(path, side=30_000):
    """A grey PNG of 900 megapixels in less than 1 MB; with its pixels left out it would be refused for that."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.mark.medium
@pytest.mark.parametrize(
    "read, what",
    [
        (lambda path: read_mask(path), "mask"),
        (lambda path: read_label_image(path, (64, 48)), "2D labels"),
        (lambda path: read_depth(path, (64, 48)), "depth image"),
    ],
)
def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header(tmp_path_factory, read, what):
    path = tmp_path_factory.getbasetemp() / "large.png"
    if not path.exists():
        write_large_png(path)
    began = time.process_time()
    with pytest.raises(DatasetError, match=f"{what} .*it says that it has 30000x30000 pixels"):
        read(path)
    assert time.process_time() - began < 0.5


# ---- an index that came with its bag -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage, array",
    [
        ("a place without end", lambda arrays, meta: arrays["poses0"].__setitem__((0, 0, 3), np.nan)),
        ("a place beyond the Earth", lambda arrays, meta: arrays["poses0"].__setitem__((0, 0, 3), 1e300)),
        ("a turn that stretches", lambda arrays, meta: arrays["poses0"].__setitem__((0, 0, 0), 3.0)),
        ("a lens of NaN", lambda arrays, meta: _first_lens(meta)["matrix"].__setitem__(0, float("nan"))),
        ("an image of no pixels", lambda arrays, meta: _first_lens(meta).update(width=0)),
        ("a lens of no known model", lambda arrays, meta: _first_lens(meta).update(model="x")),
        ("a rectification that stretches", lambda arrays, meta: _first_lens(meta).update(rotation=[2.0] * 9)),
    ],
)
def test_an_index_of_impossible_values_is_made_anew(tmp_path, damage, array):
    """It is the bag's messages that are checked, so what stands for them is checked in the same way."""
    bag = RobotBag(frames=3).write(tmp_path / "bag", "mcap")
    whole = open_index(bag)
    with np.load(cache_path(bag)) as file:
        arrays = {name: np.array(file[name]) for name in file.files}
    meta = json.loads(arrays["meta"].tobytes())
    array(arrays, meta)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(cache_path(bag), **arrays)
    assert read_cache(bag) is None, damage
    again = open_index(bag)
    assert again.intrinsics == whole.intrinsics and read_cache(bag) is not None
    assert np.array_equal(again.poses[0].T_parent_child, whole.poses[0].T_parent_child)


def _first_lens(meta):
    return next(iter(meta["intrinsics"].values()))[0][1]


# ---- numpy's files -------------------------------------------------------------------------------------------------


def write_bomb(path, name="semantics", shape=(4096, 4096, 384), others=()):
    """6 MB that would become 6.4 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in (name, *others):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
            archive.writestr(f"{each}.npy", header.getvalue() + bytes(1 << 20))


def test_labels_that_would_fill_the_memory_are_refused_by_their_header(tmp_path):
    write_bomb(tmp_path / "labels.npz", others=("mask_camera", "mask_lidar"))
    with pytest.raises(DatasetError, match=r"labels.npz cannot be read \(its arrays take 6442450944 bytes and more"):
        load_occupancy(tmp_path / "labels.npz")


def test_points_that_would_fill_the_memory_are_refused_by_their_header(tmp_path):
    write_bomb(tmp_path / "1.npz", "data")
    datum = Datum("k", "LIDAR", tmp_path / "1.npz", 0, np.eye(4), point_format=("X", "Y", "Z", "INTENSITY"))
    with pytest.raises(DatasetError, match="its arrays take 6442450944 bytes and more"):
        read_points(datum)


def test_an_index_that_would_fill_the_memory_is_not_used(tmp_path):
    (tmp_path / "metadata.yaml").write_text("")
    write_bomb(cache_path(tmp_path), "meta")
    assert read_cache(tmp_path) is None


def test_a_clip_that_would_fill_the_memory_is_refused_by_its_header(tmp_path):
    write_bomb(tmp_path / "clip.npz", "images")
    with pytest.raises(ValueError, match="its arrays take 6442450944 bytes and more"):
        load_clip(tmp_path / "clip.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="a clip has images, depth, .* this has images"):
        load_clip(tmp_path / "other.npz")


def test_tensors_that_would_fill_the_memory_are_refused_before_they_are_unpacked(tmp_path):
    """torch reads archives that are compressed, although it writes none: these tensors would have 1 GB."""
    torch.save({"format": FORMAT, "a": torch.zeros(1000)}, tmp_path / "plain.pt")
    for file in ("encoder.pth", "last.pt"):
        with (
            zipfile.ZipFile(tmp_path / "plain.pt") as plain,
            zipfile.ZipFile(tmp_path / file, "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for entry in plain.infolist():
                packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(CheckpointError, match=r"encoder.pth: .*its tensors are compressed, which torch never does"):
        _read_state_dict(tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match=r"last.pt: .*its tensors are compressed"):
        load_state(tmp_path / "last.pt")
    assert _read_state_dict(tmp_path / "plain.pt")["a"].shape == (1000,)


# 20 MB of them took 1.4 GB and half a minute to be refused.
LISTS = b"\x80\x02(" + b"]" * 5_000_000 + b"l."


def write_pickle(path, content, legacy):
    """A file of torch's that holds any pickle: an archive, or as before torch 1.6."""
    if legacy:
        head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
        path.write_bytes(b"".join(pickle.dumps(each, 2) for each in head) + content)
        return
    torch.save({"a": torch.zeros(3)}, path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as archive:
        for entry in whole.infolist():
            archive.writestr(entry, content if entry.filename.endswith(".pkl") else whole.read(entry.filename))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content, match",
    [(LISTS, "its values take more than 1000000 steps to make"), (pickle.dumps("x" * 100_000), "a value of it has")],
)
def test_a_pickle_that_would_fill_the_memory_is_refused_before_it_is_unpickled(tmp_path, content, match, legacy):
    for name, read in (("encoder.pth", _read_state_dict), ("last.pt", load_state)):
        write_pickle(tmp_path / name, content, legacy)
        with pytest.raises(CheckpointError, match=match):
            read(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_itself_writes_is_read(tmp_path, legacy):
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert _read_state_dict(tmp_path / "a.pth")["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**9),
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**10,)),
        torch.zeros(10**12, device="meta"),
    ],
    ids=["strides of 0", "sparse", "meta"],
)
def test_a_tensor_that_says_more_values_than_its_file_holds_is_refused(tmp_path, tensor):
    torch.save({"format": FORMAT, "a": [tensor]}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="says more values than the file holds"):
        load_state(tmp_path / "last.pt")


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_values_that_hold_each_other_are_refused_and_not_gone_through(tmp_path, kind):
    """40 steps of a pickle, and 2^40 values."""
    value = kind()
    for _ in range(40):
        value = {"a": value, "b": value} if kind is dict else kind([value, value])
    itself = []
    itself.append(itself)
    for each in (value, itself):
        torch.save({"format": FORMAT, "config": each}, tmp_path / "last.pt")
        with pytest.raises(CheckpointError, match="its values hold each other"):
            load_state(tmp_path / "last.pt")


def test_a_pickle_of_other_things_is_refused_without_the_paragraphs_of_torch(tmp_path):
    write_pickle(tmp_path / "encoder.pth", pickle.dumps(Path("x")), False)
    with pytest.raises(CheckpointError, match=r"\(it is damaged, or holds more than tensors and plain values\)"):
        _read_state_dict(tmp_path / "encoder.pth")


def test_an_archive_of_too_many_entries_is_refused_before_they_are_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "labels.npz", "w") as archive:
        for i in range(20_000):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(DatasetError, match=r"its list of contents has \d+ bytes, at most 1048576 are read"):
        load_occupancy(tmp_path / "labels.npz")


# ---- files that are read whole -------------------------------------------------------------------------------------


def make_large(path):
    """Larger than anything that is read at once; it takes no disk."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(6 << 30)


def make_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


READERS = {
    "image": lambda path: read_file(path, "token"),
    "2D labels": lambda path: read_semantics(path, (4, 4), 255),
    "mask": read_mask,
    "label image": lambda path: read_label_image(path, (4, 4)),
    "depth": lambda path: read_depth(path.rename(path.with_suffix(".png")), (4, 4)),
    "labels": load_occupancy,
    "config": read_yaml,
    "DGP index": find_scene_index,
    "carved labels": lambda path: LabelFolder(path.rename(path.with_name("carved.json")).parent, VoxelGrid(), {}),
    "golden": lambda path: Golden(path.rename(path.with_name("config.json")).parent),
    "training state": load_state,
    "released weights": _read_state_dict,
}


@pytest.mark.parametrize(
    "make, said",
    [(make_large, "bytes, at most|is not|opcode"), (make_pipe, "it is a pipe|is not|no carved.json|nothing to resume")],
)
@pytest.mark.parametrize("reader", READERS)
def test_large_files_and_pipes_are_refused_before_they_are_read(tmp_path, reader, make, said):
    make(tmp_path / "file")
    with pytest.raises(GaussianOccError, match=rf"{tmp_path}.*({said})") as caught:
        READERS[reader](tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_pipe_beside_a_scene_index_is_none(tmp_path):
    make_pipe(tmp_path / "a.json")
    (tmp_path / "ddad.json").write_text(json.dumps({"scene_splits": {"0": {"filenames": []}}}))
    assert find_scene_index(tmp_path)[0].name == "ddad.json"


@pytest.mark.parametrize("table", ["sample_data", "lidarseg"])
@pytest.mark.parametrize("make, said", [(make_large, "bytes, at most"), (make_pipe, "it is a pipe")])
def test_tables_are_measured_before_the_devkit_reads_them(tmp_path, table, make, said):
    root = MadeUpDatabase(keyframes=1, frames_per_keyframe=1).write(tmp_path / "root")
    make(root / "v1.0-mini" / f"{table}.json")
    with pytest.raises(DatasetError, match=rf"table {table}.json: .*{said}.*restore it"):
        NuScenesSource(root)


def test_json_of_more_values_than_fit_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    """10 MB of empty lists become 300 MB."""
    root = MadeUpDatabase(keyframes=1, frames_per_keyframe=1).write(tmp_path / "root")
    text = b"[" + b"[]," * 3_400_000 + b"[]]"
    (root / "v1.0-mini" / "ego_pose.json").write_bytes(text)
    (tmp_path / "ddad.json").write_bytes(b'{"scene_splits":' + text + b"}")
    monkeypatch.setattr(bounded, "memory_bytes", lambda: 200_000_000)
    for read in (lambda: NuScenesSource(root), lambda: find_scene_index(tmp_path / "ddad.json")):
        with pytest.raises(DatasetError, match=r"its values need about 0.4 GB of memory, this machine has 0.2 GB"):
            read()


def test_a_checkpoint_of_a_large_header_is_refused_before_it_is_parsed(tmp_path):
    header = b'{"__metadata__":{"format":"' + b"x" * (1 << 23) + b'"}}'
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"its header says that it has 8388\d+ bytes, at most 4194304 are read"):
        load_model(tmp_path / "m.safetensors")


def test_arrays_of_objects_are_no_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="holds objects"):
        check_npz(tmp_path / "a.npz", 1 << 20)
    np.savez_compressed(tmp_path / "b.npz", x=np.arange(5), y=np.ones((2, 3)))
    assert read_npz(tmp_path / "b.npz", 1 << 10)["y"].shape == (2, 3)


@pytest.mark.parametrize("semantics", [np.full((2, 2, 2), 300), np.full((2, 2, 2), -1), np.full((2, 2, 2), 1.5)])
def test_labels_are_class_ids_and_never_wrap_around(tmp_path, semantics):
    mask = np.ones((2, 2, 2), np.uint8)
    np.savez(tmp_path / "labels.npz", semantics=semantics, mask_camera=mask, mask_lidar=mask)
    with pytest.raises(DatasetError, match="expected class ids from 0 to 255"):
        load_occupancy(tmp_path / "labels.npz")


def test_a_cloud_of_more_points_than_bytes_is_refused():
    most = (1 << 32) - 1
    cloud = SimpleNamespace(
        width=most,
        height=most,
        point_step=16,
        row_step=16,
        is_bigendian=False,
        data=bytes(64),
        fields=[SimpleNamespace(name="x", offset=0, datatype=7, count=1)],
    )
    with pytest.raises(ValueError, match=f"{most}x{most} points of 16 bytes in 64 bytes"):
        decode_cloud(cloud)


# ---- TF ------------------------------------------------------------------------------------------------------------


def test_a_long_chain_of_frames_costs_no_square_of_its_length():
    tree, count = TransformTree(), 4999
    for i in range(count):
        tree.add(f"f{i}", f"f{i + 1}", 0, np.eye(4), True)
    began = time.process_time()
    np.testing.assert_allclose(tree.lookup("f0", f"f{count}"), np.eye(4))
    assert time.process_time() - began < 0.5


def test_poses_that_go_back_in_time_cost_no_square_of_their_number():
    tree = TransformTree()
    for i in range(30_000):
        tree.add("odom", "base", 10**18 - i * 1000, np.eye(4), False)
    assert len(tree._moving["base"][0]) == 20_000


def test_a_bag_whose_poses_go_back_in_time_costs_no_square_of_their_number(tmp_path):
    count = 15_000
    series = PoseSeries(
        "odom", "base", "/tf", 10**18 - np.arange(count) * 10, np.tile(np.eye(4), (count, 1, 1)),
        np.arange(count), np.arange(count),
    )  # fmt: skip
    tree = BagIndex(tmp_path, {}, {}, (series,), {}).transforms()
    assert len(tree._moving["base"][0]) == count


@pytest.mark.parametrize("seed", range(20))
def test_the_poses_of_a_bag_mean_what_they_meant_when_they_were_published(tmp_path, seed):
    """Two publishers of one frame, times that repeat and go back, and places that are fixed meanwhile."""
    random = np.random.default_rng(seed)
    orders = random.permutation(40)
    parts, poses = (
        [("odom", "/tf", orders[:18]), ("map", "/tf", orders[18:36]), ("odom", "/tf_static", orders[36:])],
        [],
    )
    for parent, topic, own in parts:
        T = np.tile(np.eye(4), (len(own), 1, 1))
        T[:, 0, 3] = own
        own = np.sort(own)
        stamps = np.sort(random.integers(0, 12, len(own))) + random.integers(-2, 3, len(own)) + 100
        poses.append(PoseSeries(parent, "base", topic, stamps, T, stamps, own))
    expected = TransformTree(keep_ns=1 << 62, bridge_gaps=False)
    said = sorted((int(order), n, i) for n, each in enumerate(poses) for i, order in enumerate(each.orders))
    for _, n, i in said:
        each = poses[n]
        expected.add(each.parent, each.child, int(each.stamps_ns[i]), each.T_parent_child[i], each.static)
    tree = BagIndex(tmp_path, {}, {}, tuple(poses), {}).transforms()
    assert tree._parent == expected._parent and tree._static.keys() == expected._static.keys()
    for frame, (stamps, values) in expected._moving.items():
        assert tree._moving[frame][0] == stamps
        for found, wanted in zip(tree._moving[frame][1], values, strict=True):
            assert found[0] == wanted[0] and (found[1] == wanted[1]).all()


def test_there_are_only_so_many_frames():
    tree = TransformTree()
    with pytest.raises(FrameRefused, match="TF has 5000 frames already; 'f5001' is ignored"):
        for i in range(20_000):
            tree.add("map", f"f{i + 1}", 0, np.eye(4), True)
    tree.add("map", "f1", 0, 2 * np.eye(4), True)  # those that are known still move


def test_messages_about_frames_do_not_grow_with_their_number():
    tree = TransformTree()
    for i in range(2000):
        tree.add("map", f"frame_{i}", 0, np.eye(4), True)
    with pytest.raises(TransformUnavailable, match="does not connect nowhere and map.* 1981 more") as caught:
        tree.lookup("nowhere", "map")
    assert len(str(caught.value)) < 500
    for i in range(1000):
        tree.add(f"l{(i + 1) % 1000}", f"l{i}", 0, np.eye(4), True)
    with pytest.raises(TransformUnavailable, match="TF has a loop: .* more") as caught:
        tree.lookup("l0", "map")
    assert len(str(caught.value)) < 500
