# SPDX-License-Identifier: Apache-2.0
"""A checkpoint against data it never saw: depth, ego motion, occupancy, each beside a baseline that knows no images."""

from gaussianocc_core.evaluation.report import format_report
from gaussianocc_core.evaluation.run import evaluate, evaluate_networks, evaluate_share
from gaussianocc_core.evaluation.shares import Share, merge_shares

__all__ = ["Share", "evaluate", "evaluate_networks", "evaluate_share", "format_report", "merge_shares"]
