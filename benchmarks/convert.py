# SPDX-License-Identifier: Apache-2.0
"""Time nuScenes -> rosbag2 against plain copying of the same image files, and what chunk compression costs.

python benchmarks/convert.py [--keyframes 40] [--repeats 5] [--folder DIR] [--json FILE]

A made-up scene as large as a real one: six cameras of 1600x900 at 12 Hz with JPEG files of 150-200 kB, lidar at 20 Hz,
2D labels and occupancy at keyframes. Loading the tables is not timed. Everything is read once before it is timed, so
files come from memory; what is written is not flushed to the disk. The ways take turns.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from report import write_report

from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.synthetic.rig import Lidar, default_rig
from gaussianocc_core.synthetic.tables import Tables, token

SCENE, SIZE, LIDAR_POINTS = "scene-0001", (1600, 900), 34_700
CAMERA_HZ, LIDAR_HZ, KEYFRAME_HZ = 12, 20, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keyframes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work (default: the folder for temporary files)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = make_scene(Path(folder) / "db", options.keyframes)
        source = NuScenesSource(root)
        results = measure(source, root, Path(folder), options.repeats)
    if options.json:
        shapes = {"cameras": 6, "size": SIZE, "keyframes": options.keyframes, "lidar_points": LIDAR_POINTS}
        write_report(options.json, shapes, results, dtype="uint8", repeats=options.repeats)


def measure(source: NuScenesSource, root: Path, folder: Path, repeats: int) -> list[dict[str, Any]]:
    images = sorted(root.glob("s*/CAM*/*.jpg"))
    everything = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "v1.0-mini"]
    image_bytes = sum(path.stat().st_size for path in images)
    source.rig(SCENE)  # sorts the tables' rows by scene

    def convert(**options: Any) -> Callable[[Path], None]:
        return lambda target: write_scene_bag(source, SCENE, target, **options) and None

    ways = {
        "copy images": lambda target: copy_files(images, target),
        "copy all files": lambda target: copy_files(everything, target),
        "images, mcap": convert(lidar=False, labels=False),
        "images, sqlite3": convert(lidar=False, labels=False, storage="sqlite3"),
        "all, mcap": convert(),
        "all, sqlite3": convert(storage="sqlite3"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for repeat in range(repeats + 1):  # the first warms up
        for name, run in ways.items():
            target = folder / "out"
            wall = time.perf_counter()
            run(target)
            wall = time.perf_counter() - wall
            sizes[name] = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
            shutil.rmtree(target)
            if repeat:
                seconds[name].append(wall)
    results = []
    for name, walls in seconds.items():
        # Each repeat against the copy beside it: the machine is shared, and its load moves.
        ratios = [copy / wall for copy, wall in zip(seconds["copy images"], walls, strict=True)]
        row = {
            "what": name,
            "s": statistics.median(walls),
            "iqr_s": float(np.subtract(*np.percentile(walls, [75, 25]))),
            "image_mb_per_s": image_bytes / 1e6 / statistics.median(walls),
            "speed_over_copying_images": statistics.median(ratios),
            "written_mb": sizes[name] / 1e6,
        }
        results.append(row)
        print(
            f"{name:16s} {row['s']:.3f} s  {row['image_mb_per_s']:.0f} MB/s of images  "
            f"{row['speed_over_copying_images']:.2f}x copying  {row['written_mb']:.0f} MB written",
            flush=True,
        )
    return results


def copy_files(paths: list[Path], target: Path) -> None:
    target.mkdir()
    for index, path in enumerate(paths):
        shutil.copyfile(path, target / str(index))


# ---- a scene to convert --------------------------------------------------------------------------------------------


def make_scene(root: Path, keyframes: int) -> Path:
    rng = np.random.default_rng(0)
    cameras = replace(default_rig(), width=(SIZE[0],) * 6, height=(SIZE[1],) * 6)
    tables, lidar = Tables(0), Lidar()
    tables.add_fixed(cameras, lidar)
    tables.open_scene()
    samples = [(token("sample", k), k * 1_000_000 // KEYFRAME_HZ) for k in range(keyframes)]
    pictures = [encode_picture(rng) for _ in range(24)]  # no two alike within a chunk
    labels = np.kron(rng.integers(-1, 17, (45, 80)), np.ones((20, 20))).astype(np.int8).tobytes()
    points = rng.uniform(0, 31, (LIDAR_POINTS, 5)).astype("<f4").tobytes()

    def add(sample: str, channel: str, stamp: int, data: bytes, extension: str, key_frame: bool) -> str:
        stem = f"{'samples' if key_frame else 'sweeps'}/{channel}/{stamp:010d}"
        write(root / f"{stem}{extension}", data)
        pose = make_transform(np.eye(3), np.array([8e-6 * stamp, 0.0, 0.0]))
        size = SIZE if extension == ".jpg" else (0, 0)
        tables.add_sensor_data(SCENE, sample, channel, stamp, f"{stem}{extension}", key_frame, pose, *size)
        return stem

    for sample, start in samples:
        for frame in range(CAMERA_HZ // KEYFRAME_HZ):
            for index, camera in enumerate(cameras.names):
                stamp = start + frame * 1_000_000 // CAMERA_HZ + index * 7000
                # A comment of its own makes each file another one, without encoding thousands.
                picture = pictures[(6 * frame + index) % len(pictures)]
                picture = picture[:2] + b"\xff\xfe\x00\x0a%08x" % stamp + picture[2:]
                stem = add(sample, camera, stamp, picture, ".jpg", frame == 0)
                if frame == 0:
                    write(root / "nuscenes_semantic" / f"{stem}_mask.bin", labels)
        for frame in range(LIDAR_HZ // KEYFRAME_HZ):
            add(sample, lidar.name, start + frame * 1_000_000 // LIDAR_HZ + 43_000, points, ".pcd.bin", frame == 0)
        path = root / "gts" / SCENE / sample / "labels.npz"
        path.parent.mkdir(parents=True)
        blocks = np.kron(rng.integers(0, 18, (20, 20, 4)), np.ones((10, 10, 4))).astype(np.uint8)
        seen = (blocks > 3).astype(np.uint8)
        np.savez_compressed(path, semantics=blocks, mask_camera=seen, mask_lidar=seen)
    tables.close_scene(SCENE, "", samples, "", "")
    write(root / "maps" / "blank.png", b"")
    tables.write(root / "v1.0-mini", "maps/blank.png")
    return root


def encode_picture(rng: np.random.Generator) -> bytes:
    """A JPEG of 1600x900 whose size is that of a nuScenes image: blurred noise, as busy as a street."""
    noise = cv2.resize(rng.integers(0, 256, (112, 200, 3), dtype=np.uint8), SIZE, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 30])[1].tobytes()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
