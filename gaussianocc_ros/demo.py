# SPDX-License-Identifier: Apache-2.0
"""The main job on an embedded default: a street world -> nuScenes files -> rosbag2 -> node over DDS -> pictures.

Nothing here is a shortcut: the node and the player are the processes that `ros2 launch` starts, with the same parameter
file, and the pictures show the messages that arrived.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gaussianocc_core.checkpoint import load_model
from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.mistakes import one_line
from gaussianocc_ros.demo_pictures import draw
from gaussianocc_ros.demo_replay import replay, started_node
from gaussianocc_ros.startup import INTERRUPTED, USER_MISTAKE, raise_on_interrupt

# Name -> what it does, and why it takes long.
STAGES = {
    "street world": "renders a drive past houses, cars and people, with six cameras at 12 Hz. Later runs use it again. "
    "The first run compiles the renderer and, in another process, the node's kernels: about a minute, once",
    "rosbag2": "images, calibration, TF and truth as a rosbag, as a robot would have recorded them",
    "node and replay over DDS": "the player sends one set of images after the other, and the node answers each",
    "pictures": "draws the answers beside images and truth, and makes the video of them",
}
SCORES = {"iou": "IoU", "non_ground_iou": "IoU without the ground", "miou": "mIoU, mean over the classes"}


def run(output: Path, keyframes: int, seed: int, checkpoint: str, every: int) -> dict[str, Any]:
    """Everything; returns what is also written to report.json."""
    output.mkdir(parents=True, exist_ok=True)
    stages: dict[str, float] = {}
    with started_node(output / "node.log", checkpoint) as node:
        with _stage("street world", stages):
            data = _street_world(output / "data", keyframes, seed)
        with _stage("rosbag2", stages):
            source = NuScenesSource(data)
            scene = source.scene_names()[0]
            report = write_scene_bag(source, scene, output / "bag" / scene, overwrite=True)
            print(f"      {report.messages} messages in {output / 'bag' / scene}")
        with _stage("node and replay over DDS", stages):
            recording = replay(output / "bag" / scene, node)
    with _stage("pictures", stages):
        scores = draw(output, source, scene, recording, seed, every)

    stamps = [message.header.stamp.sec + message.header.stamp.nanosec * 1e-9 for message in recording.occupancy]
    period = (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1)
    duration = max(stamps[-1] - stamps[0] + period, 1e-9)
    result = {
        "model": recording.occupancy[-1].model,
        "sets": len(recording.occupancy),
        "topics": {
            topic: {"messages": count, "hz_in_bag_time": round(count / duration, 2)}
            for topic, count in sorted(recording.topics.items())
        },
        "node_stage_ms": recording.stage_ms,
        "sets_per_second": round((len(recording.occupancy) - 1) / max(recording.seconds, 1e-9), 2),
        "scores": scores,
        "demo_stage_s": stages,
    }
    (output / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    number = len(seconds) + 1
    print(f"[{number}/{len(STAGES)}] {name}: {STAGES[name]} ...", flush=True)
    begin = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - begin, 1)
    print(f"[{number}/{len(STAGES)}] {name}: {seconds[name]:.1f} s", flush=True)


def _street_world(folder: Path, keyframes: int, seed: int) -> Path:
    """The data set of one scene; an earlier run's is used again if the same code made it with the same settings."""
    from gaussianocc_core.synthetic import writer

    generator = _source_hash(Path(writer.__file__).parent)
    made_by = json.dumps({"seed": seed, "keyframes": keyframes, "generator": generator})
    note = folder / "made_by.json"
    if note.is_file() and note.read_text(encoding="utf-8") == made_by:
        print(f"      {folder} is there already")
        return folder
    writer.write_dataset(folder, scenes=1, frames=keyframes, seed=seed, overwrite=folder.exists())
    note.write_text(made_by, encoding="utf-8")
    return folder


def _source_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _check(options: argparse.Namespace) -> None:
    """What would else be found out after minutes of rendering, or never."""
    for name, low in {"keyframes": 1, "seed": 0, "every": 1}.items():
        if (value := getattr(options, name)) < low:
            raise ConfigError(f"--{name}: expected {low} or more, got {value}")
    if options.checkpoint:
        load_model(options.checkpoint)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gaussianocc_ros.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--keyframes", type=int, default=21, help="length of the drive, 2 a second (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7, help="which street (default: %(default)s)")
    parser.add_argument("--checkpoint", default="", help="model file (default: the shipped one)")
    parser.add_argument("--every", type=int, default=2, help="draw every n-th set (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="make the street anew even if it is there")
    options = parser.parse_args(arguments)
    try:
        raise_on_interrupt()
        _check(options)
        if options.fresh:
            shutil.rmtree(options.output / "data", ignore_errors=True)
        result = run(options.output, options.keyframes, options.seed, options.checkpoint, options.every)
    except (GaussianOccError, OSError) as error:  # OSError: a folder that cannot be written, a full disk
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    print("\ntopic                            messages   Hz (in the bag's time)")
    for topic, seen in result["topics"].items():
        print(f"{topic:32} {seen['messages']:8} {seen['hz_in_bag_time']:8.2f}")
    print("\nnode, median ms: " + ", ".join(f"{name} {value:g}" for name, value in result["node_stage_ms"].items()))
    print(f"{result['sets']} sets at {result['sets_per_second']:g} a second; model {result['model']}")
    model, flat = result["scores"]["mask_camera"], result["scores"]["flat_ground"]
    print("\nover the voxels that cameras see         model   a flat road and nothing else")
    for key, name in SCORES.items():
        print(f"  {name:36} {model[key]:8.2f}   {flat[key]:.2f}")
    found, missed, unknown, right = (round(100 * share) for share in result["scores"]["standing"].values())
    print(f"Of the voxels in which something stands, the model finds {found} %, leaves {unknown} % unknown and calls")
    print(f"{missed} % free. Of those in which it says that something stands, {right} % hold something.")
    print("The dark hole around the car in the picture is real: no camera sees the ground there.\n")
    for name in ("demo.mp4", "demo.png", "report.json"):
        print(options.output / name)
    bag = options.output / "bag"
    print("look at it: make view" + ("" if bag == Path("out/demo/bag") else f" SOURCE={bag}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
