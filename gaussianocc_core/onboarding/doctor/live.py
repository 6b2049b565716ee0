# SPDX-License-Identifier: Apache-2.0
"""The doctor's cheap checks of images while a robot drives: dark, burnt out, frozen, blurred, dirty, upside down.

Made for a look every few seconds, each at one set of images; what is said is the middle of the last ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.onboarding.doctor.features import Cylinder, plan_cylinder
from gaussianocc_core.onboarding.doctor.findings import Finding
from gaussianocc_core.onboarding.doctor.image_facts import (
    CHANGED_LEVELS,
    STILL_LEVELS,
    Halves,
    ImageFacts,
    find_dirt,
    find_halves,
    find_passing,
    sharpness,
    sky_is_below,
)
from gaussianocc_core.onboarding.doctor.image_opinions import from_images
from gaussianocc_core.types import Cameras

_LOOKS, _LEAST_LOOKS = 8, 4  # over which the middle is taken; fewer say nothing
_VIEWS, _LEAST_VIEWS = 24, 12  # that differ, for sharpness: a smooth facade fills an image for a while
_SLACK = 1.08  # of sharpness: views on the way differ more than moments chosen over a recording
_DIRT_LOOKS = 24  # apart enough that the world in the image is another one
_DIRT_EVERY = 6  # looks, as it takes the longest
_DIRT_APART, _DIRT_WAY = 0.5, 15.0  # m, from look to look, and of all
_SMALL = 320  # px, width at which dirt is looked for
_LEAST_SIDE = 100  # px; in smaller images drops and details of the world are alike
_MIDDLE = (280, 200)  # px, width and height of what is looked at for sharpness
_LEAST_EDGES = 4.0  # grey levels; smoother images, as of a wall, do not show whether they are sharp
_SAID = ("dark", "burnt", "frozen", "blurred", "dirt", "sky below")  # a brighter camera may have the sun in view


@dataclass(frozen=True)
class _OneImage:
    brightness: float
    burnt: float
    sharpness: float  # nan: no edges
    sky_below: bool
    still: bool | None  # as the look before; None: there was none, or nothing else changed


@dataclass
class _Memory:
    """Of one camera, while its calibration and the size of its images stay."""

    key: tuple
    cylinder: Cylinder
    halves: Halves | None
    small_inside: Bool[np.ndarray, "h w"]
    dirt: Bool[np.ndarray, "h w"]
    looks: deque[_OneImage] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    sharpness: deque[float] = field(default_factory=lambda: deque(maxlen=_VIEWS))  # of views that differ
    drives: int = 0  # small images so far
    last: UInt8[np.ndarray, "h w"] | None = None
    small: deque[UInt8[np.ndarray, "h w"]] = field(default_factory=lambda: deque(maxlen=_DIRT_LOOKS))


class LiveImages:
    """Remembers the last looks; for one thread."""

    def __init__(self, static_masks: Mapping[str, Bool[np.ndarray, "H W"]] | None = None) -> None:
        """static_masks: by camera, at the size of its calibration, false where it sees the robot itself."""
        self._masks = dict(static_masks or {})
        self._memories: dict[str, _Memory] = {}
        self._poses: deque[np.ndarray] = deque(maxlen=_DIRT_LOOKS)  # T_world_ego of the small images

    def look(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        cameras: Cameras,
        T_world_ego: Float[np.ndarray, "4 4"] | None,
    ) -> dict[str, tuple[Finding, ...]]:
        """What is wrong with each camera that was looked at often enough, () where nothing is.

        images: RGB, one per camera, at any size; cameras: at their native one; T_world_ego: of the robot in a fixed
        frame, None where it is not known.
        """
        memories = [self._memory(cameras, k, image) for k, image in enumerate(images)]
        greys = [
            memory.cylinder.unroll(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
            for memory, image in zip(memories, images, strict=True)
        ]
        changes = np.array([_change(memory, grey) for memory, grey in zip(memories, greys, strict=True)])
        drove = self._drive_to(T_world_ego)
        for k, (memory, grey) in enumerate(zip(memories, greys, strict=True)):
            others = np.delete(changes, k)
            moving = bool((others > CHANGED_LEVELS).any()) and not np.isnan(changes[k])
            memory.looks.append(_look_at(grey, memory, bool(changes[k] < STILL_LEVELS) if moving else None))
            if changes[k] > CHANGED_LEVELS and not np.isnan(memory.looks[-1].sharpness):
                memory.sharpness.append(memory.looks[-1].sharpness)
            memory.last = grey
            if drove:
                memory.small.append(_shrink(grey))
                memory.drives += 1
                if memory.drives % _DIRT_EVERY == k % _DIRT_EVERY:  # one camera after the other
                    memory.dirt = self._find_dirt(memory, cameras.T_ego_cam[k])
        return self._judge(cameras, memories)

    def _memory(self, cameras: Cameras, k: int, image: np.ndarray) -> _Memory:
        name, (height, width) = cameras.names[k], image.shape[:2]
        K = cameras.intrinsics[k].detach().cpu().double()
        key = (width, height, cameras.width[k], cameras.height[k], *K.flatten().tolist(), *cameras.distortion[k])
        if name not in self._memories or self._memories[name].key != key:
            scaled = K.clone()
            scaled[0] *= width / cameras.width[k]
            scaled[1] *= height / cameras.height[k]
            one = replace(
                cameras.select((name,)),
                intrinsics=scaled[None].to(cameras.intrinsics),
                width=(width,),
                height=(height,),
            )
            mask = self._masks.get(name)
            if mask is not None:
                mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
            cylinder = plan_cylinder(one, 0, mask)
            halves = find_halves(cylinder, cameras.T_ego_cam[k, :3, :3].detach().cpu().double().numpy())
            inside = _shrink(cylinder.seen.astype(np.uint8) * 255) == 255
            self._memories[name] = _Memory(key, cylinder, halves, inside, np.zeros_like(inside))
        return self._memories[name]

    def _drive_to(self, T_world_ego: np.ndarray | None) -> bool:
        """Whether the robot is far enough from the last small image for another one."""
        if T_world_ego is None:
            return False
        if self._poses and float(np.linalg.norm(T_world_ego[:3, 3] - self._poses[-1][:3, 3])) < _DIRT_APART:
            return False
        self._poses.append(np.array(T_world_ego))
        return True

    def _find_dirt(self, memory: _Memory, T_ego_cam: torch.Tensor) -> np.ndarray:
        inside = memory.small_inside
        poses = list(self._poses)[-len(memory.small) :]
        way = float(np.linalg.norm(np.diff([T[:3, 3] for T in poses], axis=0), axis=1).sum())
        if way < _DIRT_WAY or min(inside.shape) < _LEAST_SIDE:
            return np.zeros_like(inside)
        passing = find_passing(memory.cylinder, T_ego_cam.detach().cpu().double().numpy(), poses)
        return find_dirt(memory.small, inside, _shrink(passing.astype(np.uint8)) > 0)

    def _judge(self, cameras: Cameras, memories: Sequence[_Memory]) -> dict[str, tuple[Finding, ...]]:
        facts = tuple(_sum_up(memory) for memory in memories)
        found = from_images(cameras, facts)
        ready = {
            name for name, memory in zip(cameras.names, memories, strict=True) if len(memory.looks) >= _LEAST_LOOKS
        }
        return {
            name: tuple(each for each in found if each.about == name and each.kind in _SAID)
            for name in cameras.names
            if name in ready
        }


def _change(memory: _Memory, grey: np.ndarray) -> float:
    """Grey levels since the look before, mean; nan if there was none."""
    if memory.last is None:
        return float("nan")
    return float(cv2.absdiff(grey[::2, ::2], memory.last[::2, ::2])[memory.cylinder.seen[::2, ::2]].mean())


def _look_at(grey: np.ndarray, memory: _Memory, still: bool | None) -> _OneImage:
    inside = memory.cylinder.seen
    values = grey[::3, ::3][inside[::3, ::3]]
    middle, within = _middle(grey), _middle(inside)
    fine = sharpness(middle, within) if _edges(middle, within) > _LEAST_EDGES else float("nan")
    below = memory.halves is not None and sky_is_below(grey, memory.halves)
    return _OneImage(float(values.mean()), float((values >= 250).mean()), fine, below, still)


def _middle(image: np.ndarray) -> np.ndarray:
    """Of a part that is large enough to say whether it is sharp."""
    height, width = image.shape
    top, left = max(0, (height - _MIDDLE[1]) // 2), max(0, (width - _MIDDLE[0]) // 2)
    return np.ascontiguousarray(image[top : top + _MIDDLE[1], left : left + _MIDDLE[0]])


def _edges(grey: np.ndarray, inside: np.ndarray) -> float:
    """Grey levels across two pixels, of the steepest fifth."""
    across = cv2.absdiff(grey[:, 2:], grey[:, :-2])[inside[:, 1:-1]]
    return float(np.percentile(across, 90)) if across.size else 0.0


def _shrink(grey: np.ndarray) -> np.ndarray:
    height, width = grey.shape
    if width <= _SMALL:
        return grey
    return cv2.resize(grey, (_SMALL, max(1, round(height * _SMALL / width))), interpolation=cv2.INTER_AREA)


def _sum_up(memory: _Memory) -> ImageFacts:
    looks = memory.looks
    stills = [each.still for each in looks if each.still is not None]
    sharp = list(memory.sharpness)
    inside = memory.small_inside
    return ImageFacts(
        brightness=float(np.median([each.brightness for each in looks])),
        burnt=float(np.median([each.burnt for each in looks])),
        sharpness=_SLACK * float(np.median(sharp)) if len(sharp) >= _LEAST_VIEWS else float("nan"),
        features=float("nan"),
        frozen=float(np.mean(stills)) if len(stills) >= 3 else 0.0,
        dirty=float(memory.dirt[inside].mean()),
        dirt=memory.dirt,
        lines=0.0,
        sky_below=float("nan") if memory.halves is None else float(np.mean([each.sky_below for each in looks])),
    )
