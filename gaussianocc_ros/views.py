# SPDX-License-Identifier: Apache-2.0
"""What the occupancy looks like from each camera: ~/<camera>/depth and ~/<camera>/semantic, rendered when asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.types import Cameras
from gaussianocc_ros.gather import Gathered
from gaussianocc_ros.parameters import topic_token
from gaussianocc_ros.stamps import time_message

_DEPTH = 2  # messages that DDS keeps

# Cameras with subscribers -> their pinhole cameras, (N, h, w) z-depth in m, 0 where nothing is, and class ids.
Render = Callable[[tuple[str, ...]], "tuple[Cameras, np.ndarray, np.ndarray]"]


class ViewOutputs:
    """Four lifecycle publishers per camera: depth and semantic images, each with its CameraInfo beside it.

    Depth is 32FC1 in metres with +inf where nothing is (REP 118), semantics mono8 class ids, with that of free for sky.
    """

    def __init__(self, node: LifecycleNode, cameras: tuple[str, ...], palette: np.ndarray | None = None) -> None:
        """palette: (K, 3) uint8; semantic images are then rgb8 of these colours instead of ids."""
        self._node, self.palette = node, palette
        self._publishers: dict[str, dict[str, Any]] = {}
        for camera in cameras:
            space = f"~/{topic_token(camera)}"
            names = [f"{what}/{part}" for what in ("depth", "semantic") for part in ("image_raw", "camera_info")]
            self._publishers[camera] = {
                name: node.create_lifecycle_publisher(
                    Image if name.endswith("image_raw") else CameraInfo, f"{space}/{name}", QoSProfile(depth=_DEPTH)
                )
                for name in names
            }

    def wanted(self, cameras: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the cameras that somebody looks at."""
        return tuple(c for c in cameras if any(p.get_subscription_count() for p in self._publishers[c].values()))

    def publish(self, gathered: Gathered, render: Render) -> bool:
        """The views of the set's images that somebody looks at, with their stamps and frames; False if nobody does."""
        names = self.wanted(gathered.cameras.names)
        if not names:
            return False
        palette = self.palette  # a parameter may change it meanwhile
        views, depth, classes = render(names)
        depth = np.where(depth > 0, depth, np.float32(np.inf)).astype(np.float32, copy=False)
        for i, camera in enumerate(names):
            header = Header(stamp=time_message(gathered.stamps_ns[camera]), frame_id=gathered.frames[camera])
            semantic = classes[i]
            if palette is not None:  # free is its last colour, whichever id the model has for it
                semantic = np.where(np.isfinite(depth[i])[..., None], palette[classes[i]], palette[-1])
            info = encode_camera_info(views, i, header)
            messages = {
                "depth/camera_info": info,
                "depth/image_raw": encode_image(depth[i], "32FC1", header),
                "semantic/camera_info": info,
                "semantic/image_raw": encode_image(semantic, "mono8" if palette is None else "rgb8", header),
            }
            for name, message in messages.items():
                self._publishers[camera][name].publish(message)
        return True

    @property
    def publishers(self) -> list[Any]:
        return [publisher for each in self._publishers.values() for publisher in each.values()]

    def close(self) -> None:
        for publisher in self.publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}


def encode_image(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """(h, w) or (h, w, channels), of the encoding's type."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(
        header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels.strides[0]
    )
    message.data = array("B", pixels.tobytes())
    return message


def encode_camera_info(cameras: Cameras, index: int, header: Header) -> CameraInfo:
    """Of a pinhole camera without distortion."""
    K = to_opencv(cameras.intrinsics[index].double().cpu().numpy())
    return CameraInfo(
        header=header,
        width=cameras.width[index],
        height=cameras.height[index],
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=K.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel().tolist(),
    )
