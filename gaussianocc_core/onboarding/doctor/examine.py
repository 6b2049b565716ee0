# SPDX-License-Identifier: Apache-2.0
"""The doctor's visit: images in, one verdict per camera out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gaussianocc_core.data.bag import BagEntry, BagSource
from gaussianocc_core.geometry.plausibility import FAR_AWAY, Doubt
from gaussianocc_core.geometry.transforms import matrix_to_quat
from gaussianocc_core.onboarding.doctor.bundle import LEAST_CROSS, Bundle, solve
from gaussianocc_core.onboarding.doctor.cross import CrossMatches, find_cross, in_ego, merge
from gaussianocc_core.onboarding.doctor.findings import (
    FINE,
    ODOMETRY,
    WRONG,
    CameraVerdict,
    Diagnosis,
    Finding,
    Proposal,
    Score,
    worst,
)
from gaussianocc_core.onboarding.doctor.ground import Ground, compare_lengths, find_grounds
from gaussianocc_core.onboarding.doctor.image_facts import ImageFacts
from gaussianocc_core.onboarding.doctor.image_opinions import from_images
from gaussianocc_core.onboarding.doctor.images import look_at_images
from gaussianocc_core.onboarding.doctor.opinions import (
    from_bundle,
    from_delay,
    from_doubt,
    from_lengths,
    from_reading,
    known,
    too_fast,
)
from gaussianocc_core.onboarding.doctor.readings import AS_IT_IS, Evidence, Reading, find_reading
from gaussianocc_core.onboarding.doctor.rotations import angles_between
from gaussianocc_core.onboarding.doctor.sampling import Sampled, sample
from gaussianocc_core.onboarding.doctor.scores import score
from gaussianocc_core.onboarding.doctor.temporal import (
    LEAST_PAIRS,
    Delay,
    PoseAt,
    Step,
    estimate_delay,
    find_steps,
    find_strip_steps,
)
from gaussianocc_core.types import Cameras

_PLACELESS = (FAR_AWAY,)  # doubts about a camera that nothing is compared with
_AT_ONCE, _MOVED = 1e-3, np.radians(0.15)  # s, and what may move in an image between the times of two cameras
_AS_WELL = 0.7  # of what a large fault explains


@dataclass(frozen=True)
class Visit:
    """What was looked at and found, for the picture."""

    sampled: Sampled
    steps: tuple[Step, ...]
    cross: tuple[CrossMatches, ...]
    images: tuple[ImageFacts, ...]
    grounds: tuple[Ground, ...]
    diagnosis: Diagnosis
    delay: Delay | None = None  # of odometry, where it could be looked for


def examine(
    source: BagSource, entries: Sequence[BagEntry], on_progress: Callable[[float], None] | None = None
) -> Visit:
    """entries: `source.entries()`. Some of their images are read; on_progress is told the share that is done."""
    sampled = sample(entries, source.cameras, None if on_progress is None else lambda share: on_progress(0.8 * share))
    visit = judge(source.index.name, sampled, source.T_world_ego, source.doubts)
    if on_progress is not None:
        on_progress(1.0)
    return visit


def judge(name: str, sampled: Sampled, pose_at: PoseAt, doubts: Sequence[Doubt] = ()) -> Visit:
    """pose_at: T_world_ego by odometry at a stamp (ns), None where there is none."""
    cameras = sampled.cameras
    notes: list[str] = []
    found = [from_doubt(doubt) for doubt in doubts]
    if not sampled.moments:
        notes.append("no set of images of all cameras could be read")
        return Visit(sampled, (), (), (), (), _diagnose(name, sampled, found, (), (), notes, ()))
    posed = any(shot.T_world_ego is not None for moment in sampled.moments for shot in moment.now)
    steps = tuple(find_steps(sampled))
    # A camera whose calibration or images are nonsense would speak against the others: they are judged without it.
    images = look_at_images(sampled, cameras.T_ego_cam.detach().cpu().double().numpy())
    of_images = from_images(cameras, images)
    found += of_images
    out = {cameras.names.index(doubt.camera) for doubt in doubts if doubt.kind in _PLACELESS}
    out |= {cameras.names.index(each.about) for each in of_images if each.verdict == WRONG}
    steps = tuple(step for step in steps if step.camera not in out)
    cross = _without(find_cross(sampled, posed), out)
    scores = score(sampled, steps, cross, images)

    fast = too_fast(sampled) if posed else None
    if fast is not None:  # nothing can be placed by it
        found.append(fast)
        posed, cross = False, _without(find_cross(sampled, poses=False), out)
    if len(out) == len(cameras):
        notes.append("anything else: mend what is wrong with the cameras first, and look again")
        return Visit(sampled, steps, cross, images, (), _diagnose(name, sampled, found, steps, cross, notes, scores))
    bundle = solve(cameras, steps, cross, pose_at if posed else None)
    mended = bundle.corrected(cameras)
    reading = _read(sampled, steps, cross, pose_at if posed else None, mended, out)
    found += from_reading(cameras.names, reading, {(each.about, each.kind) for each in found})
    upset = fast is not None or reading.odometry.fault != "" or any(each is not AS_IT_IS for each in reading.cameras)

    together = cross
    if not posed:  # small turns are judged by what both see at once, large faults by all
        together = _at_one_time(sampled, steps, cross, notes)
        bundle = solve(cameras, steps, together, None)
        mended = bundle.corrected(cameras)
    bad = {k for k, camera in enumerate(cameras.names) if any(f.about == camera and f.verdict == WRONG for f in found)}
    if bad and not upset:
        cross, together = _without(cross, bad), _without(together, bad)
        steps = tuple(step for step in steps if step.camera not in bad)
        bundle = solve(cameras, steps, together, pose_at if posed else None)
        mended = bundle.corrected(cameras)
        notes += [f"{cameras.names[k]}: its rotation: mend what is wrong with it first" for k in sorted(bad)]
    grounds: tuple[Ground, ...] = ()
    delay = None
    if posed:
        # A camera that is wrong would be taken for odometry that is late.
        right = {k for k, each in enumerate(reading.cameras) if each is AS_IT_IS} - bad
        of_right = [step for step in (*steps, *find_strip_steps(sampled)) if step.camera in right]
        delay = estimate_delay(of_right, cameras, pose_at)
        late = from_delay(delay, notes) if not reading.odometry.fault else None
        if late is not None:
            found.append(late)
            upset = True
        if not upset:
            grounds = find_grounds(steps, mended, pose_at)
            lengths = from_lengths(cameras.names, compare_lengths(steps, cross, mended, pose_at), grounds)
            found += lengths
            upset = any(each.about == ODOMETRY and each.verdict == WRONG for each in lengths)
    elif fast is None:
        notes.append(
            "no odometry with the images' clock: sign, axes, length and delay of it, and each camera by its motion"
        )
    if upset:
        notes.append("small errors of rotations: mend what is wrong first, and look again")
    else:
        wrong = {cameras.names[k] for k in bad}
        found += [each for each in from_bundle(cameras, bundle, together, notes) if each.about not in wrong]
    proposals = _propose(sampled, None if upset else bundle, found)
    diagnosis = _diagnose(name, sampled, found, steps, cross, notes, scores, proposals)
    return Visit(sampled, steps, cross, images, grounds, diagnosis, delay)


def _without(cross: Sequence[CrossMatches], cameras: Collection[int]) -> tuple[CrossMatches, ...]:
    return tuple(each for each in cross if not set(each.cameras) & set(cameras))


def _at_one_time(
    sampled: Sampled, steps: Sequence[Step], cross: Sequence[CrossMatches], notes: list[str]
) -> tuple[CrossMatches, ...]:
    """Without odometry: the matches of moments at which nothing moves noticeably between the times of both images."""
    rates: dict[tuple[int, int], float] = {}  # (camera, moment) -> rad/s, of what moves most in its image
    for step in steps:
        seconds = max((step.stamps_ns[1] - step.stamps_ns[0]) * 1e-9, 1e-3)
        rates[step.camera, step.moment] = float(np.percentile(angles_between(*step.rays), 90)) / seconds
    found = []
    for matches in cross:
        pair = matches.cameras
        kept = np.zeros(len(matches), bool)
        latest = 0.0
        for n, moment in enumerate(sampled.moments):
            first, second = (moment.now[k].stamp_ns for k in pair)
            apart = abs(second - first) * 1e-9
            of_both = [rates[k, n] for k in pair if (k, n) in rates]
            if apart < _AT_ONCE or (of_both and max(of_both) * apart < _MOVED):
                kept |= matches.moments == n
            latest = max(latest, apart)
        if len(matches) >= LEAST_CROSS > kept.sum():
            a, b = (sampled.cameras.names[k] for k in pair)
            notes.append(
                f"{a} against {b}: their images are up to {1000 * latest:.0f} ms apart, and without odometry it is not "
                "known how the robot moves meanwhile: small turns"
            )
        found.append(
            replace(
                matches,
                a=matches.a[kept],
                b=matches.b[kept],
                T_ego=matches.T_ego[kept],
                moments=matches.moments[kept],
                indices=matches.indices[kept],
            )
        )
    return tuple(found)


def _read(
    sampled: Sampled,
    steps: Sequence[Step],
    cross: Sequence[CrossMatches],
    pose_at: PoseAt | None,
    mended: Cameras,
    out: Collection[int],
) -> Reading:
    """The reading that explains the images; as it is, if turning the cameras a little explains as much. out: cameras
    that say nothing."""
    mirrored = _without(find_cross(sampled, pose_at is not None, mirrored=True), out)
    every = merge(cross, mirrored)
    evidence = Evidence.gather(sampled.cameras, steps, every, pose_at)
    reading, gain = find_reading(evidence)
    as_it_is = Reading((AS_IT_IS,) * len(sampled.cameras))
    small = Evidence.gather(mended, steps, every, pose_at).score(as_it_is) - evidence.score(as_it_is)
    return as_it_is if small > _AS_WELL * gain else reading


# ---- the whole -----------------------------------------------------------------------------------------------------


def _propose(sampled: Sampled, bundle: Bundle | None, found: Sequence[Finding]) -> tuple[Proposal, ...]:
    """For small errors of rotations that are known well."""
    if bundle is None:
        return ()
    wrong = {each.about for each in found if each.kind == "rotation"}
    result = []
    rig = bundle.corrected(sampled.cameras).T_ego_cam.double().numpy()
    for k, name in enumerate(sampled.cameras.names):
        each = bundle.cameras[k]
        if name not in wrong:
            continue
        turn = known(each.turn, each.error)
        error = float(np.degrees(np.linalg.norm(np.where(turn != 0, each.error, 0.0))))
        if not turn.any() or error > 0.5:
            continue
        roll, pitch, yaw = (float(value) for value in np.degrees(turn))
        w, x, y, z = matrix_to_quat(rig[k, :3, :3]).tolist()
        result.append(Proposal(name, (yaw, pitch, roll), error, (x, y, z, w)))
    return tuple(result)


def _diagnose(
    name: str,
    sampled: Sampled,
    found: Sequence[Finding],
    steps: Sequence[Step],
    cross: Sequence[CrossMatches],
    notes: Sequence[str],
    scores: Sequence[Score],
    proposals: Sequence[Proposal] = (),
) -> Diagnosis:
    verdicts = []
    T = sampled.cameras.T_ego_cam.detach().cpu().double().numpy()
    for k, camera in enumerate(sampled.cameras.names):
        own = tuple(each for each in found if each.about == camera)
        moments = sum(step.camera == k for step in steps)
        shared, off = 0, []
        for matches in cross:
            if k in matches.cameras and len(matches):
                placed = in_ego(matches, T[matches.cameras[0]], T[matches.cameras[1]])
                kept = placed.consistent
                shared += int(kept.sum())
                off.append(np.abs(placed.off[kept]))
        seen = f"its motion at {moments} moments, {shared} features shared with others"
        if shared:
            pixels = float(np.median(np.concatenate(off))) * float(sampled.cameras.intrinsics[k, 0, 0])
            seen += f", {pixels:.1f} px off their epipolar lines"
        if moments < LEAST_PAIRS and shared < LEAST_CROSS:
            seen = "its images; they show too little to check its calibration by"
        verdicts.append(CameraVerdict(camera, worst([each.verdict for each in own]) if own else FINE, own, seen))
    names = set(sampled.cameras.names)
    others = tuple(each for each in found if each.about not in names)
    return Diagnosis(name, tuple(verdicts), others, tuple(scores), tuple(proposals), tuple(notes), len(sampled.moments))
