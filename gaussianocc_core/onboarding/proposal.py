# SPDX-License-Identifier: Apache-2.0
"""Training configurations for a rig that nobody has seen before: grid, depth range, files for both stages."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gaussianocc_core.checkpoint import load_depth_net, load_model
from gaussianocc_core.config import from_dict
from gaussianocc_core.data.bag import BagEntry, BagSource
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.files import write_file
from gaussianocc_core.geometry.rig_file import save_rig
from gaussianocc_core.labels import ONE_CLASS
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.onboarding.doctor.ground import GroundOpinion
from gaussianocc_core.onboarding.inspection import Inspection
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.config import GspConfig, GsvConfig, TrainConfig
from gaussianocc_core.training.hints import HintSettings
from gaussianocc_core.training.loader import TrainingSet
from gaussianocc_core.training.stages import build_stage
from gaussianocc_core.types import Cameras

_VOXELS = 100  # from the middle of the grid to its side
_HEIGHTS = 16
# Horizontal extent of the cameras' places (m) from which on a robot gets voxels of this size (m).
_VOXEL_SIZES = ((1.5, 0.4), (0.8, 0.3), (0.4, 0.2), (0.0, 0.1))
_FAST = 3.0  # m/s; what drives so fast must see as far as a car
_START = "tiny_matching"  # of the shipped weights: what training on a robot goes on from
_OCCUPANCY = "tiny"  # of them: what stage 2 goes on from
_PIXELS = 96 * 176  # of a network's input, about
_LEAST_HEIGHT, _MOST_WIDTH, _STRIDE = 96, 384, 16
_RATE = 1.0e-3  # of stage 1; gentler ones adapt its expected errors too little (docs/history.md)
_LEFT_OUT = 0.1  # of each recording, to measure the end of a run on
_STILL_CHANGE = 0.3  # of the usual change from image to image: with less, the robot stands
_EPOCHS = 5.0
_REACH = 40.0  # m, of a car: farther away only the ground is claimed
# Free only where the model is so sure of it. Of a real drive's obstacles to 20 m 0.95 missed 10 % with 11 % ghosts,
# 0.45 missed 28 % with 6 % (2026-11-30, docs/your_robot.md).
_CAUTION = 0.95
_FAR_VIEWS = (1.2, 2.4)  # m, of a car: 0.15 and 0.3 of the median depth of a street
_LEAST_STEPS, _MOST_STEPS = 1400, 20_000


@dataclass(frozen=True)
class Proposal:
    """What to train a rig with, as it stands in the files."""

    stage1: dict[str, Any]
    stage2: dict[str, Any]
    voxel_size: float  # m
    steps: int  # of either stage
    labelled: bool  # whether stage 2 learns classes
    ground: str = ""  # what was decided of `metric_ground`, and by whom


def propose(
    source: BagSource,
    found: Inspection,
    samples: int,
    masks: str = "",
    voxel_size: float | None = None,
    ground: GroundOpinion | None = None,
) -> Proposal:
    """samples: of all bags; masks: folder of self-occlusion masks, or ""; voxel_size: in m, None: by size and speed.

    ground: what the images say of it, None where nothing is known of it.
    """
    places = source.cameras.T_ego_cam[:, :3, 3].double().numpy()
    extent = float(np.ptp(places[:, :2], axis=0).max())
    fast = found.motion is not None and found.motion.speed_m_s > _FAST
    voxel = voxel_size or (0.4 if fast else next(size for least, size in _VOXEL_SIZES if extent >= least))
    side, factor = _VOXELS * voxel, voxel / ModelConfig().grid.voxel_size
    low = -round(max(2.5, -min(0.0, float(places[:, 2].min())) / voxel) * voxel, 3)  # also below cameras on a mast
    high = round(low + _HEIGHTS * voxel, 3)
    defaults = ModelConfig()
    width_px, height_px = propose_size(source.cameras)
    start = load_depth_net(_START).config
    model = {
        "name": "tiny",
        "image_height": height_px,
        "image_width": width_px,
        "matching": {"enabled": True},
        "lattice": {"low": [-side, -side, low], "high": [side, side, high], "shape": list(defaults.lattice.shape)},
        "grid": {"origin": [-side, -side, low], "voxel_size": voxel, "shape": [2 * _VOXELS, 2 * _VOXELS, _HEIGHTS]},
        "gaussians": {"scale": [round(factor * value, 4) for value in defaults.gaussians.scale]},
        "depth": {
            # Of the weights that training goes on from: they learnt the scale of it.
            "near": start.depth.near,
            "far": start.depth.far,
            "first": start.depth.first,
            # A robot's base frame may lie at its axles: unless the images say that it is on the ground, cameras that
            # overlap know the scale better.
            "metric_ground": ground.agrees if ground is not None else not found.overlaps,
        },
    }
    occupied = {
        **model,
        "decoder": {"detail": True},
        "reach": round(factor * _REACH, 1),
        "caution": _CAUTION,
        **({} if found.labelled else {"class_names": list(ONE_CLASS)}),
    }
    overlap = {"near": max(0.3, round(factor, 2)), "far": round(factor * 80.0, 1)}
    config = source.config
    bag: dict[str, Any] = {"path": config.path, "cameras": list(source.cameras.names)}
    for name in ("image_topic", "camera_info_topic", "rig", "odometry_topic", "labels", "begin", "end"):
        if getattr(config, name):
            bag[name] = getattr(config, name)
    for name in ("ego_frame", "fixed_frame", "slop", "neighbour_time"):
        bag[name] = getattr(config, name)
    bag["least_motion"] = config.least_motion or (_useful_motion(found, voxel))
    if not bag["least_motion"]:
        bag["least_change"] = config.least_change or _useful_change(found)
    data: dict[str, Any] = {
        "left_out": _LEFT_OUT,
        "bag": bag,
        "masks": masks,
        "max_gap": round(max(0.7, 1.5 * config.neighbour_time), 2),
    }
    steps = int(np.clip(_EPOCHS * samples, _LEAST_STEPS, _MOST_STEPS))
    rates = {"learning_rate": _RATE, "encoder_learning_rate": _RATE}
    hints = {"nearest": round(factor * HintSettings().nearest, 2)}
    # Depth is known, the motion of this robot is not: where it is not recorded it is learnt first, and used at once.
    gsp: dict[str, Any] = {"ego_motion": "auto", "search_at": GspConfig().motion_share, "overlap": overlap}
    gsp["hints"] = hints
    gsv: dict[str, Any] = {
        "ego_motion": "auto",
        "background_depth": round(2.0 * side, 1),
        "hints": hints,
        "thickness": round(factor * GsvConfig().thickness, 2),
        "reach": round(factor * GsvConfig().reach, 1),
    }
    if not found.overlaps:  # then only odometry knows the scale
        if found.motion is None:
            raise ConfigError(
                "no two cameras see the same and the bag has no odometry: nothing says how far away anything is. "
                "Record odometry (/tf or nav_msgs/Odometry), or turn cameras so that neighbours share a part of a view"
            )
        gsp["cross_weight"] = 0.0
    stage1 = {
        "stage": "gsp",
        "first_stage": _START,
        "steps": steps,
        **rates,
        "model": model,
        "data": {**data, "semantics": False},
        "gsp": gsp,
    }
    # Where voxels are those of the shipped occupancy, stage 2 goes on from it (docs/your_robot.md#5-measure).
    shipped = load_model(_OCCUPANCY).config
    steps2 = steps // 2
    if (shipped.grid.voxel_size, shipped.lattice.shape) == (voxel, defaults.lattice.shape):
        gsv["decoder_from"], steps2 = _OCCUPANCY, steps // 4
    stage2 = {
        "stage": "gsv",
        "steps": steps2,
        "learning_rate": 2e-3,
        "encoder_learning_rate": 2e-4,
        "model": occupied,
        "data": {**data, "history": [round(factor * way, 2) for way in _FAR_VIEWS], "semantics": found.labelled > 0},
        "gsv": gsv,
    }
    return Proposal(stage1, stage2, voxel, steps, found.labelled > 0, _say_ground(ground, bool(found.overlaps)))


def _say_ground(ground: GroundOpinion | None, overlaps: bool) -> str:
    if ground is None:
        seen = "no camera saw enough of the ground while it moved"
        return f"metric_ground: {str(not overlaps).lower()}: {seen}, " + (
            "the cameras that overlap know the scale" if overlaps else "and odometry must know the scale"
        )
    if ground.agrees:
        return f"metric_ground: true: the ground in the images is where TF has it: {ground.text}"
    return (
        f"metric_ground: false: the ground in the images is not at z = 0 of the base frame: {ground.text}; mend TF, or "
        "set ego_frame to a frame on the ground (base_footprint), and it becomes true"
    )


def propose_size(cameras: Cameras) -> tuple[int, int]:
    """Width and height in pixels of a network's input: the shape of the images, and about as many pixels as `tiny`.

    Wide images get more of them, as none can be lower than the least height. Cameras of several shapes: the middle one.
    """
    shape = float(np.median([width / height for width, height in zip(cameras.width, cameras.height, strict=True)]))
    height = max(_LEAST_HEIGHT, _STRIDE * round((_PIXELS / shape) ** 0.5 / _STRIDE))
    width = min(_MOST_WIDTH, max(_STRIDE, _STRIDE * round(height * shape / _STRIDE)))
    return width, height


def _useful_motion(found: Inspection, voxel: float) -> float:
    """Least motion to a neighbour that is worth training on, in m; 0 where the bag has no odometry."""
    if found.motion is None or found.motion.still_share < 0.02:
        return 0.0
    return round(min(0.25 * voxel, 0.5 * found.motion.neighbour_m), 3)


def _useful_change(found: Inspection) -> float:
    """Least change of the images, in grey levels, of a bag without odometry that stands still at times; else 0."""
    low, usual = found.change
    still = found.motion is None and low < _STILL_CHANGE * usual
    return round(_STILL_CHANGE * usual, 1) if still else 0.0


def measure_step(proposal: Proposal, entry: BagEntry) -> float:
    """Seconds of one training step of stage 1 on this machine, on CPU or GPU; the second step is measured."""
    config = from_dict(TrainConfig, proposal.stage1, "proposal")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = TrainingSet([entry], replace(config.data, on_bad_sample="stop"), Preprocessor.of(config.model), 0)
    stage = build_stage(config).to(device).train()
    took = 0.0
    for _ in range(2):
        began = time.monotonic()
        stage(data[(0, 0)].to(device), 0.5)["total"].backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.monotonic() - began
    return took


@dataclass(frozen=True)
class Runs:
    """What the files of a proposal lead to, and the commands in their order."""

    config: Path  # of stage 1
    config_gsv: Path
    first: Path  # model files
    second: Path
    labels: Path  # folder of the carved labels

    @classmethod
    def of(cls, path: Path) -> Runs:
        """path: of stage 1's configuration."""
        gsv = path.with_name(f"{path.stem}_gsv.yaml")
        first, second = (Path("runs") / each.stem / "model.safetensors" for each in (path, gsv))
        return cls(path, gsv, first, second, Path("labels") / path.stem)

    @property
    def train_first(self) -> str:
        return f"python -m gaussianocc_core.train {self.config}"

    @property
    def carve(self) -> str:
        return (
            f"python tools/carve_labels.py --config {self.config_gsv} --checkpoint {self.first} "
            f"--output {self.labels} --pictures 10"
        )

    @property
    def train_second(self) -> str:
        return f"python -m gaussianocc_core.train {self.config_gsv} first_stage={self.first}"

    @property
    def remember(self) -> str:
        return (
            f"python tools/fit_memory.py --config {self.config_gsv} --labels {self.labels} --checkpoint {self.second}"
        )

    @property
    def evaluate(self) -> str:
        return f"python -m gaussianocc_core.evaluate {self.second} --config {self.config_gsv} --left-out"

    def report(self, recording: Path) -> str:
        """recording: the bag, or the folder of bags."""
        source = shlex.quote(str(recording))
        return f"python -m gaussianocc_core.report {source} {self.second} --output out/report_{self.config.stem}"

    def describe(self, recording: Path) -> str:
        """A command a line, with what it makes."""
        steps = (
            (self.train_first, "depth, motion, scale"),
            (self.carve, "labels in 3D from that depth, pictures and a video of them"),
            (self.train_second, "occupancy"),
            (self.remember, "memory, into the same file: uses the rays of the last 1.5 s"),
            (self.evaluate, "how good it is on what training left out; needs a lidar or labels in the bag"),
            (self.report(recording), "marks, pictures and a video; needs no lidar and no labels"),
        )
        return "next:\n" + "\n".join(f"  {command}  # {what}" for command, what in steps)


def check_free(path: Path) -> tuple[Path, Path, Path, Path]:
    """The files that `write_proposal` makes for a path: stage 1, stage 2, rig, node. ConfigError if one is there."""
    gsv, rig, node = (path.with_name(f"{path.stem}_{part}.yaml") for part in ("gsv", "rig", "node"))
    files = path, gsv, rig, node
    for each in files:
        if each.is_dir():
            raise ConfigError(f"{each} is a folder; give a file name, such as {each / 'my_robot.yaml'}")
        if each.exists():
            raise ConfigError(f"{each} exists already; choose another --write-config, or remove it")
    return files


def write_proposal(proposal: Proposal, source: BagSource, path: Path) -> tuple[Path, ...]:
    """Both stages' configurations, the rig and the node's parameters: PATH, and PATH with _gsv, _rig and _node.

    ConfigError if one exists.
    """
    path, second, rig, node = check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = Runs.of(path)
    second_run = runs.second
    stage2 = {**proposal.stage2, "data": {**proposal.stage2["data"], "occupancy": str(runs.labels)}}
    head = "# SPDX-License-Identifier: Apache-2.0\n# Proposed by tools/inspect_bag.py; change what you know better.\n"
    values = {**_node_parameters(source), "checkpoint": str(second_run.absolute())}
    if not proposal.labelled:  # then no class can be driven on, and what lies at the height of the ground is ground
        values["traversable_classes"] = [""]
    if masks := proposal.stage1["data"]["masks"]:
        values["mask_dir"] = str(Path(masks).absolute())
    parameters = {"/**": {"ros__parameters": values}}
    for target, content, command in (
        (path, proposal.stage1, runs.train_first),
        (second, stage2, f"{runs.carve}\n#   {runs.train_second}\n#   {runs.remember}\n#   {runs.evaluate}"),
        (node, parameters, f"ros2 launch gaussianocc_ros occ.launch.py params_file:={node}"),
    ):
        text = f"{head}#   {command}\n{yaml.safe_dump(content, sort_keys=False, default_flow_style=None)}"
        write_file(target, text.encode())
    save_rig(source.cameras, rig)
    return path, second, rig, node


def _node_parameters(source: BagSource) -> dict[str, Any]:
    """What the node needs to find the bag's cameras on the robot."""
    config = source.config
    values: dict[str, Any] = {
        "cameras": list(source.cameras.names),
        "ego_frame": config.ego_frame,
        "fixed_frame": config.fixed_frame,
        "slop": config.slop,
    }
    for name, topics in (
        ("image_topic", {each.name: each.images for each in source.topics}),
        ("camera_info_topic", {} if config.rig else {each.name: each.info for each in source.topics}),
    ):
        if not topics:
            continue
        # Relative, as the node's own: a namespace then moves the robot.
        topics = {camera: topic.lstrip("/") for camera, topic in topics.items()}
        patterns = {f"/{topic}".replace(f"/{camera}/", "/{camera}/")[1:] for camera, topic in topics.items()}
        if len(patterns) == 1 and all("{camera}" in pattern for pattern in patterns):
            values[name] = patterns.pop()
        else:
            values[f"{name}s"] = [topics[camera] for camera in source.cameras.names]
    if config.rig:
        values["rig_file"] = str(Path(config.rig).absolute())
    return values
