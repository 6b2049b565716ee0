# SPDX-License-Identifier: Apache-2.0
"""Self-occlusion masks from a drive: where a camera sees the robot itself, its image does not change while it moves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.data.entries import mask_path
from gaussianocc_core.errors import BagError, ConfigError, DatasetError
from gaussianocc_core.files import write_file
from gaussianocc_core.onboarding.moments import Moment

LEAST_IMAGES = 20  # fewer say little about what never changes
_METRES_PER_RADIAN = 1.0  # turning on the spot moves the world through the image too
_LOW, _HIGH = 10, 90  # percentiles: a passing shadow or glint of a tenth of the drive counts neither way
_SIGMAS = 2.563  # between these percentiles of a normal distribution
_MAST_SHARE = 0.12  # of the image's width; what is wider and hangs from the top border is sky
_EDGE_RATIO = 0.45  # of the variation inside to around; robots have up to 0.25, dull road 0.7 (synthetic streets)
_STEADY_GREY = 4.0  # grey levels; an image that typically varies less than this hardly moves at all

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskConfig:
    """How a mask is found. Lengths in px of the reduced image."""

    images: int = 200  # looked at, spread over the way that the robot goes
    width: int = 320  # of the reduced image
    threshold: float = 0.3  # share of the image's typical variation below which a pixel may be the robot
    least_share: float = 0.003  # of the image; smaller parts are left out
    close: int = 9  # gaps and holes up to this wide are closed
    grow: int = 2  # the mask's edge is blurred in the image; on the safe side of it
    least_travel: float = 5.0  # m (and radians) by odometry

    def __post_init__(self) -> None:
        for name, low, high in (
            ("images", LEAST_IMAGES, 10_000),
            ("width", 32, 4096),
            ("threshold", 0.0, 1.0),
            ("least_share", 0.0, 1.0),
            ("close", 0, 100),
            ("grow", 0, 100),
            ("least_travel", 0.0, float("inf")),
        ):
            if not low <= getattr(self, name) <= high:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option}: expected {low:g} to {high:g}, got {getattr(self, name):g}")


@dataclass(frozen=True)
class CameraMask:
    """What was found for one camera."""

    camera: str
    mask: UInt8[np.ndarray, "H W"]  # native size; 255: the camera sees the world, 0: the robot
    image: UInt8[np.ndarray, "H W 3"]  # one of the drive
    variation: Float[np.ndarray, "h w"]  # reduced size; 1 is typical of this image
    images: int  # looked at

    @property
    def robot_share(self) -> float:
        return float((self.mask == 0).mean())


# ---- which images --------------------------------------------------------------------------------------------------


def spread_moments(moments: Sequence[Moment], config: MaskConfig) -> list[Moment]:
    """Some moments of the drive at equal steps of the way, or of time where no odometry says how far that is."""
    travelled, total = [], 0.0
    posed = [moment for moment in moments if moment.frame.T_world_ego is not None]
    if len(posed) < LEAST_IMAGES <= len(moments):
        _log.warning("no odometry: images are spread over the time; those of a robot standing still tell nothing")
        chosen, posed = moments, []
    else:
        chosen = posed
    for i, moment in enumerate(posed):
        if i and moment.scene == posed[i - 1].scene:
            total += _motion(posed[i - 1], moment)
        travelled.append(total)
    if len(chosen) < LEAST_IMAGES:
        raise DatasetError(
            f"{len(chosen)} moments with images of all cameras, at least {LEAST_IMAGES} are needed: give a longer drive"
        )
    if posed and total < config.least_travel:
        raise DatasetError(
            f"the robot moves {total:.1f} m in all by its odometry, at least {config.least_travel:g} are needed: what "
            "never changes can only be told from the robot while it drives (--least-travel)"
        )
    if not posed:
        return [chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, config.images).round().astype(int))]
    wanted = np.linspace(0, total, config.images)
    places = np.unique(np.searchsorted(travelled, wanted).clip(max=len(chosen) - 1))
    if len(places) < LEAST_IMAGES:
        raise DatasetError(
            f"only {len(places)} images of the drive were taken while the robot moved, at least {LEAST_IMAGES} are "
            "needed: give a longer drive"
        )
    return [chosen[i] for i in places]


def _motion(a: Moment, b: Moment) -> float:
    """From one moment to the next: metres, and radians turned at a metre each."""
    assert a.frame.T_world_ego is not None and b.frame.T_world_ego is not None
    T_a_b = np.linalg.inv(a.frame.T_world_ego[0]) @ b.frame.T_world_ego[0]
    turned = float(np.arccos(np.clip((np.trace(T_a_b[:3, :3]) - 1) / 2, -1, 1)))
    moved = float(np.linalg.norm(T_a_b[:3, 3]))
    return (moved if moved > 1e-3 else 0.0) + _METRES_PER_RADIAN * (turned if turned > 1e-3 else 0.0)  # noise adds up


# ---- what does not change ------------------------------------------------------------------------------------------


def find_masks(
    moments: Sequence[Moment], config: MaskConfig = MaskConfig(), on_moment: Callable[[], object] = lambda: None
) -> list[CameraMask]:
    """The mask of every camera. A moment that cannot be read is left out with a warning."""
    stacks: dict[str, list[UInt8[np.ndarray, "h w"]]] = {}
    shown: dict[str, np.ndarray] = {}
    for number, moment in enumerate(moments):
        on_moment()
        try:
            images = moment.load().images
        except (BagError, DatasetError) as error:
            _log.warning("left out: %s", error)
            continue
        for name, image in zip(moment.cameras.names, images, strict=True):
            if name in shown and shown[name].shape != image.shape:
                raise DatasetError(
                    f"camera {name}: images of {shown[name].shape[1]}x{shown[name].shape[0]} and of "
                    f"{image.shape[1]}x{image.shape[0]} pixels ({moment.scene}); give drives of one size at a time"
                )
            if name not in shown or number <= len(moments) // 2:
                shown[name] = image
            stacks.setdefault(name, []).append(_reduce(image, config.width))
    masks = []
    for name, stack in stacks.items():
        if len(stack) < LEAST_IMAGES:
            raise DatasetError(f"camera {name}: {len(stack)} images that can be read, {LEAST_IMAGES} are needed")
        height, width = shown[name].shape[:2]
        variation = measure_variation(np.stack(stack), name)
        robot = find_robot(variation, config)
        # Linear, then cut: a smooth edge at native size in place of steps.
        large = cv2.resize(robot.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
        masks.append(CameraMask(name, np.where(large, 0, 255).astype(np.uint8), shown[name], variation, len(stack)))
    return masks


def measure_variation(images: UInt8[np.ndarray, "N h w"], camera: str = "") -> Float[np.ndarray, "h w"]:
    """How much each pixel changes, 1 where that is typical of the image: the larger of its intensity's and its
    gradient's robust standard deviation. Road varies little in the one, sky in the other, the robot in neither."""
    grey = images.astype(np.float32)
    across, down = (
        np.stack([cv2.Sobel(image, cv2.CV_32F, *axis, scale=0.125) for image in grey]) for axis in ((1, 0), (0, 1))
    )
    planes = []
    for spread in (_spread(grey), np.hypot(_spread(across), _spread(down))):
        smooth = cv2.medianBlur(spread.astype(np.float32), 5)  # keeps the robot's edge where it is
        planes.append((smooth, float(np.percentile(smooth, 70))))  # a robot may fill half the image
    if planes[0][1] < _STEADY_GREY:
        raise DatasetError(
            f"camera {camera}: its images hardly change ({planes[0][1]:.1f} grey levels): does the robot move, is the "
            "lens free, is there light?"
        )
    return np.maximum(*(smooth / max(typical, 1e-3) for smooth, typical in planes))


def find_robot(variation: Float[np.ndarray, "h w"], config: MaskConfig = MaskConfig()) -> Bool[np.ndarray, "h w"]:
    """Steady parts that reach the image's border, not only at the top: there it is sky that does not change."""
    height, width = variation.shape
    steady = (variation < config.threshold).astype(np.uint8)
    steady = _morph(steady, cv2.MORPH_CLOSE, config.close)
    count, labels = cv2.connectedComponents(steady, connectivity=4)
    robot = np.zeros((height, width), dtype=bool)
    for label in range(1, count):
        part = labels == label
        at_top, at_bottom, at_side = part[0].any(), part[-1].any(), part[:, 0].any() or part[:, -1].any()
        if at_top and at_bottom:
            part = _without_sky(part)
        elif not at_bottom and (at_top or not at_side):
            continue
        if part.sum() >= config.least_share * part.size and _ends_sharply(part, steady > 0, variation):
            robot |= part
    if not robot.any():
        return robot
    _, holes, facts, _ = cv2.connectedComponentsWithStats((~robot).astype(np.uint8), connectivity=4)
    small = facts[:, cv2.CC_STAT_AREA] < config.least_share * robot.size  # glints; a window to the world is larger
    robot |= small[holes] & ~robot
    return _morph(robot.astype(np.uint8), cv2.MORPH_DILATE, 2 * config.grow + 1).astype(bool)


def _ends_sharply(
    part: Bool[np.ndarray, "h w"], steady: Bool[np.ndarray, "h w"], variation: Float[np.ndarray, "h w"]
) -> bool:
    """Whether the variation jumps at the part's edge, as at a robot's; that of a dull stretch of road rises slowly."""
    inner, outer = (_morph(part.astype(np.uint8), cv2.MORPH_DILATE, size) > 0 for size in (5, 15))
    around = variation[outer & ~inner & ~steady]
    return around.size > 0 and float(np.median(variation[part])) < _EDGE_RATIO * float(np.percentile(around, 25))


def _without_sky(part: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Of a part from the bottom border to the top, such as a mast: without the steady sky that it stands against."""
    size = max(3, round(_MAST_SHARE * part.shape[1]))
    _, blobs = cv2.connectedComponents(_morph(part.astype(np.uint8), cv2.MORPH_OPEN, size), connectivity=4)
    sky = np.isin(blobs, np.setdiff1d(blobs[0], [0, *blobs[-1]]))  # wide, at the top and not down to the bottom
    # The opened blob lacks its corners: a ragged edge of sky would stay.
    rest = part & (_morph(sky.astype(np.uint8), cv2.MORPH_DILATE, size) == 0)
    _, pieces = cv2.connectedComponents(rest.astype(np.uint8), connectivity=4)
    robot = np.isin(pieces, np.setdiff1d(pieces[-1], [0]))
    for row in range(len(part) - 2, -1, -1):  # where a mast ends in the sky is not to be seen: it goes straight up
        robot[row] |= robot[row + 1] & part[row]
    return robot


def _reduce(image: UInt8[np.ndarray, "H W 3"], width: int) -> UInt8[np.ndarray, "h w"]:
    scale = min(1.0, width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


def _spread(values: Float[np.ndarray, "N h w"]) -> Float[np.ndarray, "h w"]:
    low, high = np.percentile(values, (_LOW, _HIGH), axis=0)
    return (high - low) / _SIGMAS


def _morph(plane: UInt8[np.ndarray, "h w"], operation: int, size: int) -> UInt8[np.ndarray, "h w"]:
    if size < 2:
        return plane
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    # Closing must not end at the border, where the robot goes on: repeat what is there.
    wide = cv2.copyMakeBorder(plane, size, size, size, size, cv2.BORDER_REPLICATE)
    return cv2.morphologyEx(wide, operation, disc)[size:-size, size:-size]


# ---- files ---------------------------------------------------------------------------------------------------------


def refuse_existing(folder: Path, cameras: Sequence[str]) -> None:
    there = [str(path) for path in (mask_path(folder, name) for name in cameras) if path.exists()]
    if there:
        raise DatasetError(f"{', '.join(there)}: there already; choose another --output, or replace with --overwrite")


def write_masks(folder: Path, masks: Sequence[CameraMask]) -> None:
    """One grey PNG per camera, also of those that do not see the robot: training asks for all of them."""
    for each in masks:
        write_file(mask_path(folder, each.camera), cv2.imencode(".png", each.mask)[1].tobytes())
