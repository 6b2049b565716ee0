# SPDX-License-Identifier: Apache-2.0
"""Parity of weights, networks, Gaussians, the full-size lattice and the occupancy query (golden README, section 4)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.models.gaussian_head import GaussianHead
from gaussianocc_core.models.lifting import lift_features, plan_lift
from gaussianocc_core.reference.names import Source, is_dead, our_name
from gaussianocc_core.reference.pipeline import NEIGHBOURS, Pipeline
from gaussianocc_core.reference.report import ABSENT, FAIL, PASS, Row, compare
from gaussianocc_core.types import Lattice

_LAYOUT = "state_dict_layout_nusc-sem-gs"


def weights(run: Pipeline) -> Iterator[Row]:
    """Are the regenerated weights the recorded ones, and do our names cover every entry of a release?"""
    recorded = run.golden.json("weights_crc32")
    if recorded is None:
        yield Row("weights crc32", ABSENT, tolerance=0.0)
    else:
        live = {
            (network, name): value
            for network, values in recorded.items()
            for name, value in values.items()
            if not is_dead(Source(network, name))
        }
        ours = {(network, name): value for network, values in run.checksums.items() for name, value in values.items()}
        wrong = sorted(key for key in live.keys() | ours.keys() if live.get(key) != ours.get(key))
        note = f"first: {'/'.join(wrong[0])}" if wrong else f"{len(live)} tensors"
        yield Row("weights crc32", FAIL if wrong else PASS, float(len(wrong)), 0.0, note=note)
    layout = run.golden.json(_LAYOUT)
    if layout is None:
        yield Row("state-dict layout", ABSENT, tolerance=0.0)
        return
    theirs = {
        Source(network, name): tuple(shape)
        for network, entries in layout.items()
        for name, shape, _ in entries
        if our_name(Source(network, name)) is not None or not is_dead(Source(network, name))
    }
    classes = run.golden.config.num_classes
    mine = {Source(n, name): tuple(value.shape) for n, state in run.states.items() for name, value in state.items()}
    unlike = sorted(
        f"{source.network}/{source.name}"
        for source in theirs.keys() | mine.keys()
        if theirs.get(source) != mine.get(source) and not (classes != 18 and ".classif_semantic.8." in source.name)
    )
    note = f"first: {unlike[0]}" if unlike else f"{len(theirs)} entries"
    yield Row("state-dict layout", FAIL if unlike else PASS, float(len(unlike)), 0.0, note=note)


def network(run: Pipeline) -> Iterator[Row]:
    """Encoder, lifting and 3D decoder."""

    def recorded(name: str) -> np.ndarray | None:
        return run.golden.array("network", name)

    yield compare("encoder layer3", recorded("layer3_cam0"), lambda: run.layer3[:1, ::16], 1e-4)
    yield compare("features", recorded("features"), lambda: run.features, 1e-4)
    yield compare("lifted", recorded("lifted_ch0to63step4"), lambda: run.lifted[::4], 1e-4)
    sums = recorded("lifted_sum")
    scale = 1.0 if sums is None else float(np.abs(sums).max())

    def lifted_sums() -> np.ndarray:
        lifted = run.lifted.double()
        return np.array([lifted.sum().item(), lifted.abs().sum().item()]) / scale

    # Of a million rounding errors of 1e-5, most cancel.
    yield compare("lifted sums / abs-sum", None if sums is None else sums / scale, lifted_sums, 1e-6)
    yield compare("logits", recorded("logits"), lambda: run.field.logits[0], 1e-4)


def gaussians(run: Pipeline) -> Iterator[Row]:
    """Centres, scales, opacities and features in their flat order: z slowest, then y, then x."""
    base = run.config.gaussians.scale[0]

    def recorded(name: str) -> np.ndarray | None:
        return run.golden.array("gaussians", name)

    # The outermost centres are kilometres away, where float32 resolves 1e-4 m.
    yield compare("Gaussians xyz", recorded("xyz"), lambda: run.gaussians(base).means, 1e-6, relative=True)
    scale = recorded("scale")  # negative as recorded: only squares matter
    yield compare(
        "Gaussians scale",
        None if scale is None else np.abs(scale),
        lambda: run.gaussians(base).scales[:, 0],
        1e-6,
    )
    yield compare("Gaussians opacity", recorded("opacity"), lambda: run.gaussians(base).opacities, 1e-4)
    features = recorded("feature_first500")
    count = 0 if features is None else len(features)
    yield compare("Gaussians feature", features, lambda: run.gaussians(base).features[:count], 1e-4)


def full_grid(run: Pipeline) -> Iterator[Row]:
    """The lattice at full size, and lifting onto some of its points."""
    file = next((p.stem for p in sorted(run.golden.folder.glob("fullgrid_*.npz"))), "fullgrid_24x300x300")
    size = re.fullmatch(r"fullgrid_(\d+)x(\d+)x(\d+)", file)
    if size is None:
        yield Row(file, FAIL, note="the file's name should be fullgrid_ZxYxX.npz")
        return
    Z, Y, X = map(int, size.groups())
    lattice = Lattice(run.lattice.low, run.lattice.high, (X, Y, Z), run.lattice.contraction)

    def recorded(name: str) -> np.ndarray | None:
        return run.golden.array(file, name)

    def axis(number: int) -> Row:
        recorded_axis = recorded(f"axis_{'xyz'[number]}")
        stage = f"full grid axis {'xyz'[number]}"
        # The outermost points are kilometres away, where float32 resolves 1e-4 m: hence relative.
        coordinates = lattice_geometry.axis_coordinates(lattice, number, np.float32)
        return compare(stage, recorded_axis, lambda: coordinates, 1e-6, relative=True)

    yield from map(axis, range(3))
    index = recorded("index_zyx_flat")
    if index is None:
        yield Row("full grid points", ABSENT)
        return
    z, y, x = np.unravel_index(index, (Z, Y, X))
    points = lattice_geometry.points(lattice)
    chosen = points[torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(z)]
    yield compare("full grid xyz", recorded("xyz"), lambda: chosen, 1e-6, relative=True)
    head = GaussianHead(points, (0.2, 0.2, 0.2), run.far_radius)
    scales = head.scales[:, 0].view(Z, Y, X)
    yield compare("full grid scale", recorded("scale"), lambda: scales[z, y, x], 1e-6)
    counts = [int((scales == value).sum()) for value in scales.unique()]
    yield compare("full grid scale counts", recorded("scale_counts"), lambda: counts, 0.0)

    cameras = run.network_cameras

    def lift(features: Tensor, names: tuple[str, ...]) -> Tensor:
        return lift_features(features, plan_lift(cameras.select(names), chosen, constants=run.quirks.lift))

    yield compare("full grid lifted", recorded("lifted4"), lambda: lift(run.features[:, :4], cameras.names), 1e-4)

    def seeing() -> Tensor:
        single = [lift(run.features[n : n + 1, :1], (name,)) for n, name in enumerate(cameras.names)]
        return (torch.cat(single) != 0).sum(dim=0)

    yield compare("full grid cameras seeing", recorded("n_cams_seeing"), seeing, 0.0)


def occupancy(run: Pipeline) -> Iterator[Row]:
    """Logits and classes on the published grid, for both query offsets."""
    yield from _query(run, "offset02", 0.2)
    yield from _query(run, "offset_ref", 0.5 * lattice_geometry.mean_cell_size(run.lattice))


def _query(run: Pipeline, tag: str, shift: float) -> Iterator[Row]:
    """shift: from a voxel's low corner to the query point, on every axis, m."""
    yield compare(f"query {tag} shift", run.golden.array("occupancy", f"shift_{tag}"), lambda: shift, 1e-5)
    labels, logits = run.golden.array("occupancy", f"argmax_{tag}"), run.golden.array("occupancy", f"logits_{tag}")
    if labels is None and logits is None:
        yield Row(f"query {tag}", ABSENT)
        return
    shape = (200, 200, 16) if labels is None else labels.shape
    axes = [
        torch.from_numpy(low + np.arange(count) * ((high - low) / count) + shift)
        for low, high, count in zip(run.lattice.low, run.lattice.high, shape, strict=True)
    ]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float().flatten(0, 2)
    queried = lattice_geometry.sample(run.field.logits, run.lattice, positions)[0].unflatten(1, shape)
    yield compare(f"query {tag} logits", logits, lambda: queried[:, ::8, ::8, ::2], 1e-4)
    # Where two logits tie to 1e-5, rounding decides.
    yield compare(f"query {tag} argmax", labels, lambda: queried.argmax(0), 0.0, least_share=0.9999)


def motion(run: Pipeline) -> Iterator[Row]:
    """Ego motion and what it is for each camera."""

    def recorded(name: str) -> np.ndarray | None:
        return run.golden.array("pose", name)

    def encoded() -> Tensor:
        return run.pose_net.encode(torch.cat([run.images("tm1"), run.images("t0")], dim=2)[0])[:, ::8]

    yield compare("pose encoder", recorded("feat_last_m1"), encoded, 1e-4)
    for neighbour in NEIGHBOURS:
        yield from _motions(run, neighbour)


def _motions(run: Pipeline, neighbour: str) -> Iterator[Row]:
    axis_angle, translation, matrices = (
        run.golden.array("pose", f"{name}_{neighbour}") for name in ("axisangle", "translation", "cam_T_cam")
    )
    yield compare(f"axis-angle {neighbour}", axis_angle, lambda: run.motion(neighbour).axis_angle[:, :, None], 1e-7)
    yield compare(f"translation {neighbour}", translation, lambda: run.motion(neighbour).translation[:, :, None], 1e-7)
    yield compare(f"camera motion {neighbour}", matrices, lambda: run.camera_motion(neighbour), 1e-6)
