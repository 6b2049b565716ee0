# SPDX-License-Identifier: Apache-2.0
"""Findings as one HTML file that needs nothing beside it but the video."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.evaluation.report import format_report
from gaussianocc_core.reporting.marks import GREEN, GREY, RED, YELLOW, Mark, verdict
from gaussianocc_core.reporting.run import Findings, Shown, ring_that_tells

_COLORS = {GREEN: "#2e9e5b", YELLOW: "#d99a1c", RED: "#d13f3f", GREY: "#7d8794"}
_STYLE = """
body{margin:0;background:#0d1016;color:#e6eaf0;font:15px/1.55 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:38px 0 12px}p{margin:6px 0}
.muted{color:#8b96a6}table{border-collapse:collapse;width:100%}
.small{font-size:12px}td,th{padding:8px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #232a36}
th{color:#8b96a6;font-weight:500}td:first-child{min-width:210px}
.dot{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:8px}
.verdict{padding:14px 18px;border-radius:8px;background:#161b24;border-left:6px solid;margin:18px 0;font-size:18px}
.value{min-width:170px;font-variant-numeric:tabular-nums}
figure{margin:0 0 30px}figcaption{margin:6px 0 8px}
img,video{max-width:100%;border-radius:6px;display:block}
pre{background:#161b24;padding:14px;border-radius:6px;overflow:auto;font-size:12px;line-height:1.4}
.pair{display:flex;gap:10px;align-items:flex-start}.pair img:first-child{width:74%}.pair img:last-child{width:25%}
svg{background:#161b24;border-radius:6px}summary{cursor:pointer;margin-top:14px}
"""


def write_page(findings: Findings) -> str:
    """The whole document."""
    whole = verdict(findings.marks)
    if not findings.trained:
        whole = Mark("verdict", "untrained weights: nothing below means anything", RED, "", "", "")
    parts = [
        f"<h1>{html.escape(findings.source)}</h1>",
        f'<p class="muted">{html.escape(findings.model)}</p>',
        f'<p class="muted">{findings.moments} moments of {len(findings.scenes)} '
        f"{'scene' if len(findings.scenes) == 1 else 'scenes'}; {findings.seconds:.0f} s and {findings.way:.0f} m of "
        "driving</p>",
        f'<div class="verdict" style="border-color:{_COLORS[whole.color]}">{html.escape(whole.value)}</div>',
        "<h2>Marks</h2>",
        '<p class="muted">Every figure says how much is wrong: lower is better. Red: mend it before you drive. '
        "Grey: not measured. A measure without truth finds one kind of error; green does not prove that the model is "
        "right.</p>",
        _marks(findings.marks),
        "<h2>Against the truth</h2>",
        *_truth(findings),
    ]
    if findings.video:
        parts += [
            "<h2>The drive</h2>",
            f'<video controls muted loop preload="auto" src="{html.escape(findings.video)}"></video>',
        ]
    parts += ["<h2>Worst and best moments</h2>", *map(_shown, findings.shown)]
    parts += ["<h2>Over the drive</h2>", *(_curve(name, values) for name, values in findings.curves.items())]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>GaussianOcc report</title><style>{_STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def _marks(marks: Sequence[Mark]) -> str:
    order = (RED, YELLOW, GREEN, GREY)
    rows = "".join(
        f'<tr><td><span class="dot" style="background:{_COLORS[each.color]}"></span>{html.escape(each.name)}</td>'
        f'<td class="value">{html.escape(each.value)} <span class="muted">{each.color}</span><br>'
        f'<span class="muted small">{html.escape(each.limits)}</span></td>'
        f"<td>{html.escape(each.meaning)}</td><td>{html.escape(each.advice)}</td></tr>"
        for each in sorted(marks, key=lambda each: order.index(each.color))
    )
    return f"<table><tr><th></th><th>figure</th><th>what it is</th><th>what to do</th></tr>{rows}</table>"


def _truth(findings: Findings) -> list[str]:
    if findings.truth is None:
        return [f"<p>Not measured: {html.escape(findings.why_no_truth)}</p>"]
    tables = html.escape(format_report(findings.truth))
    return [
        beside_flat_ground(findings.truth),
        _stereo(findings.stereo),
        f"<details><summary>All tables, and what each figure means</summary><pre>{tables}</pre></details>",
    ]


def beside_flat_ground(truth: dict[str, Any]) -> str:
    """HTML table of a result of `evaluate`: the main figures beside those of flat ground, which looks at no image."""
    rows: list[tuple[str, float | None, float | None, str]] = []
    if depth := truth["depth"]:
        way, table = next(iter(depth["ways"].items()))
        flat = depth["ways"]["flat_ground"]["mean"]
        rows.append((f"depth, Abs Rel ({way.replace('_', ' ')})", table["mean"]["abs_rel"], flat["abs_rel"], "lower"))
        rows.append(("depth within a factor 1.25 of the truth", table["mean"]["a1"], flat["a1"], "higher"))
    if masked := truth["mask_camera"]:
        for key, name in (("iou", "occupancy, IoU"), ("non_ground_iou", "IoU off the ground"), ("miou", "mIoU")):
            rows.append((name, masked["model"][key], masked["flat_ground"][key], "higher"))
    if (robot := truth["robot"]) and robot["truths"]:
        what, rings = next(iter(robot["truths"].items()))
        ring = ring_that_tells(rings["model"]) or "0-10"
        near, flat_near = rings["model"][ring], rings["flat_ground"][ring]
        where = "within 10 m" if ring == "0-10" else f"at {ring} m"
        for key, name, better in (
            ("missed", "published as free", "lower"),
            ("unknown", "published as unknown", "lower"),
            ("found", "found", "higher"),
        ):
            rows.append((f"obstacles {where}, {name} ({what})", near[key], flat_near[key], better))
        rows.append((f"ghosts {where}", near["ghosts"], None, "lower"))
    cells = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="value">{_number(own)}</td><td class="value">{_number(flat)}</td>'
        f'<td class="muted">{better} is better</td></tr>'
        for name, own, flat, better in rows
    )
    head = "<tr><th></th><th>model</th><th>flat ground, looking at no image</th><th></th></tr>"
    return f"<table>{head}{cells}</table>"


def _stereo(stereo: dict[str, float] | None) -> str:
    if stereo is None:
        return '<p class="muted">Classical stereo: no two cameras look the same way where the truth is known.</p>'
    return (
        f"<p>OpenCV's stereo matching has Abs Rel {stereo['stereo']:.3f} where it finds a depth: at "
        f"{stereo['share']:.0%} of the pixels with truth. The model's depth network has {stereo['model']:.3f} on the "
        "same pixels.</p>"
    )


def _shown(shown: Shown) -> str:
    figure = f"; {html.escape(shown.figure)}" if shown.figure else ""
    return (
        f'<figure><figcaption><b>{html.escape(shown.title)}</b> <span class="muted">{html.escape(shown.scene)}, moment '
        f"{shown.number}{figure}. Right: from above, forward is up; dark where nothing is occupied</span></figcaption>"
        f'<div class="pair"><img alt="cameras, depth, voxels" src="{_jpeg(shown.picture)}">'
        f'<img alt="from above" src="{_jpeg(shown.above)}"></div></figure>'
    )


def _jpeg(image: UInt8[np.ndarray, "H W 3"]) -> str:
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _curve(name: str, values: Sequence[float | None]) -> str:
    """A line over the moments; gaps where it was not measured."""
    known = [each for each in values if each is not None]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    wide, tall, edge = 1120, 90, 10
    x = np.linspace(edge, wide - edge, len(values))
    lines, number = [], 0
    for given, group in itertools.groupby(values, key=lambda each: each is not None):
        run = list(group)
        if given:
            heights = [tall - edge - (tall - 2 * edge) * ((v or 0.0) - low) / max(high - low, 1e-6) for v in run]
            path = [f"{x[number + k]:.1f},{each:.1f}" for k, each in enumerate(heights)]
            lines.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="#78beff" stroke-width="2"/>')
            lines.append(f'<circle cx="{x[number]:.1f}" cy="{heights[0]:.1f}" r="2.5" fill="#78beff"/>')
        number += len(run)
    return (
        f'<p>{html.escape(name)} <span class="muted">from {low:.2f} to {high:.2f}</span></p>'
        f'<svg viewBox="0 0 {wide} {tall}" width="100%">{"".join(lines)}</svg>'
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
