# SPDX-License-Identifier: Apache-2.0
"""The published network: its released weights, and every stage against recorded numbers."""
