# SPDX-License-Identifier: Apache-2.0
"""Where worlds are: builders that fill a `Site` for a vehicle, drawn by seed."""
