# SPDX-License-Identifier: Apache-2.0
"""A page in the browser that shows what the network says: voxels, cameras, lidar, truth, numbers (docs/viewer.md)."""
