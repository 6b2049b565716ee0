# SPDX-License-Identifier: Apache-2.0
"""Exceptions a user can act on: each message says what is wrong, where, and what to do next."""


class GaussianOccError(Exception):
    """Base of every error that a command-line tool or the node prints as one line, without a traceback."""


class ConfigError(GaussianOccError):
    """A configuration or rig file has an unknown key, a wrong type or an impossible value."""


class CheckpointError(GaussianOccError):
    """A checkpoint is missing, unreadable, or does not fit its own configuration."""


class PredictionError(GaussianOccError):
    """A network says what is no number, or no class: nothing may be concluded from it, least of all free space."""

    reason = "not a number"  # what a set that is dropped for it is counted under


class DatasetError(GaussianOccError):
    """A data set, a table of it, or a file it names is missing or broken."""


class BagError(GaussianOccError):
    """A rosbag2 is missing, unreadable, incomplete, or would be overwritten."""


class CalibrationError(GaussianOccError):
    """Intrinsics, distortion or extrinsics of a camera cannot be used."""


class BackendError(GaussianOccError):
    """The requested renderer or device cannot run here."""
