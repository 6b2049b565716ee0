# SPDX-License-Identifier: Apache-2.0
"""What runs the networks on a robot: torch, or the exported networks in another runtime."""
