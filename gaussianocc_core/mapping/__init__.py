# SPDX-License-Identifier: Apache-2.0
"""Labels in 3D from a recording's own depth (docs/labels.md).

`matched` says depth and its error for every set of images, `motion` where the rig was, `carving` which voxels rays end
in or pass, `recording` does all of it along a recording, and `label_files` writes it down.
"""
