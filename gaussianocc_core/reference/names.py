# SPDX-License-Identifier: Apache-2.0
"""Which released tensor is which of ours (docs/method.md#l): the one table of names.

A release has four state dicts, `NETWORKS`. Our occupancy network takes `encoder` and `depth`, our `PoseNet` takes
`pose_encoder` and `pose`. Names differ in their beginnings only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OCCUPANCY, POSE = "occupancy", "pose"  # our networks
NETWORKS = {"encoder": OCCUPANCY, "depth": OCCUPANCY, "pose_encoder": POSE, "pose": POSE}  # theirs -> ours

_RESNET = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
_HOURGLASS = (
    ("conv1.0.", "down1."),
    ("conv2.", "conv1."),
    ("conv3.0.", "down2."),
    ("conv4.0.", "conv2."),
    ("conv5.", "up1."),
    ("conv6.", "up2."),
)

# (their network, beginning of their name, beginning of ours); no beginning of one side begins another.
_TABLE = (
    ("encoder", "backbone.0.", "image_encoder.conv1."),
    ("encoder", "backbone.1.", "image_encoder.bn1."),
    ("encoder", "backbone.4.", "image_encoder.layer1."),
    ("encoder", "backbone.5.", "image_encoder.layer2."),
    ("encoder", "layer3.", "image_encoder.layer3."),
    ("encoder", "upsampling_layer.conv.", "image_encoder.up8."),
    ("encoder", "Upsampling_4.conv.", "image_encoder.up4."),
    ("encoder", "depth_layer.", "image_encoder.project."),
    ("depth", "_3DCNN.dres0.", "voxel_decoder.dres0."),
    ("depth", "_3DCNN.dres1.", "voxel_decoder.dres1."),
    *(
        ("depth", f"_3DCNN.dres{i + 2}.{theirs}", f"voxel_decoder.hourglasses.{i}.{ours}")
        for i in range(3)
        for theirs, ours in _HOURGLASS
    ),
    ("depth", "_3DCNN.classif_semantic.", "voxel_decoder.head."),
    *(("pose_encoder", f"encoder.{part}", part) for part in _RESNET),
    ("pose", "net.", "head."),
)

# What releases carry and no code uses (docs/method.md#a, #c, #f, #l): buffers of the geometry, unused
# heads, image sizes.
_DEAD = (
    ("encoder", r"height|width"),
    ("depth", r"xyz_min|xyz_max|Zval|scene_centroid|(gs_)?vox_util\.posfreq"),
    ("depth", r"_3DCNN\.classif(3|_flow)\..+"),
    ("pose_encoder", r"encoder\.fc\..+"),
    ("pose", r"(refine_mlp|finial_conv)\..+"),
)


@dataclass(frozen=True)
class Source:
    """Where a tensor stands in a release."""

    network: str
    name: str


def our_name(source: Source) -> str | None:
    """The parameter or buffer of our network that a released tensor is; None if it is none of them."""
    for network, theirs, ours in _TABLE:
        if source.network == network and source.name.startswith(theirs):
            return ours + source.name.removeprefix(theirs)
    return None


def their_name(ours: str, our_network: str) -> Source:
    """Where a tensor of one of our networks stands in a release."""
    for network, theirs, prefix in _TABLE:
        if NETWORKS[network] == our_network and ours.startswith(prefix):
            return Source(network, theirs + ours.removeprefix(prefix))
    raise KeyError(f"{ours}: the {our_network} network of a release has no such tensor")


def is_dead(source: Source) -> bool:
    """Whether a released entry is known to be unused."""
    return any(source.network == network and re.fullmatch(pattern, source.name) for network, pattern in _DEAD)
