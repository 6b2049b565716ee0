# SPDX-License-Identifier: Apache-2.0
"""Names of the textures that patterns.py computes, for code that must not import Numba."""

(
    BLANK,
    SPECKLE,
    CHECKER,
    STRIPE,
    BRICKS,
    CELLS,
    PRINT,
    PLANKS,
    GRIME,
    DOTS,
    CORRUGATED,
    HAZARD,
    COBBLES,
    GROUT,
    POSTER,
) = range(15)
STYLES = 15
