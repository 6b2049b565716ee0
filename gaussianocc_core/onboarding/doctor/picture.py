# SPDX-License-Identifier: Apache-2.0
"""What the doctor saw: features that cameras share with their epipolar lines and errors, motion, and the horizon."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.onboarding.doctor.cross import in_ego
from gaussianocc_core.onboarding.doctor.examine import Visit
from gaussianocc_core.onboarding.doctor.findings import FINE, LOOK
from gaussianocc_core.viz.text import Label, draw_labels

_WIDTH = 640  # px, of a camera
_GAP, _HEAD = 8, 34
_COLORS = {FINE: (60, 220, 120), LOOK: (250, 190, 60)}
_WRONG_RGB = (240, 80, 70)
_HORIZON_RGB = (90, 200, 255)
_LINE_RGB = (210, 120, 255)
_STROKE_RGB, _FITS_RGB = (120, 150, 120), (60, 220, 90)
_FOOT = 76  # px, of the legend
_LEGEND = (
    ("blue: horizon by TF", _HORIZON_RGB),
    ("strokes: how features move", _STROKE_RGB),
    ("violet: where another camera says that they lie", _LINE_RGB),
    ("green dots: they do", _FITS_RGB),
    ("red dots: a degree off", _WRONG_RGB),
)
_LONG = np.radians(6.0)  # of an epipolar line, to either side
_FULL_RED = np.radians(1.0)
_MOST_LINES = 14


def doctor_picture(visit: Visit) -> UInt8[np.ndarray, "H W 3"]:
    """A cell per camera: its image unrolled, the horizon by TF, how features move, and of those that another camera
    shows as well the line on which they should lie (green: they do, to red: a degree off). A legend below."""
    sampled = visit.sampled
    names = sampled.cameras.names
    if not sampled.moments:
        return draw_labels(np.full((60, _WIDTH, 3), 20, np.uint8), [Label("no images", 8, 20, 18)])
    n = _best_moment(visit)
    columns = 2 if len(names) > 1 else 1
    cells = [_cell(visit, k, n) for k in range(len(names))]
    heights = [
        max(cell.shape[0] for cell in cells[row : row + columns]) + _HEAD + _GAP
        for row in range(0, len(cells), columns)
    ]
    canvas = np.full(
        (sum(heights) + (_FOOT if columns == 1 else _FOOT // 2), columns * (_WIDTH + _GAP), 3), (13, 16, 22), np.uint8
    )
    labels = []
    for k, cell in enumerate(cells):
        row, column = divmod(k, columns)
        top, left = sum(heights[:row]) + _HEAD, column * (_WIDTH + _GAP)
        canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        verdict = visit.diagnosis.cameras[k]
        color = _COLORS.get(verdict.verdict, _WRONG_RGB)
        kinds = ", ".join(each.kind for each in verdict.findings)
        labels.append(
            Label(f"{names[k]}: {verdict.verdict}{f' ({kinds})' if kinds else ''}", left + 6, top - 26, 18, color)
        )
    left, top = 6, sum(heights) + 6
    for text, rgb in _LEGEND:
        width = 8 * len(text) + 24
        if left > 6 and left + width > canvas.shape[1]:
            left, top = 6, top + 22
        labels.append(Label(text, left, top, 15, rgb))
        left += width
    return draw_labels(canvas, labels)


def _best_moment(visit: Visit) -> int:
    """That with most to show."""
    counts = np.zeros(len(visit.sampled.moments))
    for matches in visit.cross:
        np.add.at(counts, matches.moments, 1.0)
    for step in visit.steps:
        counts[step.moment] += 0.2 * len(step.rays[0])
    return int(counts.argmax())


def _cell(visit: Visit, k: int, n: int) -> UInt8[np.ndarray, "h w 3"]:
    shot, cylinder = visit.sampled.moments[n].now[k], visit.sampled.cylinders[k]
    factor = _WIDTH / shot.grey.shape[1]
    grey = cv2.resize(shot.grey, (_WIDTH, max(1, round(shot.grey.shape[0] * factor))), interpolation=cv2.INTER_AREA)
    cell = np.repeat((grey * 0.7).astype(np.uint8)[..., None], 3, axis=2)
    R = visit.sampled.cameras.T_ego_cam[k, :3, :3].detach().cpu().double().numpy()

    def draw(rays: Float[np.ndarray, "P 3"], color: tuple[int, int, int], width: int = 1) -> None:
        places = (cylinder.places(rays) + 0.5) * factor
        for a, b in pairwise(places):
            if np.linalg.norm(a - b) < _WIDTH / 4 and np.abs(np.concatenate([a, b])).max() < 8 * _WIDTH:
                cv2.line(cell, _pixel(a), _pixel(b), color, width, cv2.LINE_AA)

    around = np.linspace(-np.pi, np.pi, 721)
    draw(np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], axis=1) @ R, _HORIZON_RGB)
    for step in visit.steps:
        if step.camera == k and step.moment == n:
            for a, b in zip(*(cylinder.places(rays) for rays in step.rays), strict=True):
                cv2.line(cell, _pixel(a * factor), _pixel(b * factor), _STROKE_RGB, 1, cv2.LINE_AA)
    _draw_shared(visit, k, n, cell, draw, factor)
    return cell


def _draw_shared(visit: Visit, k: int, n: int, cell: np.ndarray, draw, factor: float) -> None:
    """Where this camera shows what others do, and the epipolar lines of what those see."""
    T = visit.sampled.cameras.T_ego_cam.detach().cpu().double().numpy()
    cylinder = visit.sampled.cylinders[k]
    for matches in visit.cross:
        if k not in matches.cameras or not len(matches):
            continue
        i, j = matches.cameras
        placed = in_ego(matches, T[i], T[j])
        rows = np.flatnonzero(placed.agree(np.radians(3.5)) & (matches.moments == n)).tolist()
        own, other, sign = (placed.a, placed.b, -1.0) if k == i else (placed.b, placed.a, 1.0)
        lines = set(rows[:: max(1, len(rows) // _MOST_LINES)])
        for row in rows:
            off = abs(float(placed.off[row]))
            share = min(1.0, off / _FULL_RED)
            color = (int(60 + 180 * share), int(220 - 140 * share), 90)
            if row in lines:
                t = sign * placed.t[row]
                across = t - (t @ other[row]) * other[row]
                across /= max(float(np.linalg.norm(across)), 1e-9)
                angles = np.linspace(-_LONG, _LONG, 9)[:, None]
                draw((np.cos(angles) * other[row] + np.sin(angles) * across) @ _axes(matches, T, k, row), _LINE_RGB)
            place = (cylinder.places((own[row] @ _axes(matches, T, k, row))[None])[0] + 0.5) * factor
            cv2.circle(cell, _pixel(place), 4, color, -1, cv2.LINE_AA)


def _axes(matches, T: np.ndarray, k: int, row: int) -> np.ndarray:
    """From the ego frame of the first image to the axes of camera k, for rows of directions."""
    R = T[k, :3, :3]
    return R if k == matches.cameras[0] else matches.T_ego[row, :3, :3] @ R


def _pixel(place: np.ndarray) -> tuple[int, int]:
    return int(round(float(place[0]))), int(round(float(place[1])))
