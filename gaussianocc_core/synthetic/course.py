# SPDX-License-Identifier: Apache-2.0
"""How an ego moves at random: a path on the ground, a speed that changes, stops and reverses, a body that wobbles.

A path is where a vehicle can go (its curvature is bounded); a `Course` says where on the path it is when. All of it is
smooth in time: no pose, and no velocity, ever jumps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.synthetic.fleet import Vehicle

STEP = 0.05  # m between the points of a path
TICK = 0.02  # s between the entries of a speed profile
EARLIEST = -2.0  # s; courses are defined from here, so that a moment 0 has a past
LEAD = 4.0  # m of path behind the place at time 0

Height = Callable[[float, float], float]  # of the ground at (x, y), m


@dataclass(frozen=True)
class Path:
    """Points every `STEP` metres with the direction of travel (continuous, so that it can be interpolated)."""

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    yaw: Float[np.ndarray, " n"]

    @property
    def length(self) -> float:
        return STEP * (len(self.x) - 1)

    def at(self, s: float) -> tuple[float, float, float]:
        """x, y and yaw s metres along; straight on beyond both ends."""
        u = min(max(s, 0.0), self.length) / STEP
        k = min(int(u), len(self.x) - 2)
        w, over = u - k, s - min(max(s, 0.0), self.length)
        x, y, yaw = (float(a[k] + w * (a[k + 1] - a[k])) for a in (self.x, self.y, self.yaw))
        return x + over * math.cos(yaw), y + over * math.sin(yaw), yaw


def follow(waypoints: Float[np.ndarray, "P 2"], radius: float, length: float) -> Path:
    """A path that chases a point some way ahead on the polyline: corners are rounded to at least `radius` metres."""
    points = np.asarray(waypoints, dtype=np.float64)
    steps = np.hypot(*np.diff(points, axis=0).T)
    at = np.concatenate([[0.0], np.cumsum(steps)])
    ahead = max(1.2 * radius, 0.6)
    x, y = points[0]
    yaw = math.atan2(points[1, 1] - y, points[1, 0] - x)
    rows, s = [(x, y, yaw)], 0.0
    for _ in range(int(length / STEP)):
        # The nearest point of the polyline just ahead of the last one, then the target beyond it.
        near = s + STEP * np.arange(0, 40)
        px, py = np.interp(near, at, points[:, 0]), np.interp(near, at, points[:, 1])
        s = float(near[np.argmin((px - x) ** 2 + (py - y) ** 2)])
        goal = s + ahead
        over = max(0.0, goal - at[-1])
        end = (points[-1] - points[-2]) / steps[-1]
        gx = np.interp(goal, at, points[:, 0]) + over * end[0]
        gy = np.interp(goal, at, points[:, 1]) + over * end[1]
        left = -math.sin(yaw) * (gx - x) + math.cos(yaw) * (gy - y)
        reach = (gx - x) ** 2 + (gy - y) ** 2
        kappa = min(max(2.0 * left / max(reach, 1e-6), -1.0 / radius), 1.0 / radius)
        x, y = x + STEP * math.cos(yaw + 0.5 * STEP * kappa), y + STEP * math.sin(yaw + 0.5 * STEP * kappa)
        yaw += STEP * kappa
        rows.append((x, y, yaw))
    return _smoothed(np.array(rows))


def wander(rng, radius: float, length: float, bounds: tuple[float, float, float, float], start=None) -> Path:
    """A path of straights and bends at random that stays within (x low, y low, x high, y high) where it can."""
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    x, y = rng.uniform(low + 0.25 * (high - low), high - 0.25 * (high - low)) if start is None else start[:2]
    yaw = float(rng.uniform(-math.pi, math.pi)) if start is None else start[2]
    rows, left, kappa = [(x, y, yaw)], 0.0, 0.0
    for _ in range(int(length / STEP)):
        if left <= 0.0:
            left = float(rng.uniform(1.0, 5.0)) * max(1.0, 0.5 * radius)
            kappa = 0.0 if rng.random() < 0.35 else float(rng.uniform(-1.0, 1.0)) / radius
        left -= STEP
        turn = kappa
        margin = 2.2 * radius
        ahead = np.array([x + margin * math.cos(yaw), y + margin * math.sin(yaw)])
        if (ahead < low).any() or (ahead > high).any():  # back to the middle, the shorter way round
            to = math.atan2(0.5 * (low[1] + high[1]) - y, 0.5 * (low[0] + high[0]) - x)
            off = (to - yaw + math.pi) % (2.0 * math.pi) - math.pi
            turn = math.copysign(1.0 / radius, off)
        x, y, yaw = x + STEP * math.cos(yaw), y + STEP * math.sin(yaw), yaw + STEP * turn
        rows.append((x, y, yaw))
    return _smoothed(np.array(rows))


def _smoothed(rows: Float[np.ndarray, "n 3"]) -> Path:
    """Mean over half a metre, so that the curvature does not jump; the ends keep their place."""
    n = 11
    padded = np.concatenate([np.repeat(rows[:1], n // 2, 0), rows, np.repeat(rows[-1:], n // 2, 0)])
    sums = np.cumsum(np.concatenate([np.zeros((1, 3)), padded]), axis=0)
    smooth = (sums[n:] - sums[:-n]) / n
    # Points at equal steps of the smoothed curve, and its own direction.
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(smooth[:, :2], axis=0).T))])
    even = np.arange(0.0, lengths[-1], STEP)
    x, y, yaw = (np.interp(even, lengths, smooth[:, k]) for k in range(3))
    return Path(x, y, yaw)


def draw_speed(rng, vehicle: Vehicle, duration: float, limit: float = math.inf) -> Float[np.ndarray, " ticks"]:
    """Metres along the path every `TICK` s from `EARLIEST` on, 0 at time 0: cruising, slowing, stops, reversing."""
    count = int((duration - EARLIEST + 2.0) / TICK) + 1
    # Slow drives are as frequent as fast ones in the logarithm: what is near needs many of them.
    slow, fast = min(vehicle.slow, 0.5 * limit), min(vehicle.fast, limit)
    cruise = math.exp(rng.uniform(math.log(slow), math.log(fast)))
    target, n = np.empty(count), 0
    reverses = rng.random() < 0.12
    while n < count:
        hold = int(rng.uniform(1.5, 5.0) / TICK)
        draw = rng.random()
        if draw < 0.12:
            value = 0.0
        elif draw < 0.20 or reverses:
            value = -min(cruise, 1.5) * rng.uniform(0.4, 1.0)
        else:
            value = cruise * rng.uniform(0.55, 1.1)
        target[n : n + hold] = value
        n += hold
    speed, step = np.empty(count), vehicle.acceleration * TICK
    speed[0] = target[0]
    for k in range(1, count):
        speed[k] = speed[k - 1] + min(max(target[k] - speed[k - 1], -step), step)
    window = np.hanning(21)[1:-1]
    speed = np.convolve(np.pad(speed, 9, mode="edge"), window / window.sum(), mode="valid")
    s = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * TICK)])
    return s - np.interp(-EARLIEST, TICK * np.arange(count), s)


@dataclass(frozen=True)
class Wobble:
    """Roll, pitch and heave of a body on its wheels: a few sines, stronger with speed, and the nod of braking."""

    amplitude: float  # rad
    waves: tuple[tuple[float, float, float, float], ...]  # Hz, and the phases of roll, pitch and heave
    nod: float  # rad per m/s2

    @staticmethod
    def draw(rng, vehicle: Vehicle) -> Wobble:
        def wave() -> tuple[float, float, float, float]:
            roll, pitch, heave = rng.uniform(0.0, 2.0 * math.pi, 3)
            return float(rng.uniform(0.6, 4.0)), float(roll), float(pitch), float(heave)

        waves = tuple(wave() for _ in range(4))
        return Wobble(math.radians(vehicle.wobble), waves, float(rng.uniform(0.001, 0.006)))

    def at(self, time: float, speed: float, acceleration: float) -> tuple[float, float, float]:
        """Roll, pitch (positive: nose down), heave in rad and m."""
        strength = self.amplitude * min(1.0, 0.1 + abs(speed) / 1.5)
        roll = pitch = heave = 0.0
        for hertz, a, b, c in self.waves:
            w = 2.0 * math.pi * hertz * time
            size = strength / (1.0 + hertz)
            roll, pitch, heave = roll + size * math.sin(w + a), pitch + size * math.sin(w + b), heave + math.sin(w + c)
        return roll, pitch + self.nod * -acceleration, 0.1 * strength * heave


@dataclass(frozen=True)
class Glance:
    """A turn on the spot while the vehicle stands, and back again: motion without any parallax of the ground."""

    begin: float  # s
    duration: float  # s
    angle: float  # rad, half-way

    def at(self, time: float) -> float:
        share = min(max((time - self.begin) / self.duration, 0.0), 1.0)
        return self.angle * math.sin(math.pi * share) ** 2


def _draw_glances(rng, along: Float[np.ndarray, " ticks"]) -> tuple[Glance, ...]:
    """In two thirds of the stops that are long enough."""
    standing = np.abs(np.diff(along)) < 1e-3 * TICK
    edges = np.flatnonzero(np.diff(np.concatenate([[0], standing.astype(int), [0]])))
    glances = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        begin, span = EARLIEST + TICK * float(first), TICK * float(last - first)
        if span > 1.0 and rng.random() < 0.67:
            fastest = 1.4 * span / math.pi  # rad/s of 1.4 at most
            glances.append(Glance(begin, span, float(rng.uniform(-1.0, 1.0)) * min(fastest, 2.5)))
    return tuple(glances)


@dataclass(frozen=True)
class Course:
    """Where the ego is at any time."""

    path: Path
    along: Float[np.ndarray, " ticks"]  # m from the place of time 0, every TICK from EARLIEST on
    wobble: Wobble
    base: float  # m between the axles, for the slope under the vehicle
    height: Height | None = None  # None: the ground is z = 0
    glances: tuple[Glance, ...] = ()

    @staticmethod
    def draw(
        rng: np.random.Generator,
        vehicle: Vehicle,
        path: Path,
        along: Float[np.ndarray, " ticks"],
        height: Height | None = None,
    ) -> Course:
        """The course of a vehicle whose speed is drawn already (`draw_speed`)."""
        glances = _draw_glances(rng, along) if vehicle.turns_on_the_spot else ()
        return Course(path, along, Wobble.draw(rng, vehicle), max(0.3, 0.6 * vehicle.length), height, glances)

    def distance(self, time: float) -> float:
        """Metres along the path since time 0; negative behind it."""
        u = min(max((time - EARLIEST) / TICK, 0.0), len(self.along) - 1.0)
        k = min(int(u), len(self.along) - 2)
        return float(self.along[k] + (u - k) * (self.along[k + 1] - self.along[k]))

    def travelled(self) -> tuple[float, float]:
        """From where to where on the path the origin goes, m."""
        return self.start() + min(float(self.along.min()), 0.0), self.start() + max(float(self.along.max()), 0.0)

    def start(self) -> float:
        """s of the path at time 0: as far in as the vehicle goes back behind it."""
        return LEAD - min(float(self.along.min()), 0.0)

    def planar(self, time: float) -> tuple[float, float, float]:
        """x, y, yaw."""
        x, y, yaw = self.path.at(self.start() + self.distance(time))
        return x, y, yaw + sum(glance.at(time) for glance in self.glances)

    def pose(self, time: float) -> Float[np.ndarray, "4 4"]:
        """T_world_ego: on the ground's slope, with the body's wobble."""
        x, y, yaw = self.planar(time)
        h = 2.0 * TICK
        before, now, after = self.distance(time - h), self.distance(time), self.distance(time + h)
        roll, pitch, z = self.wobble.at(time, (after - before) / (2.0 * h), (after - 2.0 * now + before) / (h * h))
        if self.height is not None:
            c, s, half = math.cos(yaw), math.sin(yaw), 0.5 * self.base
            front, back = self.height(x + half * c, y + half * s), self.height(x - half * c, y - half * s)
            left, right = self.height(x - half * s, y + half * c), self.height(x + half * s, y - half * c)
            z += 0.25 * (front + back + left + right)
            pitch -= math.atan2(front - back, self.base)
            roll += math.atan2(left - right, self.base)
        T = np.eye(4)
        T[:3, :3] = _rotation(yaw, pitch, roll)
        T[:3, 3] = x, y, z
        return T


def _rotation(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Yaw about z, then pitch about y (nose down), then roll about x (left side up)."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
