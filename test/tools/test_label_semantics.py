# SPDX-License-Identifier: Apache-2.0
"""tools/label_semantics.py: what is written is what the model says, in the formats that training reads."""

import importlib.util
import json
import resource
import shutil
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.nuscenes_fixtures import MadeUpDatabase
from support.robot_bags import RobotBag

from gaussianocc_core.config import read_yaml
from gaussianocc_core.data.bag import label_path, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.errors import CheckpointError, ConfigError
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, IGNORE, occ3d_to_generator
from gaussianocc_core.onboarding import labelling
from gaussianocc_core.onboarding.labelling import guess_class_map, load_class_map, shipped_class_maps

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("label_semantics", ROOT / "tools/label_semantics.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)


def run(*arguments: object) -> int:
    return tool.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: nothing to label with")


@pytest.fixture(scope="module")
def model_folder(transformers, tmp_path_factory):
    """A random SegFormer that is sure of some pixels and unsure of others."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(transformers, folder, CITYSCAPES)
    return folder


def save_model(transformers, folder, names):
    torch.manual_seed(3)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(10000)  # as initialised, all classes are about equally probable
    model.save_pretrained(folder, safe_serialization=True)
    transformers.SegformerImageProcessor(size={"height": 48, "width": 80}).save_pretrained(folder)


def expected(transformers, folder, image, confidence, table):
    """Occ3D ids of one image by the model itself, straight from its documentation."""
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    processor = transformers.SegformerImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        output = model(**processor(images=image, return_tensors="pt"))
    (classes,) = processor.post_process_semantic_segmentation(output, target_sizes=[image.shape[:2]])
    probs = torch.nn.functional.interpolate(output.logits, size=image.shape[:2], mode="bilinear").softmax(dim=1)[0]
    labels = table[classes.numpy()]
    for i in range(len(CLASS_NAMES)):
        evidence = probs[torch.from_numpy(table == i)].sum(dim=0).numpy()
        labels = np.where((labels == i) & (evidence < confidence), IGNORE, labels)
    return labels


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("pretrained", [False, True])
def test_no_code_of_another_model_runs_because_a_configuration_names_it(tmp_path, monkeypatch, nested, pretrained):
    """transformers passes `backbone_kwargs` on, trust_remote_code too; offline the other model is a folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mark, folder, other = tmp_path / "executed", tmp_path / "model", tmp_path / "model" / "other"
    other.mkdir(parents=True)
    (other / "code.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nfrom transformers import PretrainedConfig\n"
        "class Evil(PretrainedConfig):\n    model_type = 'evil'\n"
    )
    (other / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "code.Evil"}}))
    named = {"backbone": str(other), "backbone_kwargs": {"trust_remote_code": True}}
    named |= {"use_pretrained_backbone": pretrained, "use_timm_backbone": False}
    settings = {"backbone_config": {"model_type": "upernet", **named}} if nested else named
    (folder / "config.json").write_text(json.dumps({"model_type": "upernet", **settings}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "SegformerImageProcessor"}))
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="names another model"):
        labelling._load_model(folder, torch.device("cpu"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "file, changes, match",
    [
        ("config.json", {"hidden_sizes": [8, 200_000_000]}, r"asks for \d{9,} weights, its \*.safetensors have"),
        ("config.json", {"decoder_hidden_size": 2_000_000_000}, r"asks for \d{9,} weights|overflowed"),
        ("config.json", {"depths": [1, 300_000]}, "asks for 300001 layers; at most 1000"),
        ("config.json", {"id2label": {str(i): "x" for i in range(100_000)}}, "bytes, at most 1048576 are read"),
        (
            "preprocessor_config.json",
            {"size": {"height": 100_000, "width": 100_000}},
            "holds 100000; images",
        ),
        ("config.json", None, "Expecting value"),
    ],
)
def test_a_model_that_asks_for_more_than_it_holds_is_refused_before_it_is_built(
    model_folder, tmp_path, file, changes, match
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    path = folder / file
    path.write_text("" if changes is None else json.dumps({**json.loads(path.read_text()), **changes}))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        labelling._load_model(folder, torch.device("cpu"))
    assert "\n" not in str(caught.value) and time.process_time() - began < 5.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_labels_of_a_bag_are_those_of_the_model_on_the_native_image(transformers, model_folder, tmp_path, confidence):
    robot = RobotBag(frames=3, encoding=".png")
    bag = robot.write(tmp_path / "bag")
    assert run("--bag", bag, "--model", model_folder, "--least-confidence", confidence, "--batch", 3) == 0
    table = guess_class_map(CITYSCAPES).table
    seen, ignored = set(), 0
    for i, name in enumerate(robot.cameras):
        for n in range(3):
            image = robot.picture(n, i)
            labels = cv2.imread(str(label_path(tmp_path / "labels", "bag", name, robot.stamp(n, i))), -1)
            assert labels.shape == image.shape[:2] and labels.dtype == np.uint8
            wrong = labels != expected(transformers, model_folder, image, confidence, table)
            assert wrong.mean() < 0.002  # a batch rounds otherwise than one image: ties of two classes, and of 0.5
            seen |= set(np.unique(labels))
            ignored += (labels == IGNORE).mean() / 6
    assert len(seen) >= 3
    assert not confidence or 0.1 < ignored < 0.9  # both sides of the threshold occur


def test_training_reads_the_labels_of_a_bag(model_folder, tmp_path):
    bag = RobotBag(frames=3).write(tmp_path / "bags" / "drive")
    assert run("--bag", tmp_path / "bags", "--model", model_folder) == 0
    config = BagConfig(str(bag), labels=str(tmp_path / "bags" / "labels"))
    (source,) = open_bags(config)
    assert all(entry.labelled for entry in source.entries())
    (entry,) = open_entries(DataConfig(bag=config))
    stored = [cv2.imread(str(path), -1) for path in entry.label_paths]
    for plane, file in zip(entry.load().semantics, stored, strict=True):
        np.testing.assert_array_equal(plane, file)


def test_a_data_set_gets_the_published_format(transformers, model_folder, tmp_path):
    root = MadeUpDatabase(scenes=("scene-0001", "scene-0002")).write(tmp_path / "root")
    arguments = ("--dataroot", root, "--scene", "scene-0001", "--model", model_folder, "--least-confidence", 0)
    assert run(*arguments) == 0
    entries = NuScenesSource(root).index("scene-0001", semantics=True)
    table = guess_class_map(CITYSCAPES).table
    for entry in entries:
        sample = entry.load()
        for path, image, plane in zip(entry.semantic_paths, sample.images, sample.semantics, strict=True):
            assert path.stat().st_size == image.shape[0] * image.shape[1]
            wanted = expected(transformers, model_folder, image, 0.0, table)
            ids = np.fromfile(path, np.int8).reshape(wanted.shape)
            assert (ids != occ3d_to_generator()[wanted]).mean() < 0.002
            assert (plane != wanted).mean() < 0.002  # what entries make of the file
    assert len(entries) == 2 and not any(e.labelled for e in NuScenesSource(root).index("scene-0002", semantics=True))
    assert not list((root / "nuscenes_semantic").glob("sweeps/*"))
    assert run(*arguments, "--sweeps") == 0
    assert all(entry.labelled for entry in NuScenesSource(root).index("scene-0001", sweeps=True, semantics=True))


def test_unknown_as_free_is_what_the_published_loader_makes_of_undetected(model_folder, tmp_path):
    root = MadeUpDatabase(keyframes=1).write(tmp_path / "root")
    arguments = ("--dataroot", root, "--model", model_folder)
    assert run(*arguments) == 0
    (entry,) = NuScenesSource(root).index("scene-0001", semantics=True, undetected=FREE)
    published = entry.load().semantics
    assert run(*arguments, "--unknown-as-free", "--overwrite") == 0
    assert all((np.fromfile(path, np.int8) != -1).all() for path in entry.semantic_paths)
    for plane, before in zip(entry.load().semantics, published, strict=True):
        np.testing.assert_array_equal(plane, before)


def test_every_third_moment_can_be_enough(model_folder, tmp_path):
    bag = RobotBag(frames=5).write(tmp_path / "bag")
    assert run("--bag", bag, "--model", model_folder, "--every", 3, "--output", tmp_path / "some") == 0
    (source,) = open_bags(BagConfig(str(bag), labels=str(tmp_path / "some")))
    assert [entry.labelled for entry in source.entries()] == [True, False, False, True, False]
    assert not (tmp_path / "labels").exists()


def test_a_second_run_labels_only_what_is_missing_or_cut_short(model_folder, tmp_path, capsys):
    root = MadeUpDatabase(keyframes=1).write(tmp_path / "root")
    arguments = ("--dataroot", root, "--model", model_folder)
    assert run(*arguments) == 0
    assert "6 images labelled, 0 had labels" in capsys.readouterr().out
    files = sorted((root / "nuscenes_semantic").rglob("*.bin"))
    before = [file.read_bytes() for file in files]
    stamps = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    files[1].write_bytes(before[1][:-5])
    assert run(*arguments) == 0
    assert "2 images labelled, 4 had labels" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns for file in files][2:] == stamps[2:]
    assert not list(root.rglob("*.part*"))


def test_an_interrupted_run_goes_on(model_folder, tmp_path, monkeypatch, capsys):
    from gaussianocc_core.onboarding import labelling

    bag, calls = RobotBag(frames=4).write(tmp_path / "bag"), []
    real = labelling.write_file

    def interrupted(path, data):
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(labelling, "write_file", interrupted)
        assert run("--bag", bag, "--model", model_folder, "--batch", 2) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert run("--bag", bag, "--model", model_folder) == 0
    assert "5 images labelled, 3 had labels" in capsys.readouterr().out  # the first of the calls was the record


def test_labels_of_two_settings_do_not_mix(model_folder, tmp_path, capsys):
    bag = RobotBag(frames=2).write(tmp_path / "bag")
    assert run("--bag", bag, "--model", model_folder) == 0
    assert run("--bag", bag, "--model", model_folder, "--least-confidence", 0.1) == 2
    assert "least_confidence 0.5, not 0.1; --overwrite" in capsys.readouterr().err
    assert run("--bag", bag, "--model", model_folder, "--least-confidence", 0.1, "--overwrite") == 0
    assert "4 images labelled, 0 had" in capsys.readouterr().out
    assert json.loads((tmp_path / "labels/bag/labels.json").read_text())["least_confidence"] == 0.1


def test_labels_of_another_origin_are_kept(model_folder, tmp_path, caplog):
    root = MadeUpDatabase(keyframes=1).write(tmp_path / "root")
    image = next((root / "samples/CAM_BACK").glob("*.jpg"))
    theirs = root / "nuscenes_semantic/samples/CAM_BACK" / f"{image.stem}_mask.bin"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(bytes([7]) * 64 * 36)
    assert run("--dataroot", root, "--model", model_folder) == 0
    assert theirs.read_bytes() == bytes([7]) * 64 * 36 and "of another origin" in caplog.text


def test_the_summary_counts_pixels_and_names_what_is_not_mapped(model_folder, tmp_path, capsys):
    bag = RobotBag(frames=2).write(tmp_path / "bag")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("road: driveable_surface\nCar: car\n")
    picture = tmp_path / "out" / "labels.png"
    arguments = ("--mapping", mapping, "--least-confidence", 0, "--picture", picture)
    assert run("--bag", bag, "--model", model_folder, *arguments) == 0
    planes = [cv2.imread(str(path), -1) for path in (tmp_path / "labels").rglob("*.png")]
    pixels = np.concatenate([plane.ravel() for plane in planes])
    assert set(np.unique(pixels)) <= {CLASS_ID["driveable_surface"], CLASS_ID["car"], IGNORE}
    out = capsys.readouterr().out
    share = 100 * (pixels == IGNORE).mean()
    assert share > 5 and f"without a label: {share:.2f} % ({share:.2f} of classes" in out and "not mapped: " in out
    assert cv2.imread(str(picture)).shape[1] == 1600


def test_a_damaged_image_is_named_and_the_others_are_labelled(model_folder, tmp_path, capsys):
    root = MadeUpDatabase().write(tmp_path / "root")
    image = next((root / "samples/CAM_BACK").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:40])
    assert run("--dataroot", root, "--model", model_folder, "--picture", tmp_path / "labels.png") == 0
    out = capsys.readouterr().out
    assert "6 images labelled" in out and f"{image} cannot be decoded" in out
    assert cv2.imread(str(tmp_path / "labels.png")).shape[1] == 1600  # of the moment that has labels


def test_a_place_that_cannot_be_written_is_one_line(model_folder, tmp_path, capsys):
    bag = RobotBag(frames=2).write(tmp_path / "bag")
    (tmp_path / "file").write_text("not a folder")
    for option in (("--output", tmp_path / "file"), ("--picture", tmp_path / "file" / "labels.png")):
        assert run("--bag", bag, "--model", model_folder, *option) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and str(tmp_path / "file") in error


# ---- mappings ------------------------------------------------------------------------------------------------------


def test_shipped_mappings_name_only_classes_of_ours():
    assert [path.name for path in shipped_class_maps()] == ["ade20k.yaml", "cityscapes.yaml"]
    for path in shipped_class_maps():
        assert set(read_yaml(path).values()) <= set(CLASS_NAMES) and read_yaml(path)["sky"] == "free"


def test_the_mapping_that_fits_is_found_whatever_the_case():
    found = guess_class_map([name.upper() + " " for name in CITYSCAPES])
    assert found.origin.name == "cityscapes.yaml"
    assert found.table[CITYSCAPES.index("sky")] == FREE and found.table[CITYSCAPES.index("train")] == IGNORE
    ade = [*read_yaml(ROOT / "config/labels/ade20k.yaml"), "mirror"]
    ade[ade.index("car")] = "car, auto, automobile"
    found = guess_class_map(ade)
    assert found.origin.name == "ade20k.yaml" and found.table[ade.index("car, auto, automobile")] == CLASS_ID["car"]
    assert found.table[-1] == IGNORE
    with pytest.raises(ConfigError, match="--mapping FILE.*LABEL_0, LABEL_1"):
        guess_class_map(["LABEL_0", "LABEL_1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roads: driveable_surface", "no class 'roads'; its classes: road, sidewalk"),
        ("road: street", "road: 'street' is no Occ3D class; these are: others, barrier"),
        ("", "maps no class"),
    ],
)
def test_a_wrong_mapping_is_an_error_that_lists_what_there_is(tmp_path, text, message):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_class_map(tmp_path / "m.yaml", CITYSCAPES)


# ---- models that cannot be used ------------------------------------------------------------------------------------


def refused(capsys, model, *arguments) -> str:
    assert run("--bag", "nowhere", "--model", model, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_models_that_cannot_be_used_are_one_line(transformers, model_folder, tmp_path, capsys):
    assert "nothing is downloaded" in refused(capsys, tmp_path / "none")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (pickled / name).write_bytes((model_folder / name).read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert "safe_serialization=True" in refused(capsys, pickled)
    (pickled / "model.safetensors").write_bytes(b"not one")
    assert "reads no semantic segmentation model" in refused(capsys, pickled)
    assert "expected a probability" in refused(capsys, model_folder, "--least-confidence", 50)
    assert "nowhere does not exist" in refused(capsys, model_folder)
    save_model(transformers, tmp_path / "other", ("cat", "dog"))
    assert "cat, dog" in refused(capsys, tmp_path / "other")


def test_a_backbone_without_its_head_is_refused(transformers, model_folder, tmp_path, capsys):
    whole = transformers.SegformerForSemanticSegmentation.from_pretrained(model_folder)
    folder = tmp_path / "backbone"
    whole.segformer.save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_bytes((model_folder / "preprocessor_config.json").read_bytes())
    assert "weights are missing (decode_head" in refused(capsys, folder)


def test_code_in_the_folder_of_a_model_does_not_run(model_folder, tmp_path, capsys):
    folder = tmp_path / "trap"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.C", "AutoModelForSemanticSegmentation": "trap.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    refused(capsys, folder)
    assert not (tmp_path / "sprung").exists()


def test_without_transformers_one_line_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert 'pip install "transformers' in refused(capsys, tmp_path)


def test_options_of_one_source_are_refused_with_the_other(tmp_path, capsys):
    for wrong in (["--dataroot", "d", "--output", "o"], ["--bag", "b", "--sweeps"], ["--bag", "b", "--dataroot", "d"]):
        with pytest.raises(SystemExit) as stop:
            tool.main([*wrong, "--model", "m"])
        assert stop.value.code == 2
    assert "are for bags" in capsys.readouterr().err
