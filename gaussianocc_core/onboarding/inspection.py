# SPDX-License-Identifier: Apache-2.0
"""What an engineer looks at before training on a bag: rates, gaps, synchronisation, lenses, overlap, motion, lidar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaussianocc_core.bags.index import TopicIndex
from gaussianocc_core.bags.opened import open_bag, unlatched_static_tf
from gaussianocc_core.data.bag import BagEntry, BagSource
from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_topics
from gaussianocc_core.data.image_change import image_change
from gaussianocc_core.geometry.overlap import Overlap, find_overlaps
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.types import EQUIDISTANT, Cameras

NETWORK_SIZE = (176, 96)  # at which overlap and lost pixels are counted
_STILL_M_S = 0.05


@dataclass(frozen=True)
class CameraFacts:
    name: str
    topic: str
    frame_id: str
    size: tuple[int, int]  # px
    lens: str  # "pinhole", "pinhole, 5 coefficients", "equidistant, 4 coefficients"
    fov_deg: float  # horizontal, of the recorded image; for a fisheye along its middle row
    lost_share: float  # of the recorded pixels that the rectified view leaves out
    height_m: float  # above the ego frame's origin
    images: int
    rate_hz: float
    jitter_ms: float  # standard deviation of the intervals, gaps left out
    gaps: int  # intervals beyond 1.8 times the usual one
    longest_gap_s: float
    delay_ms: float  # median time from stamp to recording
    brightness: float  # mean grey level of a few images


@dataclass(frozen=True)
class SyncFacts:
    anchor: str
    anchor_images: int
    sets: int
    spread_ms: float  # median over the sets of the farthest image from the anchor's
    worst_spread_ms: float
    missing: Counter[str]  # sets that failed for want of this camera


@dataclass(frozen=True)
class MotionFacts:
    distance_m: float
    speed_m_s: float  # median while moving
    still_share: float  # of the time
    neighbour_m: float  # median motion from a sample to its neighbour
    in_gaps: int  # samples at which odometry pauses; they have no pose and are left out of training


@dataclass(frozen=True)
class LidarFacts:
    topic: str
    scans: int
    rate_hz: float
    in_view: dict[str, int]  # points of one scan that each camera sees


@dataclass(frozen=True)
class Inspection:
    """Of one bag."""

    name: str
    seconds: float
    cameras: tuple[CameraFacts, ...]
    sync: SyncFacts
    overlaps: tuple[Overlap, ...]
    motion: MotionFacts | None  # None: no odometry
    change: tuple[float, float]  # grey levels from a sample to its neighbours: a tenth change by less, and the median
    lidars: tuple[LidarFacts, ...]
    labelled: int  # samples with 2D labels of all cameras
    samples: int  # with both neighbours
    problems: tuple[str, ...]
    unlatched: tuple[str, ...]  # topics of static transforms that a plain replay sends only to those who listen already
    other_clock: bool = False  # there is odometry, stamped by another clock than the images

    @property
    def alone(self) -> tuple[str, ...]:
        """Cameras that share no pixels with another."""
        shared = {name for each in self.overlaps for name in each.names}
        return tuple(camera.name for camera in self.cameras if camera.name not in shared)


def inspect(source: BagSource, entries: Sequence[BagEntry]) -> Inspection:
    """entries: `source.entries()`; a few images of them are read."""
    cameras = source.cameras
    lenses = Preprocessor(*NETWORK_SIZE)(cameras)
    views = lenses.views(cameras.T_ego_cam)
    some = [entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, 5).astype(int))] if entries else []
    greys = [[float(image.mean()) for image in entry.load().images] for entry in some]
    brightness = np.mean(greys, axis=0) if greys else np.zeros(len(cameras))
    facts = []
    for i, topics in enumerate(source.topics):
        images, lost = source.index.topics[topics.images], lenses.rectifier.lost_share[i]
        facts.append(_camera_facts(images, cameras, i, lost, float(brightness[i])))
    return Inspection(
        name=source.index.name,
        seconds=(source.index.end_ns - source.index.start_ns) * 1e-9,
        cameras=tuple(facts),
        sync=_sync_facts(source, entries),
        overlaps=find_overlaps(views),
        motion=_motion_facts(source, entries),
        change=_changes(entries),
        lidars=tuple(_lidar_facts(source, topic, some, views) for topic in lidar_topics(source)),
        labelled=sum(entry.labelled for entry in entries),
        samples=sum(len(entry.neighbours) == 2 for entry in entries),
        problems=source.problems,
        unlatched=_unlatched(source.index.path),
        other_clock=not source.odometry_fits,
    )


def _unlatched(path: Path) -> tuple[str, ...]:
    with closing(open_bag(path)) as bag:
        return unlatched_static_tf(bag)


def _camera_facts(topic: TopicIndex, cameras: Cameras, i: int, lost: float, brightness: float) -> CameraFacts:
    steps = np.diff(np.sort(topic.stamps_ns)) * 1e-9
    steps = steps[steps > 0]
    usual = float(np.median(steps)) if len(steps) else 0.0
    regular = steps[steps < 1.8 * usual]
    coefficients = sum(value != 0 for value in cameras.distortion[i])
    return CameraFacts(
        name=cameras.names[i],
        topic=topic.topic,
        frame_id=topic.frame_id,
        size=(cameras.width[i], cameras.height[i]),
        lens=cameras.model[i] + (f", {coefficients} coefficients" if coefficients else ""),
        fov_deg=_field_of_view(cameras, i),
        lost_share=lost,
        height_m=float(cameras.T_ego_cam[i, 2, 3]),
        images=len(topic),
        rate_hz=1.0 / usual if usual else 0.0,
        jitter_ms=1e3 * float(regular.std()) if len(regular) else 0.0,
        gaps=int((steps >= 1.8 * usual).sum()) if usual else 0,
        longest_gap_s=float(steps.max()) if len(steps) else 0.0,
        delay_ms=float(np.median(topic.logs_ns - topic.stamps_ns)) * 1e-6 if len(topic) else 0.0,
        brightness=brightness,
    )


def _field_of_view(cameras: Cameras, i: int) -> float:
    focal, half = float(cameras.intrinsics[i, 0, 0]), 0.5 * cameras.width[i]
    if cameras.model[i] == EQUIDISTANT:
        return float(np.degrees(2 * half / focal))
    return float(np.degrees(2 * np.arctan(half / focal)))


def _sync_facts(source: BagSource, entries: Sequence[BagEntry]) -> SyncFacts:
    spreads = [1e-6 * max(abs(s - e.frame.camera_stamps_ns[0]) for s in e.frame.camera_stamps_ns) for e in entries]
    anchor = source.topics[0]
    return SyncFacts(
        anchor=anchor.name,
        anchor_images=len(source.index.topics[anchor.images]),
        sets=len(entries),
        spread_ms=float(np.median(spreads)) if spreads else 0.0,
        worst_spread_ms=max(spreads, default=0.0),
        missing=Counter(source.statistics.missing),
    )


def _changes(entries: Sequence[BagEntry]) -> tuple[float, float]:
    complete = [entry for entry in entries if len(entry.neighbours) == 2]
    if not complete:
        return (0.0, 0.0)
    places = np.unique(np.linspace(0, len(complete) - 1, 60).astype(int))
    changes = np.array([image_change(complete[i]) for i in places])
    return float(np.percentile(changes, 10)), float(np.median(changes))


def _motion_facts(source: BagSource, entries: Sequence[BagEntry]) -> MotionFacts | None:
    posed = [
        (e.frame.camera_stamps_ns[0], e.frame.T_world_ego[0, :3, 3]) for e in entries if e.frame.T_world_ego is not None
    ]
    if len(posed) < 2:
        return None
    seconds = np.diff([stamp for stamp, _ in posed]) * 1e-9
    metres = np.linalg.norm(np.diff([place for _, place in posed], axis=0), axis=1)
    near = (seconds > 0) & (seconds < 2.0)
    speeds = metres[near] / seconds[near]
    moving = speeds > _STILL_M_S
    beside = [
        float(np.linalg.norm(frame.T_world_ego[0, :3, 3] - e.frame.T_world_ego[0, :3, 3]))
        for e in entries
        for _, frame in e.neighbours
        if e.frame.T_world_ego is not None and frame.T_world_ego is not None
    ]
    return MotionFacts(
        distance_m=float(metres[near].sum()),
        speed_m_s=float(np.median(speeds[moving])) if moving.any() else 0.0,
        still_share=float((seconds[near] * ~moving).sum() / max(seconds[near].sum(), 1e-9)),
        neighbour_m=float(np.median(beside)) if beside else 0.0,
        in_gaps=sum(source.in_gap(entry) for entry in entries),
    )


def _lidar_facts(source: BagSource, topic: str, some: Sequence[BagEntry], views: Cameras) -> LidarFacts:
    entry = source.index.topics[topic]
    steps = np.diff(np.unique(entry.stamps_ns)) * 1e-9
    in_view: dict[str, int] = {}
    for each in some:
        depths = lidar_depths(source, topic, each, views)
        if depths is not None:
            in_view = {name: len(d) for name, d in zip(each.cameras.names, depths, strict=True)}
            break
    return LidarFacts(topic, len(entry), 1.0 / float(np.median(steps)) if len(steps) else 0.0, in_view)


# ---- words ---------------------------------------------------------------------------------------------------------


def describe(found: Inspection) -> str:
    """The inspection as text, with what each finding means for training."""
    lines = [f"{found.name}: {found.seconds:.1f} s, {len(found.cameras)} cameras, {found.samples} samples for training"]
    for camera in found.cameras:
        lines.append(
            f"  {camera.name}: {camera.images} images of {camera.size[0]}x{camera.size[1]} at {camera.rate_hz:.1f} Hz "
            f"(jitter {camera.jitter_ms:.1f} ms), {camera.lens}, {camera.fov_deg:.0f} deg wide, "
            f"{camera.height_m:.2f} m high, recorded {camera.delay_ms:.0f} ms after its stamp"
        )
        if camera.gaps:
            lines.append(f"    {camera.gaps} gaps, the longest {camera.longest_gap_s:.2f} s")
        if camera.lost_share > 0.1:
            lines.append(f"    its rectified view leaves out {100 * camera.lost_share:.0f} % of the pixels")
        if found.sync.sets and camera.brightness < 20:
            lines.append(f"    it is dark: mean grey level {camera.brightness:.0f} of 255; is the cap on?")
    lines += _describe_sync(found) + _describe_overlap(found) + _describe_motion(found)
    for lidar in found.lidars:
        seen = ", ".join(f"{name} {count}" for name, count in lidar.in_view.items())
        lines.append(
            f"lidar {lidar.topic}: {lidar.scans} scans at {lidar.rate_hz:.1f} Hz; points in view: "
            f"{seen or 'no scan within 60 ms of an image'}"
        )
        blind = [name for name, count in lidar.in_view.items() if count < 20]
        if blind:
            lines.append(f"  {', '.join(blind)}: hardly a point in view; check their mounting in /tf_static")
    if found.labelled:
        lines.append(f"2D labels: {found.labelled} samples have them")
    lines += [
        f"replay: {topic} was stored without the QoS of latched topics, so `ros2 bag play` sends it to those only who "
        "listen already; bag_player latches it all the same"
        for topic in found.unlatched
    ]
    return "\n".join([*lines, *(f"problem: {problem}" for problem in found.problems)])


def _describe_sync(found: Inspection) -> list[str]:
    sync = found.sync
    share = sync.sets / max(sync.anchor_images, 1)
    lines = [
        f"sync: {sync.sets} sets of {sync.anchor_images} images of {sync.anchor} ({100 * share:.1f} %), images within "
        f"{sync.spread_ms:.1f} ms of it (worst {sync.worst_spread_ms:.1f}); it is the anchor, --cameras names another "
        "first"
    ]
    delays = [camera.delay_ms for camera in found.cameras]
    if max(delays) - min(delays) > 100.0:
        apart = ", ".join(f"{camera.name} {camera.delay_ms:.0f} ms" for camera in found.cameras)
        lines.append(f"  time from stamp to recording differs: {apart}; do the cameras' clocks agree?")
    if share < 0.95:
        missing = ", ".join(f"{name} {count} times" for name, count in sync.missing.most_common())
        lines.append(f"  missing: {missing or 'none'}; a larger data.bag.slop may help where rates differ")
    return lines


def _describe_overlap(found: Inspection) -> list[str]:
    if not found.overlaps:
        return [
            "overlap: none. Stage 1 cannot learn metric scale from this rig; use odometry (stage: gsv with "
            "gsv.ego_motion=sensor) or turn cameras so that neighbours share a part of their views"
        ]
    lines = [
        f"overlap: {' and '.join(each.names)}, {100 * each.share:.1f} % of their pixels, {each.baseline:.2f} m apart"
        for each in found.overlaps
    ]
    best = max(found.overlaps, key=lambda each: each.share * each.baseline)
    lines.append(f"  metric scale comes from these; most from {' and '.join(best.names)}")
    if found.alone:
        lines.append(f"  {', '.join(found.alone)}: no overlap; their scale comes from the shared motion only")
    return lines


def _describe_motion(found: Inspection) -> list[str]:
    if not found.samples:
        return []
    if found.motion is None:
        low, usual = found.change
        why = "odometry is not used, its clock is another" if found.other_clock else "no odometry in the bag"
        return [
            f"motion: {why}; the anchor's images change by {usual:.1f} grey levels to the next (a "
            f"tenth by less than {low:.1f}); data.bag.least_change={0.3 * usual:.1f} would leave out standing still"
        ]
    motion = found.motion
    lines = [
        f"motion: {motion.distance_m:.1f} m, {motion.speed_m_s:.2f} m/s while moving, {100 * motion.still_share:.0f} % "
        f"of the time still; {100 * motion.neighbour_m:.1f} cm to a neighbour"
    ]
    if motion.in_gaps:
        lines.append(f"  {motion.in_gaps} moments lie in gaps of odometry: they have no pose, training leaves them out")
    if motion.neighbour_m < 0.02 and motion.speed_m_s > 0:
        wanted = 0.1 / max(motion.speed_m_s, 1e-6)
        lines.append(f"  too little to see depth by; try data.bag.neighbour_time={wanted:.2f} (s)")
    return lines
