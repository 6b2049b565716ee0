# SPDX-License-Identifier: Apache-2.0
"""How the rig moves, from its images alone: visual odometry for a robot that has no other.

    odometry = VisualOdometry()
    moved = odometry.track(images, cameras, valid_mask, stamp_s)    # where the rig is when these images were taken
    odometry.learn_depth(inv_depth, log_error)                      # what a network then says about the same images

Direct alignment: the motion is sought under which pixels of an earlier set, at the depth that is known of them, have
the same brightness in the present set. All cameras share the motion. It is found by Gauss-Newton steps from coarse to
fine images (inverse compositional: the derivatives are those of the earlier set and made once), with robust weights, so
that what moves by itself has little say, and with a gain and an offset of brightness for each camera.

The metres come from depth: whatever factor a network's depth is off by, the way is off by.

The earlier set is kept until the robot has left it, so that a robot at rest does not drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Shaped

from gaussianocc_core.geometry.transforms import invert_matrix, make_transform
from gaussianocc_core.types import Cameras

# Why a set has no motion.
NOT_FINITE = "images are not finite numbers"
NO_DEPTH = "no depth of the set before"
OTHER_CAMERAS = "the cameras changed"
TOO_OLD = "the last set is too old"
NO_TEXTURE = "too little texture"
NOT_ALIGNED = "images do not align"
FAST = "faster than a robot moves"

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_GAIN_PRIOR, _OFFSET_PRIOR = 0.15, 10.0  # standard deviations: of a camera's gain about 1, of its offset (grey levels)
_LEAST_Z = 0.1  # m
_TUKEY = 4.685  # residuals beyond so many standard deviations have no say


@dataclass(frozen=True)
class OdometrySettings:
    """How images are aligned, and what is believed."""

    levels: int = 4  # image sizes, each half the one before
    finest: int = 0  # the last level that is aligned; 0: the images as they come
    points: int = 3000  # most on a level, of all cameras together
    least_points: int = 60
    least_gradient: float = 2.0  # grey levels per pixel; flatter pixels say nothing
    iterations: int = 12  # per level
    noise: float = 3.0  # grey levels, least standard deviation of a residual
    depth_error: float = 0.25  # of log depth, where a network does not say
    # The set that others are aligned with is replaced by the newest when the rig has left it by so much.
    keep_move: float = 0.25  # m
    keep_turn: float = 2.0  # degrees
    oldest: float = 2.0  # s between two sets, beyond which the motion between them is not sought
    top_speed: float = 60.0  # m/s
    top_turn: float = 150.0  # degrees/s
    least_fit: float = 0.35  # correlation of the points' brightness then and now
    # Neighbouring pixels err together: the covariance of independent ones times this. Chosen, not fitted:
    # on one synthetic drive places were off by 0.4 to 0.6 of what it says (benchmarks/odometry.py).
    correlation: float = 30.0
    length_error: float = 0.1  # standard deviation of the factor that all lengths are off by, 1: a hundred percent

    def __post_init__(self) -> None:
        if not 0 <= self.finest < self.levels or self.points < self.least_points or self.iterations < 1:
            raise ValueError(
                f"odometry: expected 0 <= finest < levels, points of at least least_points and iterations of at least "
                f"1, got {self}"
            )


@dataclass(frozen=True)
class Odometry:
    """Where the rig is at a set's time, in a frame of its own: the ego frame of the first set."""

    stamp_s: float
    T_odom_ego: Float[np.ndarray, "4 4"]  # m
    # Of x, y, z (m) and rotation about x, y, z (rad), axes of the odom frame.
    covariance: Float[np.ndarray, "6 6"]
    velocity: Float[np.ndarray, " 6"]  # m/s and rad/s, axes of the ego frame; mean since the set before
    velocity_covariance: Float[np.ndarray, "6 6"]
    lost: str = ""  # why the motion since the set before is not known; "" if it is. The pose then starts from the last
    fit: float = 1.0  # correlation of the points' brightness then and now, 0-1
    first: bool = False  # of the first set there is no motion


@dataclass(frozen=True)
class _Level:
    """Points of the earlier set at one image size; P of them, sorted by camera."""

    camera: np.ndarray  # (P,) int
    ray: np.ndarray  # (P, 3) in the camera, z = 1
    inv_depth: np.ndarray  # (P,) 1/m
    depth_error: np.ndarray  # (P,) of log depth
    grey: np.ndarray  # (P,)
    jacobian: np.ndarray  # (P, 6) grey levels per m and rad, of a motion of the point in the ego frame
    gradient: np.ndarray  # (P, 2) grey levels per pixel
    starts: np.ndarray  # (N + 1,) of each camera's points


@dataclass(frozen=True)
class _Set:
    """What is remembered of a set."""

    pyramid: tuple[Float[np.ndarray, "N _ _"], ...]  # grey, finest first
    cameras: Cameras
    valid: Bool[np.ndarray, "N h w"]
    stamp_s: float
    T_odom_ego: Float[np.ndarray, "4 4"]
    noise: Float[np.ndarray, "6 6"]  # covariance without that of the length
    levels: tuple[_Level, ...] = ()  # once depth is known


@dataclass(frozen=True)
class _Alignment:
    T_now_then: Float[np.ndarray, "4 4"]
    covariance: Float[np.ndarray, "6 6"]  # of translation and rotation of T_then_now, axes of the earlier ego frame
    fit: float
    problem: str = ""


Guess = Callable[[], Float[np.ndarray, "4 4"]]


class VisualOdometry:
    """Bounded memory of one rig: the set that others are aligned with, and the newest. Not for several threads."""

    def __init__(self, settings: OdometrySettings = OdometrySettings()) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets all; the next set is where the frame of the poses starts."""
        self._reference: _Set | None = None
        self._newest: _Set | None = None
        self._velocity = np.zeros(6)  # m/s, rad/s, ego frame
        self._moved = False  # the newest set has left the reference

    def track(
        self,
        images: Shaped[np.ndarray, "N H W 3"],
        cameras: Cameras,
        valid_mask: Bool[np.ndarray, "N H W"] | None,
        stamp_s: float,
        guess: Guess | None = None,
    ) -> Odometry:
        """Where the rig is now.

        images: RGB 0-255, of the pinhole cameras, all of one size; cameras: each where it was at its own image time in
        the ego frame of stamp_s, m; valid_mask: true where a pixel shows the world (None: everywhere). guess: another
        opinion of T_now_then (m), such as a network's, where to start from besides rest and the last velocity.

        Images that hold NaN or infinities are refused: `lost` says so and nothing is remembered of them. A stamp not
        after the last one starts afresh.
        """
        pixels = np.asarray(images)
        if self._newest is not None and stamp_s <= self._newest.stamp_s:
            self.reset()
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            return self._lost(NOT_FINITE, stamp_s)
        grey = pixels.astype(np.float32) @ _LUMA
        valid = np.ones(grey.shape, bool) if valid_mask is None else valid_mask
        present = _Set(_pyramid(grey, self.settings.levels), cameras, valid, stamp_s, np.eye(4), np.zeros((6, 6)))
        reference, newest = self._reference, self._newest
        if reference is None or newest is None:
            self._reference = self._newest = present
            self._moved = False
            return _state(present, np.zeros(6), np.zeros((6, 6)), self.settings, first=True)
        problem = self._unfit(reference, newest, present)
        if not problem:
            found = self._align(reference, newest, present, guess)
            problem = found.problem or self._implausible(newest, present, found)
        if problem:
            present = replace(present, T_odom_ego=newest.T_odom_ego, noise=newest.noise + _gap_noise(self._velocity))
            self._reference = self._newest = present
            self._velocity, self._moved = np.zeros(6), False
            return self._lost(problem, stamp_s)
        T_then_now = invert_matrix(found.T_now_then)
        T_odom_ego = _orthonormal(reference.T_odom_ego @ T_then_now)
        noise = _compose_noise(reference, T_then_now, found.covariance)
        present = replace(present, T_odom_ego=T_odom_ego, noise=noise)
        gap = stamp_s - newest.stamp_s
        step = invert_matrix(newest.T_odom_ego) @ T_odom_ego
        self._velocity = np.concatenate([step[:3, :3].T @ step[:3, 3], _rotation_vector(step[:3, :3])]) / gap
        turn = np.kron(np.eye(2), found.T_now_then[:3, :3])
        velocity_covariance = 2.0 * turn @ found.covariance @ turn.T / gap**2
        travelled, turned = _size(T_then_now)
        self._moved = travelled > self.settings.keep_move or turned > math.radians(self.settings.keep_turn)
        self._newest = present
        return _state(present, self._velocity, velocity_covariance, self.settings, fit=found.fit)

    def learn_depth(
        self, inv_depth: Float[np.ndarray, "N h w"], log_error: Float[np.ndarray, "N h w"] | None = None
    ) -> None:
        """What is known of the set that was tracked last: 1/m and, where a network says, the log of the expected error
        of log depth. Maps of any one size; without a call, the set cannot become the one that others are aligned with.
        """
        newest = self._newest
        if newest is None or not (newest is self._reference or self._moved):
            return
        if not np.isfinite(inv_depth).all():
            return
        levels = _make_levels(newest, np.asarray(inv_depth, np.float32), log_error, self.settings)
        newest = replace(newest, levels=levels)
        self._reference = self._newest = newest
        self._moved = False

    # ---- one set ---------------------------------------------------------------------------------------------------

    def _unfit(self, reference: _Set, newest: _Set, present: _Set) -> str:
        """Why the present set cannot be aligned; "" if it can."""
        same = present.cameras.names == reference.cameras.names
        K, K_then = (each.cameras.intrinsics.double().numpy() for each in (present, reference))
        if not same or present.pyramid[0].shape != reference.pyramid[0].shape or not np.allclose(K, K_then, atol=0.5):
            return OTHER_CAMERAS
        if present.stamp_s - newest.stamp_s > self.settings.oldest:
            return TOO_OLD
        return "" if reference.levels else NO_DEPTH

    def _implausible(self, newest: _Set, present: _Set, found: _Alignment) -> str:
        reference = self._reference
        assert reference is not None
        T = invert_matrix(newest.T_odom_ego) @ reference.T_odom_ego @ invert_matrix(found.T_now_then)
        travelled, turned = _size(T)
        gap = present.stamp_s - newest.stamp_s
        fast = travelled > self.settings.top_speed * gap or turned > math.radians(self.settings.top_turn) * gap
        return FAST if fast else ""

    def _lost(self, problem: str, stamp_s: float) -> Odometry:
        newest = self._newest
        pose = np.eye(4) if newest is None else newest.T_odom_ego
        unknown = np.diag([1e6] * 3 + [1e3] * 3)
        return Odometry(stamp_s, pose, unknown, np.zeros(6), unknown, problem, 0.0)

    def _align(self, reference: _Set, newest: _Set, present: _Set, guess: Guess | None) -> _Alignment:
        T_newest_reference = invert_matrix(newest.T_odom_ego) @ reference.T_odom_ego
        gap = present.stamp_s - newest.stamp_s
        starts = [T_newest_reference]
        if self._velocity.any():
            starts.append(invert_matrix(_exponential(self._velocity * gap)) @ T_newest_reference)
        if guess is not None and np.isfinite(T_guess := guess()).all():
            starts.append(T_guess @ T_newest_reference)
        moving = _unfrozen(reference, present)
        coarsest = self.settings.levels - 1
        tries = [
            _gauss_newton(reference.levels[coarsest], coarsest, reference, present, T, moving, self.settings)
            for T in starts
        ]
        tries = [each for each in tries if not each[1].problem]
        if not tries:
            return _Alignment(np.eye(4), np.eye(6), 0.0, NO_TEXTURE)
        best = min(tries, key=lambda each: each[0])[1]
        for level in range(coarsest - 1, self.settings.finest - 1, -1):
            best = _gauss_newton(
                reference.levels[level], level, reference, present, best.T_now_then, moving, self.settings
            )[1]
            if best.problem:
                return best
        return replace(best, problem=NOT_ALIGNED) if best.fit < self.settings.least_fit else best


# ---- points of the earlier set -------------------------------------------------------------------------------------


def _make_levels(
    present: _Set,
    inv_depth: Float[np.ndarray, "N h w"],
    log_error: Float[np.ndarray, "N h w"] | None,
    settings: OdometrySettings,
) -> tuple[_Level, ...]:
    error = np.full_like(inv_depth, settings.depth_error) if log_error is None else np.exp(np.asarray(log_error))
    error = np.clip(error, 0.02, 1.5)
    levels = []
    valid = present.valid
    for level, grey in enumerate(present.pyramid):
        if level:
            valid = _halve(valid.astype(np.float32)) == 1.0
        levels.append(_make_level(grey, valid, inv_depth, error, present.cameras, 0.5**level, settings))
    return tuple(levels)


def _make_level(
    grey: Float[np.ndarray, "N h w"],
    valid: Bool[np.ndarray, "N h w"],
    inv_depth: Float[np.ndarray, "N h2 w2"],
    error: Float[np.ndarray, "N h2 w2"],
    cameras: Cameras,
    scale: float,
    settings: OdometrySettings,
) -> _Level:
    count, height, width = grey.shape
    gx, gy = np.zeros_like(grey), np.zeros_like(grey)
    gx[:, :, 1:-1] = 0.5 * (grey[:, :, 2:] - grey[:, :, :-2])
    gy[:, 1:-1] = 0.5 * (grey[:, 2:] - grey[:, :-2])
    inside = np.zeros_like(valid)
    inside[:, 1:-1, 1:-1] = (
        valid[:, 1:-1, 1:-1] & valid[:, 1:-1, 2:] & valid[:, 1:-1, :-2] & valid[:, 2:, 1:-1] & valid[:, :-2, 1:-1]
    )
    strong = inside & (gx**2 + gy**2 > settings.least_gradient**2)
    most = max(settings.points // count, 1)
    chosen = []
    for n in range(count):
        found = np.flatnonzero(strong[n])
        if len(found) > most:  # evenly over the image
            found = found[np.linspace(0, len(found) - 1, most).astype(int)]
        chosen.append(found)
    starts = np.cumsum([0, *(len(found) for found in chosen)])
    camera = np.repeat(np.arange(count), [len(found) for found in chosen])
    v, u = np.divmod(np.concatenate(chosen), width)
    x, y = u + 0.5, v + 0.5
    K = cameras.intrinsics.double().cpu().numpy() * np.array([[scale], [scale], [1.0]])
    T_ego_cam = cameras.T_ego_cam.double().cpu().numpy()
    focal, centre = K[camera][:, [0, 1], [0, 1]], K[camera][:, :2, 2]
    ray = np.column_stack([(np.column_stack([x, y]) - centre) / focal, np.ones(len(x))])
    place = (
        np.minimum((y / height * inv_depth.shape[1]).astype(int), inv_depth.shape[1] - 1),
        np.minimum((x / width * inv_depth.shape[2]).astype(int), inv_depth.shape[2] - 1),
    )
    rho = np.maximum(inv_depth[camera, place[0], place[1]].astype(np.float64), 1e-4)
    spread = error[camera, place[0], place[1]].astype(np.float64)
    point = ray / rho[:, None]
    R = T_ego_cam[camera, :3, :3]
    ego = np.einsum("pij,pj->pi", R, point) + T_ego_cam[camera, :3, 3]
    gradient = np.column_stack([gx[camera, v, u], gy[camera, v, u]]).astype(np.float64)
    slope = gradient * focal  # of brightness over x/z and y/z
    per_point = np.column_stack([slope, -(slope * ray[:, :2]).sum(axis=1)]) * rho[:, None]  # over the point, camera
    per_ego = np.einsum("pij,pj->pi", R, per_point)
    jacobian = np.concatenate([per_ego, np.cross(ego, per_ego)], axis=1)
    return _Level(camera, ray, rho, spread, grey[camera, v, u].astype(np.float64), jacobian, gradient, starts)


# ---- alignment -----------------------------------------------------------------------------------------------------


def _gauss_newton(
    points: _Level,
    level: int,
    then: _Set,
    now: _Set,
    T_now_then: Float[np.ndarray, "4 4"],
    moving: Bool[np.ndarray, " N"],
    settings: OdometrySettings,
) -> tuple[float, _Alignment]:
    """The motion that aligns the points best from this start, and its mean robust error, for comparison."""
    nothing = _Alignment(T_now_then, np.eye(6), 0.0, NO_TEXTURE)
    count = len(points.starts) - 1
    T = T_now_then
    gains, offsets = np.ones(count), np.zeros(count)
    K = now.cameras.intrinsics.double().cpu().numpy() * np.array([[0.5**level], [0.5**level], [1.0]])
    T_ego_cam = then.cameras.T_ego_cam.double().cpu().numpy()
    T_cam_ego = np.stack([invert_matrix(each) for each in now.cameras.T_ego_cam.double().cpu().numpy()])
    image = now.pyramid[level]
    height, width = image.shape[1:]
    columns = 6 + 2 * count
    prior = np.zeros(columns)
    prior[6::2], prior[7::2] = 1.0 / _GAIN_PRIOR**2, 1.0 / _OFFSET_PRIOR**2
    cost, covariance, fit = math.inf, np.eye(6), 0.0
    used = moving[points.camera]
    design = np.zeros((len(points.camera), columns))
    design[:, :6] = points.jacobian
    rows = np.arange(len(points.camera))
    design[rows, 6 + 2 * points.camera] = points.grey
    design[rows, 7 + 2 * points.camera] = 1.0
    for _ in range(settings.iterations):
        T_cam_cam = T_cam_ego @ T @ T_ego_cam
        R, t = T_cam_cam[points.camera, :3, :3], T_cam_cam[points.camera, :3, 3]
        turned = np.einsum("pij,pj->pi", R, points.ray)
        moved = turned + t * points.inv_depth[:, None]
        z = moved[:, 2]
        ahead = used & (z > _LEAST_Z * points.inv_depth) & (z > 1e-3)
        safe = np.where(ahead, z, 1.0)
        focal, centre = K[points.camera][:, [0, 1], [0, 1]], K[points.camera][:, :2, 2]
        pixel = moved[:, :2] / safe[:, None] * focal + centre
        x, y = pixel[:, 0] - 0.5, pixel[:, 1] - 0.5
        seen = ahead & (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        if seen.sum() < settings.least_points:
            return math.inf, nothing
        grey = _sample(image, points.camera[seen], x[seen], y[seen])
        J = design[seen]
        camera = points.camera[seen]
        residual = grey - gains[camera] * points.grey[seen] - offsets[camera]
        # What an error of depth does to the brightness: the gradient along the shift that the depth makes.
        far = turned[seen, :2] / np.maximum(turned[seen, 2:], 1e-3) * focal[seen] + centre[seen]
        shift = ((pixel[seen] - far) * points.gradient[seen]).sum(axis=1)
        variance = settings.noise**2 + (shift * points.depth_error[seen]) ** 2
        normal = residual / np.sqrt(variance)
        spread = max(1.0, 1.4826 * float(np.median(np.abs(normal))))
        share = np.clip(1.0 - (normal / (_TUKEY * spread)) ** 2, 0.0, None) ** 2
        weight = share / (variance * spread**2)
        H = (J * weight[:, None]).T @ J
        b = (J * weight[:, None]).T @ residual
        b[6::2] += prior[6::2] * (1.0 - gains)
        b[7::2] += prior[7::2] * -offsets
        H[np.diag_indices(columns)] += prior + 1e-9
        try:
            step = np.linalg.solve(H, b)
        except np.linalg.LinAlgError:
            return math.inf, nothing
        fit = _correlation(points.grey[seen], grey, camera)
        cost = float(np.minimum(np.abs(normal), 5.0).mean() + 5.0 * (1.0 - seen.sum() / max(used.sum(), 1)))
        T = T @ invert_matrix(_exponential(step[:6]))
        gains, offsets = gains + step[6::2], offsets + step[7::2]
        if not np.isfinite(T).all():
            return math.inf, nothing
        if np.abs(step[:3]).max() < 2e-4 and np.abs(step[3:6]).max() < 2e-5:
            break
    motion = np.linalg.inv(H)[:6, :6] * settings.correlation
    # A small motion of the points is one of T_then_now to the left: its translation also turns with it.
    t = invert_matrix(T)[:3, 3]
    lever = np.eye(6)
    lever[:3, 3:] = -_skew(t)
    covariance = lever @ motion @ lever.T
    return cost, _Alignment(T, covariance, fit)


def _correlation(then: np.ndarray, now: np.ndarray, camera: np.ndarray) -> float:
    """Of the brightness of points, 0-1; that of its cameras' means is left out."""
    count = np.maximum(np.bincount(camera), 1)
    a, b = (each - (np.bincount(camera, each) / count)[camera] for each in (then, now))
    return max(0.0, float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-9))


def _sample(images: np.ndarray, camera: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear, at indices within the images."""
    left = np.minimum(x.astype(int), images.shape[2] - 2)
    top = np.minimum(y.astype(int), images.shape[1] - 2)
    a, b = x - left, y - top
    return (images[camera, top, left] * (1 - a) + images[camera, top, left + 1] * a) * (1 - b) + (
        images[camera, top + 1, left] * (1 - a) + images[camera, top + 1, left + 1] * a
    ) * b


def _unfrozen(then: _Set, now: _Set) -> Bool[np.ndarray, " N"]:
    """Cameras whose image is not the same to the bit while that of another changed."""
    same = np.array([np.array_equal(a, b) for a, b in zip(then.pyramid[1], now.pyramid[1], strict=True)])
    return np.ones(len(same), bool) if same.all() else ~same


def _pyramid(grey: Float[np.ndarray, "N h w"], levels: int) -> tuple[Float[np.ndarray, "N _ _"], ...]:
    result = [grey]
    for _ in range(levels - 1):
        result.append(_halve(result[-1]))
    return tuple(result)


def _halve(maps: Float[np.ndarray, "N h w"]) -> Float[np.ndarray, "N h2 w2"]:
    height, width = (side // 2 * 2 for side in maps.shape[1:])
    even = maps[:, :height, :width]
    return 0.25 * (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2])


# ---- poses ---------------------------------------------------------------------------------------------------------


def _state(
    present: _Set, velocity: np.ndarray, velocity_noise: np.ndarray, settings: OdometrySettings, **more: float | bool
) -> Odometry:
    """The length's error is one factor for the whole way, so that it grows with the distance from the start."""
    place = np.concatenate([present.T_odom_ego[:3, 3], np.zeros(3)])
    ahead = np.concatenate([velocity[:3], np.zeros(3)])
    share = settings.length_error**2
    return Odometry(
        present.stamp_s,
        present.T_odom_ego,
        present.noise + share * np.outer(place, place) + 1e-9 * np.eye(6),
        velocity,
        velocity_noise + share * np.outer(ahead, ahead) + 1e-9 * np.eye(6),
        **more,  # type: ignore[arg-type]
    )


def _gap_noise(velocity: Float[np.ndarray, " 6"]) -> Float[np.ndarray, "6 6"]:
    """Of a motion that nobody saw: a second at the last velocity, and a little at least."""
    away, turn = 0.5 + np.linalg.norm(velocity[:3]), 0.1 + np.linalg.norm(velocity[3:])
    return np.diag([away**2] * 3 + [turn**2] * 3)


def _compose_noise(
    reference: _Set, T_then_now: Float[np.ndarray, "4 4"], motion: Float[np.ndarray, "6 6"]
) -> Float[np.ndarray, "6 6"]:
    """Covariance of the pose after a motion: an error of direction moves what comes after it."""
    R = reference.T_odom_ego[:3, :3]
    carry = np.eye(6)
    carry[:3, 3:] = -_skew(R @ T_then_now[:3, 3])
    turn = np.kron(np.eye(2), R)
    return carry @ reference.noise @ carry.T + turn @ motion @ turn.T


def _size(T: Float[np.ndarray, "4 4"]) -> tuple[float, float]:
    """m and rad."""
    return float(np.linalg.norm(T[:3, 3])), float(np.linalg.norm(_rotation_vector(T[:3, :3])))


def _skew(v: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _rotation_vector(R: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """rad; for turns below 180 degrees."""
    axis_sin = 0.5 * np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    sin, cos = float(np.linalg.norm(axis_sin)), 0.5 * (float(np.trace(R)) - 1.0)
    return axis_sin if sin < 1e-9 else axis_sin / sin * math.atan2(sin, cos)


def _exponential(step: Float[np.ndarray, " 6"]) -> Float[np.ndarray, "4 4"]:
    """The rigid motion of a small translation (m) and rotation (rad)."""
    angle = float(np.linalg.norm(step[3:]))
    S = _skew(step[3:])
    a, b = (1.0, 0.5) if angle < 1e-9 else (math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle**2)
    return make_transform(np.eye(3) + a * S + b * S @ S, step[:3])


def _orthonormal(T: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Thousands of products of rotations are none any more."""
    U, _, V = np.linalg.svd(T[:3, :3])
    return make_transform(U @ V, T[:3, 3])


__all__ = ["Odometry", "OdometrySettings", "VisualOdometry"]
