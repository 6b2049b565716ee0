# SPDX-License-Identifier: Apache-2.0
"""The node's output topics: what each is made by, its QoS, and that nothing is computed for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.labels import PALETTE, free_label
from gaussianocc_core.navigation.clearing import passed_rays
from gaussianocc_core.navigation.filter_mask import make_mask
from gaussianocc_core.navigation.obstacles import align_map, map_ground
from gaussianocc_core.navigation.traversability import class_table, parse_values
from gaussianocc_core.types import Cameras, OccupancyPrediction
from gaussianocc_core.viz.legend import draw_legend
from gaussianocc_ros import conversions
from gaussianocc_ros.clearing import ClearingOutputs
from gaussianocc_ros.delivery import wait_until_delivered
from gaussianocc_ros.gather import Gathered
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.qos import latched_qos
from gaussianocc_ros.scenery import encode_rig
from gaussianocc_ros.views import Render, ViewOutputs, encode_image

# Reliable, but DDS repairs only what is still among the last `depth` messages, and takes its time: Fast DDS asks every
# 3 s what is missing. Megabytes travel as many fragments; with a depth of 1, the next message replaces one of which a
# fragment was lost (Wi-Fi, a busy machine) before it is repaired. Five span 3 s at 1.7 Hz and still bound memory.
_DEPTH = 5
# No depth is enough for a subscriber that stays behind (of 30 MarkerArrays of 4 MB in a row, 1 arrived with a depth of
# 1, 8 with 5): a lossless replay waits until all have what was published. Not for ever: one may have died silently.
_DELIVERY_TIMEOUT = 10.0  # s
_SCENERY_PERIOD = 5.0  # s until ~/rig and ~/legend are said again
_HIDDEN_REACH = 12.0  # m, of ~/hidden_points: what is hidden fills most of a street

Encode = Callable[[OccupancyPrediction, int], Any]  # prediction, stamp in ns -> message or its CDR bytes, or None
EgoAt = Callable[[int], "np.ndarray | None"]  # stamp in ns -> T_fixed_ego; None without odometry at that time


def practise_encoding(prediction: OccupancyPrediction, cameras: Cameras, parameters: NodeParameters) -> None:
    """Every encoder once, for nobody. cameras: any that see the prediction."""
    frame, rule = parameters.ego_frame, parameters.traversability
    conversions.encode_occupancy(prediction, 0, frame_id=frame)
    conversions.encode_points(prediction, 0, frame_id=frame)
    conversions.serialize_markers(prediction, 0, exposed_only=parameters.markers_exposed_only, frame_id=frame)
    passed_rays(prediction, cameras, 0, rule)
    try:
        conversions.encode_obstacles(prediction, 0, frame, rule)
        columns = map_ground(prediction, rule)
    except ValueError:  # classes that the model lacks; configure says so
        return
    conversions.encode_ground_map(align_map(columns, prediction, np.eye(4)), 0, frame)


class Outputs:
    """A lifecycle publisher and an encoder per topic."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters, ego_at: EgoAt = lambda stamp_ns: None) -> None:
        """ego_at: odometry, for what is published in the fixed frame."""
        self._node, self._lossless = node, parameters.reliable
        self._ego_at = ego_at
        self._known_place: np.ndarray | None = None  # T_fixed_ego of the set that is published
        self.problem = ""  # why a topic with subscribers got nothing for the last set
        self._topics: list[tuple[Any, Encode]] = []
        frame = parameters.ego_frame
        self._views = ViewOutputs(node, parameters.camera_names) if parameters.publish_views else None
        self.parameters = parameters
        self._offer(SemanticOccupancy, "~/occupancy", partial(conversions.encode_occupancy, frame_id=frame))
        if parameters.publish_points:
            self._offer(PointCloud2, "~/points", self._visible(partial(conversions.encode_points, frame_id=frame)))
        if parameters.publish_hidden:
            hidden = partial(conversions.encode_hidden, frame_id=frame, reach=_HIDDEN_REACH)
            self._offer(PointCloud2, "~/hidden_points", hidden)
        if parameters.publish_markers:
            encode = partial(
                conversions.serialize_markers,
                exposed_only=parameters.markers_exposed_only,
                most=parameters.markers_most,
            )
            self._offer(MarkerArray, "~/markers", self._visible(partial(encode, frame_id=frame)))
        if parameters.publish_obstacles:
            self._offer(PointCloud2, "~/obstacles", self._obstacles)
        self._clearing = ClearingOutputs(node, parameters.camera_names, frame) if parameters.publish_clearing else None
        if parameters.publish_grid:
            self._offer(OccupancyGrid, "~/grid", self._ground_map, latched_qos())
        self._mask_values = parse_values([each for each in parameters.mask_values if each])
        if self._mask_values:
            self._offer(OccupancyGrid, "~/filter_mask", self._filter_mask, latched_qos())
        self._scenery: tuple[Any, ...] = ()  # publishers of ~/rig and ~/legend
        self._drawn: Cameras | None = None  # the cameras on ~/rig
        self._drawn_at = 0.0  # by the clock that nobody sets
        if parameters.publish_scenery:
            kinds = ((MarkerArray, "~/rig"), (Image, "~/legend"))
            self._scenery = tuple(node.create_lifecycle_publisher(kind, topic, latched_qos()) for kind, topic in kinds)

    @property
    def parameters(self) -> NodeParameters:
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: NodeParameters) -> None:
        """Replaced when a dynamic one changes."""
        self._parameters = parameters
        if self._views is not None:
            self._views.palette = PALETTE if parameters.view_colors else None

    def _visible(self, encode: Encode) -> Encode:
        """Without the classes that are to be hidden."""

        def encode_visible(prediction: OccupancyPrediction, stamp_ns: int) -> Any:
            hidden = tuple(name for name in self.parameters.hidden_classes if name)
            if hidden:
                names = prediction.class_names
                table = np.where(class_table(names, hidden), free_label(names), np.arange(256)).astype(np.uint8)
                prediction = replace(prediction, labels=table[prediction.labels])
            return encode(prediction, stamp_ns)

        return encode_visible

    def _offer(self, kind: Any, topic: str, encode: Encode, qos: QoSProfile | None = None) -> None:
        qos = qos or QoSProfile(depth=_DEPTH)
        self._topics.append((self._node.create_lifecycle_publisher(kind, topic, qos), encode))

    def publish(self, prediction: OccupancyPrediction, stamp_ns: int, T_fixed_ego: np.ndarray | None = None) -> None:
        """T_fixed_ego: what odometry said when the set was begun; None: it is asked again. It forgets the past where a
        recording starts over."""
        self.problem, self._known_place = "", T_fixed_ego
        for publisher, encode in self._topics:
            if publisher.get_subscription_count():
                message = encode(prediction, stamp_ns)
                if message is not None:
                    publisher.publish(message)

    def publish_views(self, gathered: Gathered, render: Render) -> bool:
        """See `ViewOutputs.publish`; whether anybody looks."""
        return self._views is not None and self._views.publish(gathered, render)

    def publish_clearing(self, gathered: Gathered, prediction: OccupancyPrediction) -> None:
        """See `ClearingOutputs.publish`."""
        if self._clearing is not None:
            self._clearing.publish(gathered, prediction, self.parameters.traversability)

    def publish_scenery(self, mounted: Cameras | None, prediction: OccupancyPrediction, continues: bool) -> None:
        """The robot with these cameras, and the legend: where they are not those that were published, and now and then.

        RViz drops what it shows when time steps back (continues: False), as where a replay loops, and on its button
        Reset. It gets no latched message a second time by itself, and may see the first after a step back before it
        notices the step: drawing in software it looks once a second.
        """
        if not self._scenery or mounted is None:
            return
        now, (rig, legend) = time.monotonic(), self._scenery
        again = not continues or now - self._drawn_at >= _SCENERY_PERIOD
        if mounted is not self._drawn or (again and rig.get_subscription_count()):
            rig.publish(encode_rig(mounted, self.parameters.ego_frame))
        if self._drawn is None or (again and legend.get_subscription_count()):
            picture = draw_legend(prediction.class_names, prediction.grid)
            legend.publish(encode_image(picture, "rgb8", Header(frame_id=self.parameters.ego_frame)))
        if again or mounted is not self._drawn:
            self._drawn_at = now
        self._drawn = mounted

    def _obstacles(self, prediction: OccupancyPrediction, stamp_ns: int) -> PointCloud2:
        parameters = self.parameters
        return conversions.encode_obstacles(prediction, stamp_ns, parameters.ego_frame, parameters.traversability)

    def _ground_map(self, prediction: OccupancyPrediction, stamp_ns: int) -> OccupancyGrid | None:
        place = self._map_place(stamp_ns, "~/grid")
        if place is None:
            return None
        frame, T_frame_ego = place
        columns = map_ground(prediction, self.parameters.traversability)
        return conversions.encode_ground_map(align_map(columns, prediction, T_frame_ego), stamp_ns, frame)

    def _filter_mask(self, prediction: OccupancyPrediction, stamp_ns: int) -> OccupancyGrid | None:
        place = self._map_place(stamp_ns, "~/filter_mask")
        if place is None:
            return None
        frame, T_frame_ego = place
        mask = make_mask(prediction, self._mask_values, self.parameters.obstacle_high, T_frame_ego)
        return conversions.encode_ground_map(mask, stamp_ns, frame)

    def _map_place(self, stamp_ns: int, topic: str) -> tuple[str, np.ndarray | None] | None:
        """Frame of maps and T_frame_ego: the fixed frame, or, where there is none, the robot's own and None. None:
        odometry is late."""
        frame, ego = self.parameters.fixed_frame, self.parameters.ego_frame
        if not frame:
            return ego, None
        T_frame_ego = self._ego_at(stamp_ns) if self._known_place is None else self._known_place
        if T_frame_ego is None:
            self.problem = (
                f"{topic}: TF has no {frame} <- {ego} at the image's time; an empty fixed_frame maps around the robot "
                "instead"
            )
            return None
        return frame, T_frame_ego

    def undelivered(self, others: Sequence[Any] = ()) -> list[str]:
        """Waits for all subscribers if the replay is lossless; topics of which one still lacks messages after that.

        others: publishers of the node's own that belong to a set too.
        """
        if not self._lossless:
            return []
        deadline = time.monotonic() + _DELIVERY_TIMEOUT
        publishers = [publisher for publisher, _ in self._topics] + (self._views.publishers if self._views else [])
        publishers += self._clearing.publishers if self._clearing else []
        publishers += others
        return [publisher.topic_name for publisher in publishers if not self._delivered(publisher, deadline)]

    def _delivered(self, publisher: Any, deadline: float) -> bool:
        return wait_until_delivered(publisher, self._node.context, deadline - time.monotonic())

    def close(self) -> None:
        while self._topics:
            self._node.destroy_lifecycle_publisher(self._topics.pop()[0])
        for publisher in self._scenery:
            self._node.destroy_lifecycle_publisher(publisher)
        self._scenery = ()
        for each in (self._clearing, self._views):
            if each is not None:
                each.close()
