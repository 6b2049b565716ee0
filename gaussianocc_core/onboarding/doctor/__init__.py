# SPDX-License-Identifier: Apache-2.0
"""The rig doctor: what the images of a recording say of its calibration, odometry and clocks, camera by camera."""
