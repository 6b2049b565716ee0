# SPDX-License-Identifier: Apache-2.0
"""Camera-only 3D semantic occupancy, self-supervised. Importing this touches no GPU and loads no weights."""

from gaussianocc_core._version import __version__

__all__ = ["__version__"]
