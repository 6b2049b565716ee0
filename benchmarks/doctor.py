# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds of damage that is known: detected, told right, missed, and false alarms.

python benchmarks/doctor.py RECORDING [RECORDING ...] [--json FILE] [--only KIND ...]

RECORDING: a rosbag2. Each is judged as it is, and damaged in 14 ways at several sizes: calibration, odometry and images
of its first camera, or of all. Damage is done to what the intake has read, so that images are decoded again only where
the damage is to them or to K. "Told right" means that the finding names the camera or the odometry, and the kind;
"detected" that anything was found; "undecidable, said" that the doctor itself says that such a recording cannot show a
delay or a turn of that size. What shows a delay is in the rows "as it is": by how much 200 ms change the turns of
odometry, and what turns err by in the images. An interrupted run goes on where it was, at the same commit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from report import COMMIT, write_report

from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.data.bag import BagEntry, BagFrame, BagSource
from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry.plausibility import find_doubts, refuse_intrinsics
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.onboarding.doctor.examine import Visit, judge
from gaussianocc_core.onboarding.doctor.findings import ODOMETRY, Diagnosis
from gaussianocc_core.onboarding.doctor.rotations import exp_rotation
from gaussianocc_core.onboarding.doctor.sampling import Moment, Sampled, Shot, sample
from gaussianocc_core.types import Cameras, Sample

AS_IT_IS = "as it is"  # in place of a kind of damage
BODY_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
RESULTS = Path(__file__).resolve().parent / "results" / "doctor.json"


@dataclass(frozen=True)
class DamagedEntry(BagEntry):
    """Whose images are changed on the way."""

    change: Callable[[np.ndarray], np.ndarray] = lambda image: image

    def load(self) -> Sample:
        loaded = super().load()
        return replace(loaded, images=tuple(self.change(image) for image in loaded.images))


@dataclass(frozen=True)
class Recording:
    source: BagSource
    entries: list[BagEntry]
    sampled: Sampled
    seconds: float  # that sampling took

    @property
    def moves(self) -> bool:
        places = [m.now[0].T_world_ego for m in self.sampled.moments if m.now[0].T_world_ego is not None]
        return len(places) > 1 and float(np.linalg.norm(places[-1][:3, 3] - places[0][:3, 3])) > 0.5


@dataclass(frozen=True)
class Damage:
    """One way, at one size."""

    kind: str
    size: str
    about: str  # "camera", "all" or ODOMETRY
    expected: tuple[str, ...]  # kinds of findings that tell it right
    apply: Callable[[Recording], Diagnosis]
    moving: bool = False  # whether only a recording that moves can show it


def turned(degrees: float, axis: int) -> np.ndarray:
    vector = np.zeros(3)
    vector[axis] = np.radians(degrees)
    return make_transform(exp_rotation(vector), np.zeros(3))


def place(cameras: Cameras, places: dict[int, np.ndarray]) -> Cameras:
    T = cameras.T_ego_cam.clone()
    for k, each in places.items():
        T[k] = torch.as_tensor(each, dtype=T.dtype)
    return replace(cameras, T_ego_cam=T)


def look(recording: Recording, cameras: Cameras | None = None, sampled: Sampled | None = None, pose=None) -> Visit:
    """The doctor's judgement of the sampled images with another calibration or odometry."""
    sampled = sampled or recording.sampled
    sampled = replace(sampled, cameras=cameras or sampled.cameras)
    source = recording.source

    def pose_at(stamp_ns: int) -> np.ndarray | None:
        return pose(source.T_world_ego, stamp_ns) if pose else source.T_world_ego(stamp_ns)

    if pose:

        def moved(shot: Shot) -> Shot:
            return replace(shot, T_world_ego=None if shot.T_world_ego is None else pose_at(shot.stamp_ns))

        moments = tuple(Moment(tuple(map(moved, m.now)), tuple(map(moved, m.later)), m.entry) for m in sampled.moments)
        sampled = replace(sampled, moments=moments)
    return judge(source.index.name, sampled, pose_at, find_doubts(sampled.cameras))


def resample(recording: Recording, cameras: Cameras, change: Callable[[np.ndarray], np.ndarray]) -> Sampled:
    """With the first camera's images read again, changed, and with its K of `cameras`."""
    one = cameras.select((cameras.names[0],))
    entries = []
    for entry in recording.entries:
        T = entry.frame.T_world_ego
        frame = BagFrame(entry.frame.images[:1], None if T is None else T[:1])
        entries.append(
            DamagedEntry(
                entry.token, entry.scene, entry.path, one, frame, mask_paths=entry.mask_paths[:1], change=change
            )
        )
    again = sample(entries, one)
    moments = tuple(
        replace(m, now=(n.now[0], *m.now[1:]), later=(n.later[0], *m.later[1:]) if m.later and n.later else ())
        for m, n in zip(recording.sampled.moments, again.moments, strict=True)
    )
    return Sampled(cameras, (again.cylinders[0], *recording.sampled.cylinders[1:]), moments, again.strips)


def scaled(cameras: Cameras, factor: float, whole: bool) -> Cameras:
    K = cameras.intrinsics.clone()
    if whole:
        K[0, :2] *= factor
    else:
        K[0, 0, 0] *= factor
        K[0, 1, 1] *= factor
    return replace(cameras, intrinsics=K)


def with_K(factor: float, whole: bool) -> Callable[[Recording], Diagnosis]:
    def apply(recording: Recording) -> Diagnosis:
        cameras = scaled(recording.sampled.cameras, factor, whole)
        return look(recording, sampled=resample(recording, cameras, lambda image: image)).diagnosis

    return apply


def with_images(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Recording], Diagnosis]:
    return lambda recording: look(recording, sampled=resample(recording, recording.sampled.cameras, change)).diagnosis


def with_first(left: np.ndarray | None = None, right: np.ndarray | None = None, every: bool = False):
    def apply(recording: Recording) -> Diagnosis:
        T = recording.sampled.cameras.T_ego_cam.double().numpy()
        which = range(len(T)) if every else (0,)
        places = {k: (np.eye(4) if left is None else left) @ T[k] for k in which}
        if left is not None:  # turned where it stands
            for k in which:
                places[k][:3, 3] = T[k, :3, 3]
        if right is not None:
            places = {k: each @ right for k, each in places.items()}
        return look(recording, place(recording.sampled.cameras, places)).diagnosis

    return apply


def swap(recording: Recording) -> Diagnosis:
    """The first two cameras, which are neighbours."""
    T = recording.sampled.cameras.T_ego_cam.double().numpy()
    return look(recording, place(recording.sampled.cameras, {0: T[1], 1: T[0]})).diagnosis


def in_millimetres(recording: Recording) -> Diagnosis:
    T = recording.sampled.cameras.T_ego_cam.double().numpy().copy()
    T[:, :3, 3] *= 1000.0
    return look(recording, place(recording.sampled.cameras, dict(enumerate(T)))).diagnosis


def with_pose(change) -> Callable[[Recording], Diagnosis]:
    return lambda recording: look(recording, pose=change).diagnosis


def delayed(seconds: float):
    return lambda pose_at, stamp_ns: pose_at(stamp_ns - round(seconds * 1e9))


def mapped(change: Callable[[np.ndarray], np.ndarray]):
    def pose(pose_at, stamp_ns: int) -> np.ndarray | None:
        T = pose_at(stamp_ns)
        return None if T is None else change(T)

    return pose


def longer(factor: float):
    def change(T: np.ndarray) -> np.ndarray:
        T = T.copy()
        T[:3, 3] *= factor
        return T

    return mapped(change)


def identity(recording: Recording) -> Diagnosis:
    """The intake refuses the camera by name, before the doctor comes."""
    cameras = recording.sampled.cameras
    refuse_intrinsics(cameras.names[0], np.eye(3), cameras.width[0], cameras.height[0])
    raise AssertionError("it was not refused")


def frozen(recording: Recording) -> Diagnosis:
    moments = tuple(
        replace(
            m, later=(replace(m.now[0], stamp_ns=m.later[0].stamp_ns, T_world_ego=m.later[0].T_world_ego), *m.later[1:])
        )
        if m.later
        else m
        for m in recording.sampled.moments
    )
    return look(recording, sampled=replace(recording.sampled, moments=moments)).diagnosis


def dirt(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    cover = np.zeros((height, width), np.float32)
    for u, v in ((0.3, 0.6), (0.62, 0.42), (0.75, 0.7)):
        cv2.circle(cover, (round(u * width), round(v * height)), max(3, width // 28), 1.0, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), width / 160)[..., None]
    return (image * (1 - cover) + 70 * cover).astype(np.uint8)


class Bands:
    """Lamps on the mains: bands that stand elsewhere in each image."""

    def __init__(self, levels: float) -> None:
        self.levels, self.random = levels, np.random.default_rng(0)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        rows = np.arange(image.shape[0]) / image.shape[0]
        wave = self.levels * np.sin(2 * np.pi * (5 * rows + self.random.random()))
        return np.clip(image + wave[:, None, None], 0, 255).astype(np.uint8)


def blur(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma * image.shape[1] / 400)


def darken(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: (image * factor).astype(np.uint8)


def upside_down(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[::-1, ::-1])


def mirror(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def y_ahead(T: np.ndarray) -> np.ndarray:
    return T @ turned(90, 2)


def damages() -> list[Damage]:
    turn, lens, way = ("rotation", "orientation"), ("focal length", "principal point", "view"), ("axes",)
    roll = make_transform(exp_rotation(np.array([0, 0, np.pi])), np.zeros(3))
    body = make_transform(BODY_OPTICAL.T, np.zeros(3))
    found = [
        Damage("identity K", "", "camera", ("identity K",), identity),
        *(Damage("K of another resolution", f"x {f:g}", "camera", lens, with_K(f, True)) for f in (2.0, 0.5)),
        *(Damage("focal length", f"x {f:g}", "camera", lens, with_K(f, False)) for f in (2.0, 1.5, 1.2, 0.5)),
        Damage("swapped neighbours", "", "camera", ("swapped",), swap),
        Damage("calibration by 180 degrees", "roll", "camera", ("orientation", "sky below"), with_first(right=roll)),
        Damage("images by 180 degrees", "", "camera", ("orientation", "sky below"), with_images(upside_down)),
        Damage("mirrored images", "", "camera", ("mirrored",), with_images(mirror)),
        Damage("body frame", "one", "camera", ("orientation", "body frame"), with_first(right=body)),
        Damage("body frame", "all", "all", ("orientation", "body frame"), with_first(right=body, every=True)),
        Damage("millimetres", "cameras", "all", ("far away",), in_millimetres),
        Damage("millimetres", "odometry", ODOMETRY, ("length",), with_pose(longer(1000.0)), moving=True),
        *(
            Damage("length of odometry", f"x {f:g}", ODOMETRY, ("length",), with_pose(longer(f)), moving=True)
            for f in (2.0, 1.3, 0.5)
        ),
        *(
            Damage("delay", f"{1000 * s:.0f} ms", ODOMETRY, ("delay",), with_pose(delayed(s)), moving=True)
            for s in (0.1, 0.2, -0.2, 0.4)
        ),
        Damage("sign of odometry", "inverse", ODOMETRY, way, with_pose(mapped(np.linalg.inv)), moving=True),
        Damage("axis of odometry", "y ahead", ODOMETRY, way, with_pose(mapped(y_ahead)), moving=True),
        *(Damage("yaw", f"{d:g} deg", "camera", turn, with_first(left=turned(d, 2))) for d in (0.5, 1, -1, 3, -3, 6)),
        *(Damage("pitch", f"{d:g} deg", "camera", turn, with_first(left=turned(d, 1))) for d in (1, 3)),
        Damage("frozen", "", "camera", ("frozen",), frozen, moving=True),
        *(Damage("blurred", f"{s:g} px of 400", "camera", ("blurred",), with_images(blur(s))) for s in (1.0, 2.0)),
        *(Damage("darker", f"x {f:g}", "camera", ("brightness", "dark"), with_images(darken(f))) for f in (0.4, 0.05)),
        Damage("dirt", "three drops", "camera", ("dirt",), with_images(dirt), moving=True),
        *(Damage("rolling lines", f"{a} levels", "camera", ("rolling lines",), with_images(Bands(a))) for a in (6, 15)),
    ]  # fmt: skip
    return found


def open_recording(path: Path) -> Recording:
    source = BagSource(open_index(path))
    entries = source.entries()
    begin = time.perf_counter()
    return Recording(source, entries, sample(entries, source.cameras), time.perf_counter() - begin)


def judge_damage(recording: Recording, damage: Damage) -> dict[str, Any]:
    names = recording.sampled.cameras.names
    meant = {ODOMETRY} if damage.about == ODOMETRY else set(names) if damage.about == "all" else {names[0]}
    if damage.kind == "swapped neighbours":
        meant = set(names[:2])
    try:
        diagnosis = damage.apply(recording)
        findings, notes = diagnosis.findings, diagnosis.notes
        said = [f"{each.verdict}: {each.about}: {each.kind}" for each in findings]
        right = any(each.about in meant and each.kind in damage.expected for each in findings)
        others = sum(each.about not in meant and each.about in names for each in findings)
    except CalibrationError as error:
        said, right, findings, others = [f"refused: {error}"], True, (error,), 0
        notes = ()
    limit = max((_limit(note, damage) for note in notes), default=0.0)
    return {
        "undecidable_said": not right and limit > 0 and limit >= abs(float(damage.size.split()[0])),
        "kind": damage.kind,
        "size": damage.size,
        "detected": bool(findings),
        "told_right": right,
        "others_blamed": others,
        "said": said,
        "can_show": recording.moves or not damage.moving,
    }


def _limit(note: str, damage: Damage) -> float:
    """Below which size, in the damage's unit, a note says that it cannot be known; 0: it is about something else."""
    if damage.kind == "delay" and note.startswith("delay of odometry: cannot be known"):
        better = re.search(r"better than (\d+) ms", note)
        return float(better.group(1)) if better else np.inf
    below = re.match(r"turns of cameras towards .* less than ([\d.]+) degrees", note) if damage.kind == "yaw" else None
    return float(below.group(1)) if below else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KIND", help="kinds of damage, as the table names them"
    )
    parser.add_argument("--jobs", type=int, default=1, help="recordings at a time")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    parts = arguments.json.with_suffix(".parts")
    judge_one = partial(judge_recording, only=arguments.only, parts=parts)
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for rows in pool.map(judge_one, arguments.recordings):
            results += rows
    write_report(arguments.json, {"recordings": len(arguments.recordings)}, results)
    shutil.rmtree(parts)
    text = table(results)
    arguments.json.with_suffix(".md").write_text(text + "\n")
    print(text)


class Part:
    """Rows of one recording so far, of this commit, one a line."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            commit, *rows = self.path.read_text().splitlines()
            self.rows = [json.loads(row) for row in rows] if commit == COMMIT else []
        if not self.rows:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text(COMMIT + "\n")

    def has(self, kind: str, size: str) -> bool:
        return any((row["kind"], row.get("size", "")) == (kind, size) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def judge_recording(path: Path, only: list[str], parts: Path) -> list[dict[str, Any]]:
    """As it is, and with every damage; prints as it goes."""
    cv2.setNumThreads(1)
    recording = open_recording(path)
    name = recording.source.index.name
    part = Part(parts, name)
    if not part.has(AS_IT_IS, ""):
        begin = time.perf_counter()
        clean = look(recording)
        seconds = recording.seconds + time.perf_counter() - begin
        part.add({"recording": name, "kind": AS_IT_IS, **_undamaged(clean), "seconds": round(seconds, 1)})
        print(f"{name}: {part.rows[-1]}", flush=True)
    for damage in damages():
        if (only and damage.kind not in only) or part.has(damage.kind, damage.size):
            continue
        row = {"recording": name, **judge_damage(recording, damage)}
        part.add(row)
        word = "told right" if row["told_right"] else "undecidable, said" if row["undecidable_said"] else "detected"
        word = word if row["detected"] or row["undecidable_said"] else "missed"
        of = "" if row["can_show"] else " (it does not move)"
        print(f"{name}: {damage.kind} {damage.size}: {word}{of}; {'; '.join(row['said'])[:160]}", flush=True)
    return part.rows


def _undamaged(visit: Visit) -> dict[str, Any]:
    diagnosis, delay = visit.diagnosis, visit.delay
    evidence = {}
    if delay is not None:
        evidence["200_ms_turn_deg"] = round(float(np.degrees(delay.shown)), 4)
        evidence["turns_err_deg"] = round(float(np.degrees(delay.noise)), 4)
    return {
        "verdict": diagnosis.verdict,
        "false_alarms": [str(each) for each in diagnosis.findings],
        "notes": list(diagnosis.notes),
        "evidence_of_delay": evidence,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Per kind and size, over the recordings that can show it."""
    rows = [row for row in results if "detected" in row]
    lines = [
        "| damage | size | told right | detected | undecidable, said | missed | others blamed |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["kind"], row["size"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["size"]) == key and row["can_show"]]
        right, seen = sum(row["told_right"] for row in own), sum(row["detected"] for row in own)
        others = sum(row["others_blamed"] > 0 for row in own)
        open_ = sum(row["undecidable_said"] for row in own)
        missed = sum(not row["detected"] and not row["undecidable_said"] for row in own)
        lines.append(f"| {key[0]} | {key[1]} | {right} | {seen} | {open_} | {missed} | {others} |")
    clean = [row for row in results if row["kind"] == AS_IT_IS]
    lines += ["", "| as it is | false alarms | 200 ms change turns by | turns err by | s |", "|---|---|---|---|---|"]
    for row in clean:
        shown = [f"{value:.3f} deg" for value in row["evidence_of_delay"].values()] or ["not known", "not known"]
        lines.append(
            f"| {row['recording']} | {len(row['false_alarms'])} | {shown[0]} | {shown[1]} | {row['seconds']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
