# SPDX-License-Identifier: Apache-2.0
"""Does this implementation compute what the published network computes? Compares every stage with recorded arrays."""
