# SPDX-License-Identifier: Apache-2.0
"""CameraInfo and TF, or a rig file, -> Cameras at the time of a set of images."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gaussianocc_core.bags.messages import Intrinsics, T_camera_rectified, decode_camera_info, rectified
from gaussianocc_core.errors import CalibrationError, GaussianOccError
from gaussianocc_core.geometry.plausibility import SAME_PLACE, find_doubts
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.types import Cameras
from gaussianocc_ros.ros_compat import TransformSource, TransformUnavailable, wait_for_transform


class CameraUnusable(GaussianOccError):
    """A camera cannot take part in a set; `reason` is what that is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Placed:
    """The cameras of a set at the times of their images."""

    cameras: Cameras  # float64; T_ego_cam maps from each at its own image time to ego at the anchor's, m
    frames: Mapping[str, str]  # camera -> its optical frame; with a rig file, which names none, the camera's own name
    left_out: Mapping[str, CameraUnusable]  # cameras without calibration or place
    T_fixed_ego: np.ndarray | None  # (4, 4) at the anchor's time; None without a fixed frame, or where TF lacks it
    motion_problem: str  # why motion was not compensated; "" if it was, or TF knows no fixed frame


class CameraRig:
    """Fed with CameraInfo by the executor, asked for Cameras by the inference thread."""

    def __init__(
        self,
        names: tuple[str, ...],
        transforms: TransformSource,
        ego_frame: str = "base_link",
        fixed_frame: str = "odom",
        rig: Cameras | None = None,
        calibration_timeout: float = 1.0,
        odometry_timeout: float = 0.1,
        rectified: frozenset[str] = frozenset(),
        compensates: bool = True,
    ) -> None:
        """rectified: cameras whose images image_proc has rectified, so that P and R of their CameraInfo hold.
        compensates: motion between a set's images is taken from TF; not where TF has it from this node's sets."""
        self.names = names
        self._rectified = rectified
        self._given_up: frozenset[str] = frozenset()  # cameras that a lenient lookup has waited for in vain
        self._transforms = transforms
        self._ego_frame, self._fixed_frame = ego_frame, fixed_frame
        self._rig = rig.select(names) if rig is not None else None
        self._compensates = compensates
        self._calibration_timeout, self._odometry_timeout = calibration_timeout, odometry_timeout
        self._changed = threading.Condition()
        self._intrinsics: dict[str, Intrinsics] = {}
        self._said: dict[str, tuple[Any, ...]] = {}  # camera -> all that its last CameraInfo said but for the stamp
        self._problems: dict[str, str] = {}  # camera -> why its last CameraInfo was refused
        self._judged: tuple[Any, ...] = ()  # the calibrations that `doubts` are of
        self.doubts: dict[str, str] = {}  # camera -> what is hard to believe of the calibration in use
        self.mounted: Cameras | None = None  # in the ego frame without motion; another object for another calibration

    @property
    def needs_camera_info(self) -> bool:
        return self._rig is None

    @property
    def uncalibrated(self) -> set[str]:
        """Cameras of which no usable CameraInfo has come."""
        with self._changed:
            return set(self.names) - set(self._intrinsics) if self._rig is None else set()

    def add_camera_info(self, camera: str, message: Any) -> bool:
        """True if this changes a calibration that was in use. An unusable one is refused and remembered."""
        said = _said(message)
        if self._said.get(camera) == said:  # one comes with every image, and latched ones come twice
            return False
        self._said[camera] = said
        try:
            intrinsics = decode_camera_info(message, camera)
            if camera in self._rectified:
                intrinsics = rectified(intrinsics, camera)
            if not intrinsics.frame_id:
                raise CalibrationError(f"camera {camera}: CameraInfo has an empty frame_id; TF cannot place the camera")
        except CalibrationError as error:
            with self._changed:
                self._problems[camera] = str(error)
                self._intrinsics.pop(camera, None)
            return False
        with self._changed:
            before = self._intrinsics.get(camera)
            if before == intrinsics:
                return False
            self._intrinsics[camera] = intrinsics
            self._problems.pop(camera, None)
            self._changed.notify_all()
            return before is not None

    def missing(self) -> dict[str, str]:
        """Camera -> what its calibration lacks right now, with what to do about it."""
        found = {}
        for camera in self.names:
            try:
                self._calibration(camera, None, 0.0)
            except CameraUnusable as error:
                found[camera] = str(error)
        return found

    def lookup(self, anchor_ns: int, stamps_ns: Mapping[str, int], lenient: bool = False) -> Placed:
        """Those cameras of a set that have a stamp.

        Waits for CameraInfo and TF up to the timeouts; CameraUnusable names the camera, unless `lenient` leaves it out
        while there are others. Odometry that does not reach the image times is no reason to go blind: the set is then
        taken as simultaneous and `motion_problem` says so.
        """
        found: dict[str, tuple[Intrinsics | None, np.ndarray]] = {}
        left_out: dict[str, CameraUnusable] = {}
        for name in (name for name in self.names if name in stamps_ns):
            patience = 0.0 if lenient and name in self._given_up else self._calibration_timeout  # waited for it once
            try:
                found[name] = self._calibration(name, stamps_ns[name], patience)
            except CameraUnusable as error:
                if not lenient:
                    raise  # the set is lost; the others need not be waited for
                left_out[name] = error
        self._given_up = frozenset(left_out)
        if left_out and not found:
            raise next(iter(left_out.values()))
        self._judge(found)
        motions, T_fixed_ego, problem = self._motions(anchor_ns, [stamps_ns[name] for name in found])
        frames = {name: name if known is None else known.frame_id for name, (known, _) in found.items()}
        return Placed(self._cameras(found, motions), frames, left_out, T_fixed_ego, problem)

    def _judge(self, found: Mapping[str, tuple[Intrinsics | None, np.ndarray]]) -> None:
        """Find the doubts of these calibrations, if they are not those of the set before."""
        key = tuple((name, known, np.round(pose, 3).tobytes()) for name, (known, pose) in found.items())
        if key == self._judged or not found:
            return
        self._judged = key
        cameras = self.mounted = self._cameras(found, [np.eye(4) for _ in found])
        frames = {name: known.frame_id for name, (known, _) in found.items() if known is not None}
        doubts: dict[str, str] = {}
        for doubt in find_doubts(cameras, frames):
            if doubt.kind != SAME_PLACE:  # no scale can be learnt from such two, but they can be used
                doubts.setdefault(doubt.camera, str(doubt))  # the first says enough in a status line
        self.doubts = doubts

    def _cameras(self, found: Mapping[str, tuple[Intrinsics | None, np.ndarray]], motions: list[np.ndarray]) -> Cameras:
        names, calibrations = tuple(found), list(found.values())
        poses = np.stack([motion @ pose for motion, (_, pose) in zip(motions, calibrations, strict=True)])
        if self._rig is not None:
            cameras = self._rig.select(names).to(dtype=torch.float64)
            return Cameras(
                names,
                cameras.intrinsics,
                torch.from_numpy(poses),
                cameras.width,
                cameras.height,
                cameras.model,
                cameras.distortion,
            )
        known = [intrinsics for intrinsics, _ in calibrations if intrinsics is not None]
        return Cameras(
            names=names,
            intrinsics=torch.tensor([item.matrix for item in known], dtype=torch.float64).reshape(-1, 3, 3),
            T_ego_cam=torch.from_numpy(poses),
            width=tuple(item.width for item in known),
            height=tuple(item.height for item in known),
            model=tuple(item.model for item in known),
            distortion=tuple(item.distortion for item in known),
        )

    def _calibration(self, camera: str, stamp_ns: int | None, timeout: float) -> tuple[Intrinsics | None, np.ndarray]:
        """Intrinsics (None with a rig file) and T_ego_cam at the image's own time, without the ego's motion."""
        if self._rig is not None:
            return None, self._rig.T_ego_cam[self.names.index(camera)].double().cpu().numpy()
        with self._changed:
            self._changed.wait_for(lambda: camera in self._intrinsics, timeout)
            intrinsics, problem = self._intrinsics.get(camera), self._problems.get(camera)
        if intrinsics is None:
            raise CameraUnusable("no CameraInfo", problem or f"camera {camera}: no CameraInfo yet; is it published?")
        try:
            pose = wait_for_transform(self._transforms, self._ego_frame, intrinsics.frame_id, stamp_ns, timeout)
        except TransformUnavailable as error:
            raise CameraUnusable("no TF", f"camera {camera}: {error}; publish its place in /tf_static") from None
        return intrinsics, pose @ T_camera_rectified(intrinsics) if camera in self._rectified else pose

    def _motions(self, anchor_ns: int, stamps_ns: list[int]) -> tuple[list[np.ndarray], np.ndarray | None, str]:
        """T_ego(anchor)_ego(stamp) of each image, T_fixed_ego at the anchor's time, and what is wrong with them;
        identities and None while TF knows no fixed frame."""
        still, T_fixed_ego = [np.eye(4) for _ in stamps_ns], None
        if not self._compensates or not self._fixed_frame or not self._transforms.knows(self._fixed_frame):
            return still, None, ""
        try:
            T_fixed_ego = self._ego_at(anchor_ns)
            T_ego_fixed = invert_matrix(T_fixed_ego)
            return [T_ego_fixed @ self._ego_at(stamp) for stamp in stamps_ns], T_fixed_ego, ""
        except TransformUnavailable as error:
            return still, T_fixed_ego, str(error)

    def ego_at(self, stamp_ns: int) -> np.ndarray | None:
        """T_fixed_ego, or None while TF does not say within the timeout."""
        try:
            return self._ego_at(stamp_ns)
        except TransformUnavailable:
            return None

    def _ego_at(self, stamp_ns: int) -> np.ndarray:
        return wait_for_transform(
            self._transforms, self._fixed_frame, self._ego_frame, stamp_ns, self._odometry_timeout
        )


def _said(message: Any) -> tuple[Any, ...]:
    roi = message.roi
    return (
        message.header.frame_id,
        message.width,
        message.height,
        message.distortion_model,
        message.binning_x,
        message.binning_y,
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
        *(np.asarray(values, dtype=np.float64).tobytes() for values in (message.d, message.k, message.r, message.p)),
    )


def plausible_cameras(names: tuple[str, ...]) -> Cameras:
    """For a warm-up before any calibration is known: 640x360 pixels each, all looking forward from 1.5 m."""
    K = torch.tensor([[400.0, 0, 320], [0, 400.0, 180], [0, 0, 1]], dtype=torch.float64)
    T_ego_cam = torch.eye(4, dtype=torch.float64)
    T_ego_cam[:3] = torch.tensor([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5]], dtype=torch.float64)
    count = len(names)
    return Cameras(names, K.repeat(count, 1, 1), T_ego_cam.repeat(count, 1, 1), (640,) * count, (360,) * count)
