# SPDX-License-Identifier: Apache-2.0
"""The released weights: their names in ours, and reading their folders."""
