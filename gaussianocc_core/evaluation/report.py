# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation as text for a terminal."""

from __future__ import annotations

import csv
import io
import itertools
from typing import Any

from gaussianocc_core.evaluation.occupancy import MASKS, RANGES
from gaussianocc_core.metrics.depth import DEPTH_ERRORS

_NAME_WIDTH = 22
_DEPTH_HEADS = ("abs_rel", "sq_rel m", "rmse m", "rmse_log", "a1", "a2", "a3", "scale")
_MEASURES = {"iou": "IoU", "non_ground_iou": "IoU off the ground", "miou": "mIoU", "miou_star": "mIoU*"}
_DEPTH_NOTES = """\
abs_rel: mean |estimate - truth| / truth. a1, a2, a3: share of pixels within a factor 1.25, 1.25^2, 1.25^3.
scale: median over images of median truth / median estimate; 1 is metric, above 1 everything is seen too near.
flat ground: looks at no image; a ray meets the plane under the robot, or else nothing for 80 m."""
_CONFIDENCE_NOTES = """\
fifth: share of the squared relative error in the fifth of the pixels that the network is least sure of; 0.2 is chance.
error, expected: mean |log(estimate / truth)|, as it is and as the network expects it."""
_MOTION_NOTES = """\
Lengths are those that fit the depth network best (training/motion_search.py), with which stage 2 trains; "as the
network says": before that search. Without a depth network in the file there is none.
length ratio: median of learnt / true length; 1 is metric. length error: mean |learnt - true| / true.
true rotation: mean turn between the images, which is the error of a network that always says "straight on"."""
_OCCUPANCY_NOTES = """\
IoU: voxels occupied in truth and estimate, of those occupied in either. Off the ground: not road, pavement, terrain.
mIoU: mean of the IoU of the 17 classes, of those that occur. mIoU*: without `others` and `other_flat`.
Unknown voxels count as not occupied in all of these. Unknown: their share. Occupied but free: share of the truly
occupied voxels that is published as free. Published results for Occ3D count camera and lidar.
RayIoU: mean over the classes of what lidar-like rays along the drive meet first, within 1, 2 or 4 m of where.
flat ground: a road at the height of the wheels and nothing else, whatever the images show."""


_RELIABILITY_NOTES = """\
Row by row: the seen voxels with such a probability of being occupied, and the share of them that is occupied. error:
mean difference of the two; 0 is best. A voxel is published as occupied if its probability is above 1 - caution."""
_ROBOT_NOTES = """\
Obstacle points are those between the two heights. missed: in voxels published as free. unknown: in voxels of which
nothing is known, or outside the grid. found: in occupied voxels. ghosts: of the published obstacle columns that the
truth tells of (a ray crosses what is published there), the share without a point within {tolerance:g} m. blocked path:
moments in which an obstacle stands on the {path_length:g} m that the robot, {width:g} m wide, then drove; one that the
truth confirms is left out. Nearer than {nearest:g} m nothing counts."""


def format_report(result: dict[str, Any]) -> str:
    """Tables with their units and one line on what each number means."""
    parts = [_header(result)]
    if result["depth"]:
        parts.append(_depth(result["depth"]))
    if result["ego_motion"]:
        parts.append(_ego_motion(result["ego_motion"]))
    if result["mask_camera"]:
        parts.append(_occupancy(result))
    if result["reliability"]:
        parts.append(_reliability(result["reliability"]))
    if result["robot"]:
        parts.append(_robot(result["robot"]))
    parts += ["\n".join(f"not measured: {note}" for note in result["notes"])] if result["notes"] else []
    return "\n\n".join(parts)


def depth_rows(result: dict[str, Any]) -> str:
    """The depth errors as CSV: a row per way to depth and camera, their mean under the camera `mean`, and a row per
    ring of true distance under `LOW-HIGH m`; empty where a number is undefined."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("way", "camera", "images", *DEPTH_ERRORS, "scale"))
    depth = result["depth"]
    for way, table in (depth["ways"] if depth else {}).items():
        rows = {**table["per_camera"], "mean": {**table["mean"], "images": depth["images"]}}
        for camera, row in rows.items():
            writer.writerow((way, camera, row["images"], *(row[name] for name in DEPTH_ERRORS), row["scale"]))
        for (low, high), error in zip(
            itertools.pairwise(depth["by_distance"]["edges_m"]), depth["by_distance"]["abs_rel"][way], strict=True
        ):
            writer.writerow((way, f"{low:g}-{high:g} m", "", error))
    return stream.getvalue()


def _header(result: dict[str, Any]) -> str:
    lines = []
    if checkpoint := result.get("checkpoint"):
        origin = checkpoint["provenance"]
        training = f"{origin['training']}; {origin['steps']} steps" if origin else "untrained"
        lines.append(f"{checkpoint['path']}: {checkpoint['model']} ({', '.join(checkpoint['networks'])}; {training})")
    where = result["data"].get("dataroot") or result["data"]["bag"]
    count = len(result["scenes"])
    lines.append(f"{result['keyframes']} moments of {count} {'scene' if count == 1 else 'scenes'}, {where}")
    return "\n".join(lines)


def _depth(depth: dict[str, Any]) -> str:
    low, high = depth["limits_m"]
    lines = [
        f"DEPTH along the optical axis, {depth['images']} images, true depths of {low:g} to {high:g} m; "
        "no median scaling; mean of the cameras",
        _row("", _DEPTH_HEADS, 9),
    ]
    lines += [_row(_title(way), _depth_numbers(table["mean"]), 9) for way, table in depth["ways"].items()]
    way, table = next(iter(depth["ways"].items()))
    lines.append(f"{_title(way)} by camera")
    lines += [_row(f"  {name}", _depth_numbers(row), 9) for name, row in table["per_camera"].items()]
    lines += _by_distance(depth["by_distance"])
    if depth["confidence"]:
        lines.append(_row("confidence", ("fifth", "error", "expected"), 9))
        for way, sure in depth["confidence"].items():
            lines.append(_row(f"  {_title(way)}", [*map(_number, sure.values())], 9))
        lines.append(_CONFIDENCE_NOTES)
    return "\n".join([*lines, _DEPTH_NOTES])


def _by_distance(rings: dict[str, Any]) -> list[str]:
    edges = rings["edges_m"]
    heads = [f"{low:g}-{high:g} m" for low, high in itertools.pairwise(edges)]
    lines = [_row("abs_rel by true depth", heads, 9), _row("  share of pixels", [*map(_number, rings["share"])], 9)]
    return lines + [_row(f"  {_title(way)}", [*map(_number, row)], 9) for way, row in rings["abs_rel"].items()]


def _depth_numbers(row: dict[str, Any]) -> list[str]:
    return [_number(row[name]) for name in (*DEPTH_ERRORS, "scale")]


def _ego_motion(motion: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"EGO MOTION over {motion['pairs']} pairs of frames, {motion['gap_ms']:.0f} ms apart (median); "
            f"{motion['moving_pairs']} of them moved, by {_number(motion['true_length_m'])} m (median)",
            _row("length ratio", [_number(motion["length_ratio"])]),
            _row("length error", [_number(motion["length_error"])]),
            _row("  as the network says", [_number(motion["network_length_ratio"])]),
            _row("  its error", [_number(motion["network_length_error"])]),
            _row("rotation error, deg", [_number(motion["rotation_error_deg"])]),
            _row("true rotation, deg", [_number(motion["true_rotation_deg"])]),
            _MOTION_NOTES,
        ]
    )


def _occupancy(result: dict[str, Any]) -> str:
    tables = [result[mask] for mask in MASKS]
    rays = result["ray_iou"]
    heads = ["camera", "flat ground", "cam+lidar", "flat ground", "all voxels", "flat ground"]
    heads += ["rays", "flat ground"] if rays else []
    lines = [
        f"OCCUPANCY in {result['labelled_keyframes']} labelled keyframes; 0 to 1, higher is better; "
        "camera: voxels that the labels' mask_camera counts, cam+lidar: that mask_lidar counts as well",
        _row("", heads),
    ]
    for name, title in _MEASURES.items():
        lines.append(_row(title, [_number(t[who][name]) for t in tables for who in ("model", "flat_ground")]))
    for name, title in (("unknown", "unknown"), ("occupied_but_free", "occupied but free")):
        lines.append(_row(title, [cell for t in tables for cell in (_number(t["states"][name]), "")]))
    for name, title in (("iou", "IoU"), ("non_ground_iou", "off ground")):
        for limit in RANGES:
            numbers = [_number(who[name]) for who in result["by_range"][f"{limit:g}"].values()]
            lines.append(_row(f"{title} within {limit:g} m", numbers))
    if rays:
        for name in rays["model"]:
            title = name.replace("ray_iou", "RayIoU").replace("@", " within ") + (" m" if "@" in name else "")
            numbers = [_number(rays[who][name]) for who in ("model", "flat_ground")]
            lines.append(_row(title, ["", "", "", "", "", "", *numbers]))
    by_class = [table["class_iou"] for table in tables] + ([rays["class_ray_iou"]] if rays else [])
    names = dict.fromkeys(name for column in by_class for name in column)
    for name in names:
        cells = [cell for column in by_class for cell in (_number(column[name]) if name in column else "-", "")]
        lines.append(_row(f"  {name}", cells))
    return "\n".join([*lines, _OCCUPANCY_NOTES])


def _reliability(reliability: dict[str, Any]) -> str:
    bins = reliability["bins"]
    return "\n".join(
        [
            f"RELIABILITY of the probability that a voxel is occupied; error {_number(reliability['error'])}",
            _row("said, from", [f"{each['low']:.1f}" for each in bins], 9),
            _row("said, mean", [_number(each["probability"]) for each in bins], 9),
            _row("occupied", [_number(each["occupied"]) for each in bins], 9),
            _row("voxels", [str(each["voxels"]) for each in bins], 9),
            _RELIABILITY_NOTES,
        ]
    )


def _robot(robot: dict[str, Any]) -> str:
    limits = robot["limits"]
    lines = [f"FOR A ROBOT, obstacles of {limits['low']:g} to {limits['high']:g} m above the ground"]
    for what, truth in robot["truths"].items():
        heads = [f"{ring} m" for ring in truth["model"]]
        lines.append(_row(f"against {what}", heads) + f"    {truth['moments']} moments")
        for who in ("model", "flat_ground"):
            lines.append(_row(f"{_title(who)}: points", [str(ring["points"]) for ring in truth[who].values()]))
            for name in ("missed", "unknown", "found"):
                lines.append(_row(f"  {name}", [_number(ring[name]) for ring in truth[who].values()]))
            lines.append(_row("  columns", [str(ring["columns"]) for ring in truth[who].values()]))
            lines.append(_row("  ghosts", [_number(ring["ghosts"]) for ring in truth[who].values()]))
    for who, path in robot["path"].items():
        if path["moments"]:
            lines.append(_row(f"blocked path, {_title(who)}", []) + f"  {path['blocked']} of {path['moments']} moments")
    return "\n".join([*lines, _ROBOT_NOTES.format(**limits)])


def _title(way: str) -> str:
    return way.replace("_", " ")


def _row(name: str, cells: list[str] | tuple[str, ...], width: int = 12) -> str:
    return f"{name:{_NAME_WIDTH}}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
