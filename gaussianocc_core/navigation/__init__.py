# SPDX-License-Identifier: Apache-2.0
"""What a planner wants to know of an occupancy."""
