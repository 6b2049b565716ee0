# SPDX-License-Identifier: Apache-2.0
"""Learnt ego motion against the poses of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

LEAST_MOVE = 0.05  # m; of shorter true motions the length says nothing about the scale


class MotionScores:
    """Lengths and rotations of ego motions from now to a neighbouring frame."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []

    def update(
        self,
        estimate: Float[np.ndarray, "S 4 4"],
        truth: Float[np.ndarray, "S 4 4"],
        gaps_s: Float[np.ndarray, " S"],
        network_lengths: Float[np.ndarray, " S"] | None = None,
    ) -> None:
        """Points of the ego frame now -> at each neighbour, m; a NaN truth is unknown and left out.

        network_lengths: m, what the network said of lengths that were then searched; None: nothing was.
        """
        if network_lengths is None:
            network_lengths = np.linalg.norm(estimate[:, :3, 3], axis=1)
        for estimated, true, gap, said in zip(estimate, truth, gaps_s, network_lengths, strict=True):
            if np.isfinite(true).all():
                lengths = (np.linalg.norm(estimated[:3, 3]), np.linalg.norm(true[:3, 3]))
                turns = (rotation_angle(estimated[:3, :3].T @ true[:3, :3]), rotation_angle(true[:3, :3]))
                self._rows.append((float(gap), float(said), *map(float, lengths), *np.degrees(turns).tolist()))

    def counts(self) -> dict[str, Any]:
        """A row per pair; for `add`."""
        return {"pairs": list(self._rows)}

    def add(self, counts: Mapping[str, Any]) -> None:
        """The pairs of others."""
        for row in counts["pairs"]:
            gap, said, estimated, true, error, turn = map(float, row)
            self._rows.append((gap, said, estimated, true, error, turn))

    def summary(self) -> dict[str, Any] | None:
        """None where no pair had poses; lengths are of the pairs that moved."""
        if not self._rows:
            return None
        gap, said, estimated, true, error, turn = np.array(self._rows).T
        moved = true > LEAST_MOVE
        lengths: dict[str, float | None] = {}
        for name, length in (("", estimated), ("network_", said)):
            ratio = length[moved] / true[moved]
            lengths[f"{name}length_ratio"] = float(np.median(ratio)) if moved.any() else None
            lengths[f"{name}length_error"] = float(np.mean(np.abs(ratio - 1.0))) if moved.any() else None
        return {
            "pairs": len(gap),
            "moving_pairs": int(moved.sum()),
            "gap_ms": float(1e3 * np.median(gap)),
            "true_length_m": float(np.median(true[moved])) if moved.any() else None,
            **lengths,
            "rotation_error_deg": float(error.mean()),
            "true_rotation_deg": float(turn.mean()),
        }


def rotation_angle(rotation: Float[np.ndarray, "3 3"]) -> float:
    """rad; by |R - 1| = 2 sqrt(2) sin(angle / 2), which float32 rotations of a millirad survive, unlike the trace."""
    return float(2.0 * np.arcsin(min(1.0, np.linalg.norm(rotation - np.eye(3)) / np.sqrt(8.0))))
