# SPDX-License-Identifier: Apache-2.0
"""The rosbags library and its message definitions, ours included: a pip install has no msg/ folder."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gaussianocc_core.bags.unpacking import bound_chunks
from gaussianocc_core.bags.video import VIDEO_DEFINITIONS
from gaussianocc_core.errors import GaussianOccError

OCCUPANCY_TYPE = "gaussianocc_ros/msg/SemanticOccupancy"
# msg/SemanticOccupancy.msg without its comments, which say what each field means; a test keeps the two equal.
OCCUPANCY_DEFINITION = """\
uint8 UNOBSERVED=255
uint8 OCCLUDED=254
std_msgs/Header header
geometry_msgs/Pose origin
geometry_msgs/Vector3 voxel_size
uint32 size_x
uint32 size_y
uint32 size_z
uint8[] labels
uint8[] confidence
string[] class_names
uint8 free_label
string[] cameras
string model
"""


@lru_cache(maxsize=1)  # making it compiles code for every message, 0.05 s
def open_typestore() -> Any:
    """A rosbags typestore of ROS 2 Humble (the messages of a bag are the same from there on) that knows our type."""
    from rosbags import typesys

    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    store.register(typesys.get_types_from_msg(OCCUPANCY_DEFINITION, OCCUPANCY_TYPE))
    return store


@lru_cache(maxsize=1)
def typestore() -> Any:
    """Message definitions; these messages have the same ones and type hashes from Humble on. Those of compressed video,
    which are of packages of their own, are among them."""
    typesys = import_rosbags().typesys
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name, definition in VIDEO_DEFINITIONS.items():
        store.register(typesys.get_types_from_msg(definition, name))
    return store


@lru_cache(maxsize=1)
def import_rosbags() -> Any:
    """The rosbags library, needed only where bags are read or written; what it unpacks is bounded from now on."""
    try:
        import rosbags.rosbag2
        import rosbags.typesys
        from rosbags.rosbag2 import storage_mcap
    except ImportError as error:
        raise GaussianOccError(f"bags need the rosbags library: pip install rosbags ({error})") from error
    bound_chunks(storage_mcap.DECOMPRESSORS)
    return rosbags
