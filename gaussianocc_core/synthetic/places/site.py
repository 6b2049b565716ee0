# SPDX-License-Identifier: Apache-2.0
"""What a place builder hands over: ground, what stands, what moves, the light, and how the ego moves through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.synthetic.layout import Actor
from gaussianocc_core.synthetic.shapes import PrimitiveTable


@dataclass(frozen=True)
class Site:
    """A place and the ego's way through it; see ground.py and scene.py for the columns of the arrays."""

    description: str  # for tables and notes
    static: PrimitiveTable
    actors: tuple[Actor, ...]
    segments: Float[np.ndarray, "S 7"]
    crosses: Float[np.ndarray, "X 7"]
    ground: Float[np.ndarray, " parameters"]
    light: Float[np.ndarray, " 16"]
    pose: Callable[[float], Float[np.ndarray, "4 4"]]  # T_world_ego by time, s
    dark: float = 0.0  # 0 day, 1 night: what the cameras' shutters and noise follow
