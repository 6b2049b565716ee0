# SPDX-License-Identifier: Apache-2.0
"""2D labels of images by a semantic segmentation model of the `transformers` library, in the formats training reads.

Models come from a folder on this machine and only as safetensors: nothing is downloaded, unpickled or executed.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from gaussianocc_core.bounded import read_json
from gaussianocc_core.config import read_yaml
from gaussianocc_core.data.bag import BagEntry, label_path
from gaussianocc_core.data.entries import SampleEntry, read_label_image
from gaussianocc_core.errors import BagError, CheckpointError, ConfigError, DatasetError, GaussianOccError
from gaussianocc_core.files import write_file
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, IGNORE, generator_to_occ3d, occ3d_to_generator
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.onboarding.moments import Moment

_log = logging.getLogger(__name__)
_ELSEWHERE = ("backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone", "auto_map")
_MOST_CONFIG_BYTES, _MOST_LAYERS, _MOST_SIDE = 1 << 20, 1000, 8192  # of a model of transformers


# ---- classes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassMap:
    """What each class of a model is called here."""

    names: tuple[str, ...]  # of the model, by its ids
    table: UInt8[np.ndarray, " C"]  # Occ3D id of each, IGNORE where it has none of ours
    origin: Path


def load_class_map(path: Path, names: Sequence[str]) -> ClassMap:
    """A YAML file of `class of the model: Occ3D class`; names: of the model, by its ids. Case and spaces around count
    for nothing, and of a name with synonyms ("road, route") the first is the one."""
    known = {_plain(name) for name in names}
    ours = {}
    for theirs, name in read_yaml(path).items():
        if _plain(theirs) not in known:
            raise ConfigError(f"{path}: the model has no class {theirs!r}; its classes: {_listed(names)}")
        if name not in CLASS_ID:
            raise ConfigError(f"{path}: {theirs}: {name!r} is no Occ3D class; these are: {', '.join(CLASS_NAMES)}")
        ours[_plain(theirs)] = CLASS_ID[name]
    if not ours:
        raise ConfigError(
            f"{path} maps no class; its lines are `class of the model: Occ3D class`, such as `road: "
            f"driveable_surface`; the model's classes: {_listed(names)}"
        )
    table = np.array([ours.get(_plain(name), IGNORE) for name in names], dtype=np.uint8)
    return ClassMap(tuple(names), table, path)


def guess_class_map(names: Sequence[str]) -> ClassMap:
    """The shipped mapping whose every class the model has."""
    known = {_plain(name) for name in names}
    shipped = shipped_class_maps()
    fitting = [path for path in shipped if {_plain(name) for name in read_yaml(path)} <= known]
    if not fitting:
        raise ConfigError(
            f"no shipped mapping ({', '.join(path.name for path in shipped) or 'none found'}) fits the model: give "
            f"--mapping FILE with lines `class of the model: Occ3D class`; the model's classes: {_listed(names)}"
        )
    return load_class_map(max(fitting, key=lambda path: len(read_yaml(path))), names)


def shipped_class_maps() -> tuple[Path, ...]:
    """config/labels/*.yaml of a clone or an installed ROS package."""
    for parent in Path(__file__).resolve().parents:
        for folder in ("config/labels", "share/gaussianocc_ros/config/labels"):
            if (parent / folder).is_dir():
                return tuple(sorted((parent / folder).glob("*.yaml")))
    return ()


def _plain(name: Any) -> str:
    return str(name).replace(";", ",").partition(",")[0].replace("_", " ").strip().lower()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.strip() for name in names)


# ---- the model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Of one image."""

    labels: UInt8[np.ndarray, "H W"]  # Occ3D ids, IGNORE where the class has none or the model is not sure
    unsure: int  # pixels that the threshold left out
    unmapped: Counter[str]  # pixels by class of the model that has no Occ3D class


class Labeller:
    """A segmentation model and what its classes mean."""

    def __init__(
        self, folder: Path, mapping: Path | None = None, device: torch.device | str = "cpu", confidence: float = 0.5
    ) -> None:
        """mapping: None takes the shipped one that fits; confidence: least probability of a pixel's class."""
        if not 0 <= confidence <= 1:
            raise ConfigError(f"least confidence: expected a probability from 0 to 1, got {confidence:g}")
        self.folder, self.device, self.confidence = folder, torch.device(device), confidence
        self._model, self._processor = _load_model(folder, self.device)
        id2label = self._model.config.id2label
        names = tuple(str(id2label.get(i, f"class {i}")) for i in range(self._model.config.num_labels))
        self.classes = guess_class_map(names) if mapping is None else load_class_map(mapping, names)
        # One row per Occ3D class: the probabilities of "building" and "wall" are both evidence for manmade.
        merge = np.arange(len(CLASS_NAMES))[:, None] == self.classes.table[None]
        self._merge = torch.from_numpy(merge.astype(np.float32)).to(self.device)
        self._table = torch.from_numpy(self.classes.table.astype(np.int64)).to(self.device)

    def made_with(self, unknown_as_free: bool) -> dict[str, Any]:
        """All that labels depend on, as plain data."""
        ours = {
            name: CLASS_NAMES[i] for name, i in zip(self.classes.names, self.classes.table, strict=True) if i != IGNORE
        }
        return {
            "model": self.folder.resolve().name,
            "mapping": ours,
            "least_confidence": self.confidence,
            "unknown_as_free": unknown_as_free,
        }

    @torch.inference_mode()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Prediction]:
        """Labels of RGB images of one size, at that size."""
        inputs = self._processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        try:
            logits = self._model(pixel_values=inputs["pixel_values"].to(self.device)).logits.float()
            return [self._predict(each, image.shape[:2]) for each, image in zip(logits, images, strict=True)]
        except torch.cuda.OutOfMemoryError as error:
            raise GaussianOccError(f"{self.device} lacks memory for {len(images)} images: a smaller --batch") from error
        except RuntimeError as error:
            raise GaussianOccError(
                f"{self.folder}: the model cannot run on {images[0].shape[1]}x{images[0].shape[0]} images: {error}"
            ) from error

    def _predict(self, logits: torch.Tensor, size: tuple[int, ...]) -> Prediction:
        scores = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
        most, classes = scores.max(dim=0)
        scores.sub_(most).exp_()  # in place: 150 classes of a full-size image are 0.9 GB
        merged = (self._merge @ scores.flatten(1)).view(-1, *size) / scores.sum(dim=0)
        labels = self._table[classes]
        mapped = labels != IGNORE
        sure = merged.gather(0, labels.clamp(max=len(CLASS_NAMES) - 1)[None])[0] >= self.confidence
        counts = torch.bincount(classes[~mapped], minlength=len(self.classes.names)).tolist()
        return Prediction(
            torch.where(sure & mapped, labels, IGNORE).to(torch.uint8).cpu().numpy(),
            int((mapped & ~sure).sum()),
            Counter({name.strip(): n for name, n in zip(self.classes.names, counts, strict=True) if n}),
        )


def _load_model(folder: Path, device: torch.device) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        needs = 'pip install "transformers>=4.46,<5"'
        raise GaussianOccError(f"labelling needs the library transformers: {needs} ({error})") from error
    transformers.logging.set_verbosity_error()
    if not (folder / "config.json").is_file() or not (folder / "preprocessor_config.json").is_file():
        raise CheckpointError(
            f"{folder} is not the folder of a segmentation model: it needs config.json, preprocessor_config.json and "
            "model.safetensors, as save_pretrained writes them; nothing is downloaded"
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no *.safetensors; other weight files run code when they are read: convert them where you "
            "trust them, model.save_pretrained(FOLDER, safe_serialization=True)"
        )
    local = {"local_files_only": True, "trust_remote_code": False}
    _check_size(folder, local)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder), **local)
        model, loading = transformers.AutoModelForSemanticSegmentation.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, **local
        )
    except Exception as error:  # the library and its dependencies raise a dozen kinds
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: transformers reads no semantic segmentation model there: {reason}") from error
    lacking = [*loading["missing_keys"], *loading["mismatched_keys"]]
    if lacking:  # the library would go on with random numbers in their place
        raise CheckpointError(
            f"{folder}: {len(lacking)} weights are missing ({lacking[0]}, ...); is it a backbone without its "
            "segmentation head? Give a model that was trained for segmentation"
        )
    for option in ("do_center_crop", "do_pad"):  # labels of a crop or a padded image would not lie over the image
        if getattr(processor, option, False):
            setattr(processor, option, False)
    return model.to(device).eval(), processor


def _check_size(folder: Path, local: dict[str, bool]) -> None:
    """CheckpointError where the configuration asks for more than the weights beside it hold: the library takes memory
    and time for what the configuration says, before it looks at them."""
    import transformers

    try:
        settings = read_json(folder / "config.json", _MOST_CONFIG_BYTES)
        if elsewhere := _names_elsewhere(settings):
            raise ValueError(
                f"its config.json names another model ({elsewhere}), whose code and weights would be fetched; save the "
                "model with a backbone_config in its place"
            )
        layers = _count_layers(settings)
        if layers > _MOST_LAYERS:
            raise ValueError(f"its config.json asks for {layers} layers; at most {_MOST_LAYERS} are built")
        side = max(_whole_numbers(read_json(folder / "preprocessor_config.json", _MOST_CONFIG_BYTES)), default=0)
        if side > _MOST_SIDE:
            raise ValueError(f"its preprocessor_config.json holds {side}; images have up to {_MOST_SIDE} pixels a side")
        config = transformers.AutoConfig.from_pretrained(str(folder), **local)
        with torch.device("meta"):  # shapes without memory
            model = transformers.AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False)
        asked = sum(each.numel() for each in model.state_dict().values())
        there = sum(each.stat().st_size for each in folder.glob("*.safetensors"))
        if asked > there:  # no value has less than a byte
            raise ValueError(f"its config.json asks for {asked} weights, its *.safetensors have {there} bytes")
    except Exception as error:  # the library raises a dozen kinds
        raise CheckpointError(
            f"{folder}: transformers reads no semantic segmentation model there: {reason_of(error)}"
        ) from error


def _names_elsewhere(settings: Any) -> str:
    """The entry by which the library would take a part of the model from another place, by rules that the entry sets:
    with `backbone_kwargs: {trust_remote_code: true}` it ran what lay there. "": there is none."""
    if isinstance(settings, list):
        return next(filter(None, map(_names_elsewhere, settings)), "")
    if not isinstance(settings, dict):
        return ""
    if str(settings.get("model_type", "")).startswith("timm"):
        return "model_type"
    named = next((name for name in _ELSEWHERE if settings.get(name)), "")
    return named or _names_elsewhere(list(settings.values()))


def _count_layers(settings: Any) -> int:
    """The largest sum of numbers that say how many layers are built, of any of its parts."""
    if isinstance(settings, list):
        return max(map(_count_layers, settings), default=0)
    if not isinstance(settings, dict):
        return 0
    found = [_count_layers(each) for each in settings.values() if isinstance(each, (dict, list))]
    for name, value in settings.items():
        if re.search("layers|depth|blocks|stages", name):
            numbers = value if isinstance(value, list) else [value]
            found.append(sum(each for each in numbers if isinstance(each, int)))
    return max(found, default=0)


def _whole_numbers(settings: Any) -> Iterator[int]:
    if isinstance(settings, (list, dict)):
        for each in settings.values() if isinstance(settings, dict) else settings:
            yield from _whole_numbers(each)
    elif isinstance(settings, int):
        yield settings


# ---- files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Where the labels of one image go: the published `_mask.bin` of generator ids, or a PNG of Occ3D ids."""

    path: Path
    size: tuple[int, int]  # width, height of the image
    record: Path  # what the labels of its bag or scene were made with

    def is_there(self) -> bool:
        """Whether a whole file of this size exists."""
        width, height = self.size
        if not self.path.is_file():
            return False
        if self.path.suffix == ".bin":
            return self.path.stat().st_size == width * height
        with self.path.open("rb") as stream:
            head = stream.read(26)
        expected = struct.pack(">4sIIBB", b"IHDR", width, height, 8, 0)  # grey, 8 bits
        return head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:] == expected

    def write(self, labels: UInt8[np.ndarray, "H W"]) -> None:
        """labels: Occ3D ids. Others and other_flat have no generator id and become undetected in a `_mask.bin`."""
        if self.path.suffix == ".bin":
            data = occ3d_to_generator()[labels].tobytes()
        else:
            data = cv2.imencode(".png", labels)[1].tobytes()
        write_file(self.path, data)

    def read(self) -> UInt8[np.ndarray, "H W"]:
        """Occ3D ids, IGNORE where there is no label."""
        if self.path.suffix == ".png":
            return read_label_image(self.path, self.size)
        return generator_to_occ3d(np.fromfile(self.path, dtype=np.int8).reshape(self.size[1], self.size[0]))


def dataset_targets(dataroot: Path, moments: Iterable[Moment]) -> list[tuple[Target, ...]]:
    """Of data sets in the nuScenes schema: nuscenes_semantic/<path of the image minus its ending>_mask.bin."""
    found, folder = [], dataroot / "nuscenes_semantic"
    for moment in moments:
        assert isinstance(moment, SampleEntry)
        paths = [path.relative_to(dataroot).with_suffix("") for path in moment.frame.image_paths]
        record = folder / f"{moment.scene}.json"
        found.append(_targets(moment, [folder / f"{path}_mask.bin" for path in paths], record))
    return found


def bag_targets(folder: Path, moments: Iterable[Moment]) -> list[tuple[Target, ...]]:
    """Of bags: <folder>/<bag>/<camera>/<stamp in ns>.png."""
    found = []
    for moment in moments:
        assert isinstance(moment, BagEntry)
        stamps = zip(moment.cameras.names, moment.frame.camera_stamps_ns, strict=True)
        paths = [label_path(folder, moment.scene, name, stamp) for name, stamp in stamps]
        found.append(_targets(moment, paths, folder / moment.scene / "labels.json"))
    return found


def _targets(moment: Moment, paths: Sequence[Path], record: Path) -> tuple[Target, ...]:
    sizes = zip(moment.cameras.width, moment.cameras.height, strict=True)
    return tuple(Target(path, size, record) for path, size in zip(paths, sizes, strict=True))


def claim(targets: Iterable[tuple[Target, ...]], made_with: dict[str, Any], overwrite: bool = False) -> None:
    """Note what the labels of each bag or scene are made with, so that two models never mix in one unnoticed.

    overwrite: labels that are there are removed first, so that an interrupted run goes on with the new ones.
    """
    by_record: dict[Path, list[Target]] = defaultdict(list)
    for target in (each for moment in targets for each in moment):
        by_record[target.record].append(target)
    for record in () if overwrite else by_record:  # all of them before the first is written
        _check_record(record, made_with)
    for record, each in by_record.items():
        if overwrite:
            _remove(each)
        elif not record.is_file() and any(target.is_there() for target in each):
            _log.warning("%s: labels of another origin are there and kept; --overwrite makes them anew", record.stem)
            continue
        write_file(record, (json.dumps(made_with, indent=1) + "\n").encode())


def _check_record(record: Path, made_with: dict[str, Any]) -> None:
    try:
        before = read_json(record) if record.is_file() else made_with
    except (OSError, ValueError, RecursionError):
        before = {}
    before = before if isinstance(before, dict) else {}
    for key, value in made_with.items():
        if before.get(key) != value:
            ours, theirs = (value, before.get(key)) if not isinstance(value, dict) else ("this one", "another")
            raise DatasetError(
                f"{record} says that the labels there were made with {key} {theirs}, not {ours}; --overwrite makes "
                "them anew"
            )


def _remove(targets: Sequence[Target]) -> None:
    for target in targets:
        try:
            target.path.unlink(missing_ok=True)
        except OSError as error:
            raise DatasetError(f"{target.path} cannot be removed ({error.strerror})") from error


# ---- the whole -----------------------------------------------------------------------------------------------------


@dataclass
class LabelStatistics:
    """Of the images that were labelled; pixels."""

    written: int = 0  # images
    there: int = 0  # images that had labels already
    faults: list[str] = field(default_factory=list)  # moments that could not be read
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # by Occ3D id as written
    unsure: int = 0
    unmapped: Counter[str] = field(default_factory=Counter)


def label_moments(
    labeller: Labeller,
    moments: Sequence[Moment],
    targets: Sequence[tuple[Target, ...]],
    batch: int = 4,
    unknown: int = IGNORE,
    on_images: Callable[[int], None] = lambda count: None,
) -> LabelStatistics:
    """Label every image whose file is not there yet. unknown: Occ3D id of pixels without a label (17 as published)."""
    statistics = LabelStatistics()
    waiting: dict[tuple[int, int], list[tuple[Target, np.ndarray]]] = defaultdict(list)

    def flush(size: tuple[int, int]) -> None:
        items = waiting.pop(size, [])
        predictions = labeller([image for _, image in items]) if items else []
        for (target, _), found in zip(items, predictions, strict=True):
            labels = np.where(found.labels == IGNORE, np.uint8(unknown), found.labels)
            target.write(labels)
            statistics.written += 1
            statistics.pixels += np.bincount(labels.ravel(), minlength=256)
            statistics.unsure += found.unsure
            statistics.unmapped.update(found.unmapped)
        on_images(len(items))

    for moment, places in zip(moments, targets, strict=True):
        wanted = [i for i, target in enumerate(places) if not target.is_there()]
        statistics.there += len(places) - len(wanted)
        on_images(len(places) - len(wanted))
        if not wanted:
            continue
        try:
            images = moment.load().images
        except (BagError, DatasetError) as error:
            statistics.faults.append(str(error))
            on_images(len(wanted))
            continue
        for i in wanted:
            size = places[i].size
            waiting[size].append((places[i], images[i]))
            if len(waiting[size]) >= batch:
                flush(size)
    for size in tuple(waiting):
        flush(size)
    return statistics


def describe(statistics: LabelStatistics) -> str:
    """The share of pixels per class, and what should be looked at."""
    lines = [f"{statistics.written} images labelled, {statistics.there} had labels already"]
    total = max(int(statistics.pixels.sum()), 1)
    shares = {name: statistics.pixels[i] / total for i, name in enumerate(CLASS_NAMES)}
    shares["free (sky)"] = shares.pop(CLASS_NAMES[FREE])
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    unmapped = statistics.unmapped.total()
    if statistics.written:
        lines += [f"  {name:<22}{100 * share:6.2f} %" for name, share in ordered if share > 0]
        lines.append(
            f"  without a label: {100 * (unmapped + statistics.unsure) / total:.2f} % ({100 * unmapped / total:.2f} of "
            f"classes that are not mapped, {100 * statistics.unsure / total:.2f} below the least confidence)"
        )
        most = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in statistics.unmapped.most_common(5))
        if most:
            lines.append(f"  not mapped: {most}")
        if unmapped + statistics.unsure > 0.5 * total:
            lines.append("  that is more than half: do the mapping and the model fit these images?")
    lines += [f"not labelled: {fault}" for fault in statistics.faults[:10]]
    if len(statistics.faults) > 10:
        lines.append(f"not labelled: {len(statistics.faults) - 10} moments more")
    return "\n".join(lines)
