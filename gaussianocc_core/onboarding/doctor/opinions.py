# SPDX-License-Identifier: Apache-2.0
"""From what was measured to what is said: which size is worth a look, which is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry.plausibility import BODY_FRAME, FAR_AWAY, IDENTITY, PRINCIPAL_POINT, Doubt
from gaussianocc_core.onboarding.doctor.bundle import Bundle
from gaussianocc_core.onboarding.doctor.cross import CrossMatches
from gaussianocc_core.onboarding.doctor.findings import LOOK, ODOMETRY, WRONG, Finding
from gaussianocc_core.onboarding.doctor.ground import Ground, Length
from gaussianocc_core.onboarding.doctor.readings import Reading
from gaussianocc_core.onboarding.doctor.sampling import Sampled
from gaussianocc_core.onboarding.doctor.temporal import Delay
from gaussianocc_core.types import Cameras

_DOUBTS_WRONG = (IDENTITY, PRINCIPAL_POINT, BODY_FRAME, FAR_AWAY)
_LOOK_TURN, _WRONG_TURN = np.radians(0.5), np.radians(2.0)
_LOOK_RELATIVE, _WRONG_RELATIVE = np.radians(1.5), np.radians(2.5)  # of cameras that nothing else is known of
_LOOK_ABOUT_LINE = np.radians(0.7)
_COMMON_TURN = np.radians(3.0)  # of all cameras together against odometry
_SURE = 3.0  # times the error
_LEAST_STEPS = 3
_LOOK_DELAY, _WRONG_DELAY = 0.06, 0.12  # s
_LOOK_LENGTH, _WRONG_LENGTH = np.log(1.2), np.log(1.5)
_LOOK_HEIGHT, _WRONG_HEIGHT = np.log(1.45), np.log(1.9)
_GROUND_SHARE, _PITCH = 0.6, np.radians(3.0)
_FASTEST = 70.0  # m/s


def from_doubt(doubt: Doubt) -> Finding:
    reason, _, fix = doubt.text.rpartition("; ")
    verdict = WRONG if doubt.kind in _DOUBTS_WRONG else LOOK
    return Finding(
        doubt.camera, verdict, doubt.kind, reason or doubt.text, float("nan"), "", fix or "check its calibration"
    )


def from_reading(names: Sequence[str], reading: Reading, said: set[tuple[str, str]]) -> list[Finding]:
    found = []
    for k, each in enumerate(reading.cameras):
        if each.calibration >= 0:
            other = names[each.calibration]
            found.append(
                Finding(
                    names[k],
                    WRONG,
                    "swapped",
                    f"its images are those of {other} by what they share with the others and how they move",
                    float("nan"),
                    "",
                    f"swap the topics, cables or frames of {names[k]} and {other}",
                )
            )
        elif each.fault and not ("axes of a body" in each.fault and (names[k], BODY_FRAME) in said):
            size, unit = (each.factor, "times") if each.factor != 1.0 else (float("nan"), "")
            kind = "focal length" if each.factor != 1.0 else "mirrored" if each.mirrored else "orientation"
            found.append(Finding(names[k], WRONG, kind, each.fault, size, unit, each.fix))
    if reading.odometry.fault:
        found.append(Finding(ODOMETRY, WRONG, "axes", reading.odometry.fault, float("nan"), "", reading.odometry.fix))
    return found


def too_fast(sampled: Sampled) -> Finding | None:
    speeds = []
    for moment in sampled.moments:
        if moment.later and moment.now[0].T_world_ego is not None and moment.later[0].T_world_ego is not None:
            metres = float(np.linalg.norm(moment.later[0].T_world_ego[:3, 3] - moment.now[0].T_world_ego[:3, 3]))
            speeds.append(metres / max((moment.later[0].stamp_ns - moment.now[0].stamp_ns) * 1e-9, 1e-6))
    speed = float(np.median(speeds)) if speeds else 0.0
    if speed < _FASTEST:
        return None
    return Finding(
        ODOMETRY,
        WRONG,
        "length",
        f"it drives at {speed:.0f} m/s, faster than robots do",
        speed,
        "m/s",
        f"give it in metres; in millimetres it would be {speed / 1000:.2f} m/s",
    )


def from_delay(delay: Delay | None, notes: list[str]) -> Finding | None:
    if delay is None:
        notes.append("delay of odometry: cannot be known, at too few moments both see how it turns")
        return None
    late, error = delay.seconds, max(delay.error, 0.005)
    if not delay.sure and delay.known > _LOOK_DELAY:
        notes.append(
            f"delay of odometry: cannot be known better than {1000 * delay.known:.0f} ms: 200 ms change its turns by "
            f"{np.degrees(delay.shown):.2g} degrees, in the images turns err by {np.degrees(delay.noise):.2g}; drive "
            "curves, start and stop"
        )
    if not delay.sure or abs(late) < _LOOK_DELAY:
        return None
    ms = 1000 * late
    return Finding(
        ODOMETRY,
        WRONG if abs(late) >= _WRONG_DELAY else LOOK,
        "delay",
        f"its stamps are {abs(ms):.0f} ms (+- {1000 * error:.0f}) {'later' if late > 0 else 'earlier'} than those of "
        "the images that show the same turns and starts",
        ms,
        "ms",
        "stamp images when they are exposed, not when they arrive, and odometry when it is measured",
    )


def from_lengths(names: Sequence[str], length: Length | None, grounds: Sequence[Ground]) -> list[Finding]:
    found = []
    by_ground = [
        np.log(ground.height / ground.by_tf) for ground in grounds if ground.by_tf > 0.1 and ground.share > 0.45
    ]
    of_ground = float(np.median(by_ground)) if by_ground else 0.0
    agree = bool(by_ground) and np.abs(np.array(by_ground) - of_ground).max() < 0.5
    log_factor, error, by = of_ground, 0.1, "the height of the cameras over the ground they see"
    limits = (_LOOK_HEIGHT, _WRONG_HEIGHT)
    if length is not None:
        log_factor, error, by = (
            np.log(length.factor),
            length.error,
            f"{length.matches} features that two cameras see at once",
        )
        limits = (_LOOK_LENGTH, _WRONG_LENGTH)
        agree = True
    if agree and abs(log_factor) > max(limits[0], _SURE * error):
        factor = float(np.exp(log_factor))
        verdict = WRONG if abs(log_factor) > limits[1] else LOOK
        found.append(
            Finding(
                ODOMETRY,
                verdict,
                "length",
                f"it is {factor:.3g} times as long as by {by}",
                factor,
                "times",
                _say_unit(factor) + "or, if the cameras' frames or heights are wrong, mend those",
            )
        )
        return found
    for ground in grounds:
        if ground.by_tf <= 0.1 or ground.share < _GROUND_SHARE:
            continue
        ratio = np.log(ground.height / ground.by_tf)
        if abs(ratio) > _LOOK_HEIGHT:
            found.append(
                Finding(
                    names[ground.camera],
                    LOOK,
                    "height",
                    f"it stands {ground.height:.2f} m over the ground that it sees, {ground.by_tf:.2f} m over z = 0 by "
                    "TF",
                    ground.height - ground.by_tf,
                    "m",
                    "check its height in TF, and whether z = 0 of the base frame is the ground",
                )
            )
    return found


def _say_unit(factor: float) -> str:
    for name, size in (("millimetres", 1000.0), ("centimetres", 100.0), ("feet", 3.281), ("inches", 39.37)):
        if abs(np.log(factor / size)) < 0.15:
            return f"it is in {name}: give it in metres; "
    return "check wheel radius and scale of odometry; "


def from_bundle(cameras: Cameras, bundle: Bundle, cross: Sequence[CrossMatches], notes: list[str]) -> list[Finding]:
    names = cameras.names
    if not bundle.by_motion:
        return _from_pairs(cameras, bundle, cross, notes)
    found = []
    judged = [k for k, each in enumerate(bundle.cameras) if each.steps >= _LEAST_STEPS]
    if not judged:
        return _from_pairs(cameras, bundle, cross, notes)
    turns = np.array([bundle.cameras[k].turn for k in judged])
    errors = np.array([bundle.cameras[k].error for k in judged])
    # What all share belongs to the frame of odometry, not to a camera: that of the camera that is nearest to all.
    apart = [
        sum(np.linalg.norm(known(turn - other, np.hypot(e, f))) for other, f in zip(turns, errors, strict=True))
        for turn, e in zip(turns, errors, strict=True)
    ]
    order = sorted(range(len(judged)), key=lambda n: (round(apart[n], 4), np.linalg.norm(known(turns[n], errors[n]))))
    common, common_error = turns[order[0]], errors[order[0]]
    shared = known(common, common_error)
    if np.linalg.norm(shared) > _COMMON_TURN:
        yaw, pitch, _ = np.degrees(shared[::-1])
        found.append(
            Finding(
                ODOMETRY,
                LOOK,
                "frame",
                f"by all cameras the robot drives {np.degrees(np.linalg.norm(shared)):.1f} degrees beside where its "
                f"base frame points (yaw {yaw:+.1f}, pitch {pitch:+.1f})",
                float(np.degrees(np.linalg.norm(shared))),
                "degrees",
                "check the rotation between the base frame and that of odometry",
            )
        )
    for n, k in enumerate(judged):
        off = known(turns[n] - common, errors[n])
        size = float(np.linalg.norm(off))
        if size > _LOOK_TURN:
            found.append(_rotation_finding(names[k], off, size, WRONG if size > _WRONG_TURN else LOOK))
    for k in range(len(names)):
        if k not in judged:
            notes.append(
                f"{names[k]}: too few moments at which it shows how it moves; only by what it shares with others"
            )
    rest = [k for k in range(len(names)) if k not in judged]
    if any(each.kind == "rotation" for each in found):  # it would be held against its neighbours
        notes += [f"{names[k]}: its rotation: mend that of the others first" for k in rest]
    else:  # neighbours alone, with little motion, are no proof
        found += [replace(each, verdict=LOOK) for each in _from_pairs(cameras, bundle, cross, [], rest)]
    return found


def known(turn: Float[np.ndarray, " 3"], error: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    """The components that are larger than their errors."""
    return np.where(np.abs(turn) > _SURE * np.maximum(error, np.radians(0.03)), turn, 0.0)


def _from_pairs(
    cameras: Cameras,
    bundle: Bundle,
    cross: Sequence[CrossMatches],
    notes: list[str],
    only: Sequence[int] | None = None,
) -> list[Finding]:
    """By cameras that see the same, without knowing which of two is off: the one that is off from most is blamed."""
    names, places = cameras.names, cameras.T_ego_cam[:, :3, 3].detach().cpu().double().numpy()
    off: dict[tuple[int, int], np.ndarray] = {}
    linked: set[int] = set()
    for matches in cross:
        i, j = matches.cameras
        if min(bundle.cameras[i].matches, bundle.cameras[j].matches) == 0 or not len(matches):
            continue
        linked |= {i, j}
        turn, error = bundle.between(i, j)
        sure = known(turn, error)
        least = _LOOK_RELATIVE if only is None else _WRONG_RELATIVE  # what one neighbour says of a camera is rough
        # About the line between both, a turn shows at once: nothing is as near or as far as to look like it.
        line = (places[j] - places[i]) / max(float(np.linalg.norm(places[j] - places[i])), 1e-3)
        plain = only is None and abs(float(sure @ line)) > _LOOK_ABOUT_LINE
        if (plain or np.linalg.norm(sure) > least) and (only is None or {i, j} & set(only)):
            off[i, j] = sure
    if only is None:
        for k in range(len(names)):
            if k not in linked:
                notes.append(f"{names[k]}: it shares too little with other cameras")
        if linked:
            notes.append(
                f"turns of cameras towards each other by less than {np.degrees(_LOOK_RELATIVE):.1f} degrees: things "
                "look nearer by them, and only motion with odometry tells that apart; drive"
            )
    found = []
    while off:
        counts = {k: sum(k in pair for pair in off) for pair in off for k in pair}
        most = max(counts.values())
        worst_ones = [k for k, count in counts.items() if count == most and (only is None or k in only)] or list(counts)
        if most > 1 or len(worst_ones) == 1:
            k = max(worst_ones, key=lambda each: max(float(np.linalg.norm(off[p])) for p in off if each in p))
            pair = max((p for p in off if k in p), key=lambda p: float(np.linalg.norm(off[p])))
            turn = off[pair] if pair[1] == k else -off[pair]
            size = float(np.linalg.norm(turn))
            found.append(_rotation_finding(names[k], turn, size, WRONG if size > _WRONG_RELATIVE else LOOK))
            off = {p: v for p, v in off.items() if k not in p}
            continue
        pair = max(off, key=lambda p: float(np.linalg.norm(off[p])))
        size = float(np.linalg.norm(off[pair]))
        for k, other in (pair, pair[::-1]):
            found.append(
                _rotation_finding(
                    names[k],
                    off[pair] * (1 if k == pair[1] else -1),
                    size,
                    LOOK,
                    f" against {names[other]}, or that one is",
                )
            )
        off = {p: v for p, v in off.items() if not set(p) & set(pair)}
    return found


def _rotation_finding(name: str, turn: np.ndarray, size: float, verdict: str, against: str = "") -> Finding:
    roll, pitch, yaw = np.degrees(turn)
    return Finding(
        name,
        verdict,
        "rotation",
        f"its frame is turned by {np.degrees(size):.1f} degrees{against} (to mend it: yaw {yaw:+.1f}, pitch "
        f"{pitch:+.1f}, roll {roll:+.1f} in the base frame)",
        float(np.degrees(size)),
        "degrees",
        "check its mounting, or calibrate it again; a proposal is given where it is known well",
    )
