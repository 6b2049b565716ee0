# SPDX-License-Identifier: Apache-2.0
"""The page itself: a web server, its controls, and the thread that draws. Built on viser, which serves all of it from
this machine: nothing is fetched from outside.

The page shows one moment to all who look. What they set (colours, layers, the time) holds for all of them; from where
they look is their own. Nothing is drawn while nobody looks.
"""

from __future__ import annotations

import contextlib
import html
import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.transforms import matrix_to_quat
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.viewer import painting
from gaussianocc_core.viewer.moment import Moment
from gaussianocc_core.viewer.numbers import describe
from gaussianocc_core.viewer.painting import Choice

SPEEDS = {"1/4": 0.25, "1/2": 0.5, "1": 1.0, "2": 2.0, "as fast as it goes": 0.0}
_MOSAIC_WIDTH = 960  # px
_PARTS = ("voxels", "states", "map", "points", "path", "cameras", "words")
_PATH_RGB, _AHEAD_RGB = (90, 100, 120), (0, 230, 60)
_EYE, _TARGET = (-22.0, 9.0, 16.0), (7.0, 0.0, 0.0)  # m, ego frame

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Where:
    """Where the page is served, and to how many."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: any that is free
    viewers: int = 8  # at once

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535 or self.viewers < 1:
            raise ValueError(f"page: expected a port of 0 to 65535 and 1 viewer or more, got {self}")


@dataclass(frozen=True)
class Timeline:
    """What can be played: the scenes, and the moments of the one that is shown."""

    scenes: tuple[str, ...]
    scene: str
    seconds: tuple[float, ...]  # of each moment, from the first


def plain(text: str) -> str:
    """Text of a file or a message as Markdown that shows it and does nothing else; viser renders HTML in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~>])", r"\\\1", html.escape(text, quote=False).replace("&gt;", ">"))


def is_own_name(host: str | None, served: str) -> bool:
    """Whether a browser that asks for this host means this machine: by address, as localhost, or by its own name."""
    name = urlsplit(f"//{host}").hostname if host else None
    if name is None:
        return False
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    own = socket.gethostname().lower()
    return name in ("localhost", served.lower(), own, own.partition(".")[0]) or name == f"{own.partition('.')[0]}.local"


class Page:
    """`show` it moments, from any thread; the newest wins."""

    def __init__(self, title: str, where: Where, timeline: Timeline | None = None, robot: RobotConfig | None = None):
        """timeline: None for what is live: then there is nothing to play."""
        try:
            import rich
            import viser  # here: only the page needs it
        except ModuleNotFoundError as error:
            raise GaussianOccError(
                f"{error.name} is not installed; run `make setup`, or in the repository: pip install '.[viewer]'"
            ) from None
        self._robot = robot or RobotConfig()
        _check_port(where)
        rich.get_console().quiet = True  # viser speaks of its server through it; the address is for us to say
        self._server: Any = viser.ViserServer(host=where.host, port=where.port, label=title, verbose=False)
        self.port = int(self._server.get_port())
        self.host, self._limit = where.host, where.viewers
        self._changed = threading.Condition()
        self._dirty: set[str] = set()
        self._painting = False
        self._sought: int | None = None  # the moment that a viewer asked for, until it is shown
        self._moment: Moment | None = None
        self._closed = False
        self.on_viewers: Callable[[int], None] = lambda count: None  # told when somebody comes or leaves
        self.on_seek: Callable[[int], None] = lambda number: None
        self.on_play: Callable[[bool, float], None] = lambda playing, speed: None
        self.on_scene: Callable[[str], None] = lambda scene: None
        self._nodes: dict[str, Any] = {}
        self._controls: dict[str, Any] = {}
        self._timeline = timeline
        self._build(title)
        self._server._websock_server.on_client_connect(self._admit)
        self._server.on_client_connect(lambda client: self._count())
        self._server.on_client_disconnect(lambda client: self._count())
        self._painter = threading.Thread(target=self._paint_for_ever, name="page", daemon=True)
        self._painter.start()

    # ---- from outside ----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        host = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else self.host
        return f"http://{host}:{self.port}"

    @property
    def viewers(self) -> int:
        return len(self._server.get_clients())

    @property
    def busy(self) -> bool:
        """Whether something that was asked for is not drawn yet."""
        with self._changed:
            return self._painting or bool(self._dirty)

    def show(self, moment: Moment, number: int | None = None) -> None:
        """number: of the moment on the timeline, where there is one."""
        if self._sought in (None, number):  # not while somebody asks for another moment
            self._sought = None
            if number is not None and "time" in self._controls and self._controls["time"].value != number:
                self._controls["time"].value = number
        with self._changed:
            first = self._moment is None
            self._moment = moment
            self._dirty.update(_PARTS)
            self._changed.notify_all()
        if first:
            self._offer(moment)

    def say(self, text: str) -> None:
        """One line of state in Markdown: what is being computed, or what went wrong. Names go through `plain`."""
        self._controls["state"].content = text

    def set_timeline(self, timeline: Timeline) -> None:
        """Another scene."""
        self._timeline = timeline
        self._controls["time"].max = max(len(timeline.seconds) - 1, 1)
        self._controls["time"].value = 0

    def set_playing(self, playing: bool) -> None:
        self._controls["play"].label = "Pause" if playing else "Play"

    def wait(self) -> None:
        """Until Ctrl-C, or `close`."""
        self._painter.join()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._painter.join(timeout=5.0)
        self._server.stop()

    # ---- controls --------------------------------------------------------------------------------------------------

    def _build(self, title: str) -> None:
        server, gui, scene = self._server, self._server.gui, self._server.scene
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, brand_color=(70, 130, 220))
        gui.set_panel_label(title)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(380)
        scene.configure_environment_map(None)  # faces are lit already
        scene.configure_default_lights(enabled=False)
        scene.set_up_direction("+z")
        scene.set_background_image(_backdrop(), format="png")
        scene.world_axes.visible = False
        server.initial_camera.position, server.initial_camera.look_at = _EYE, _TARGET
        server.initial_camera.up = (0.0, 0.0, 1.0)
        self._nodes["vehicle"] = scene.add_glb("/vehicle", painting.paint_vehicle(), cast_shadow=False)
        scene.add_glb("/floor", painting.paint_floor(), cast_shadow=False, receive_shadow=False)
        self._controls["state"] = gui.add_markdown("waiting for the first moment")
        if self._timeline is not None:
            self._build_time()
        with gui.add_folder("This moment"):
            self._controls["numbers"] = gui.add_markdown("")
            self._controls["legend"] = gui.add_html("")
        with gui.add_folder("Voxels"):
            self._dropdown("show", (painting.PREDICTION,), ("voxels", "words"), "prediction, truth, or what is wrong")
            self._dropdown(
                "color",
                (painting.BY_CLASS, painting.BY_HEIGHT, painting.BY_CONFIDENCE),
                ("voxels", "cameras", "words"),
                "what the colours of the voxels say",
            )
            self._slider("least confidence", 0.0, 1.0, 0.05, 0.0, "occupied voxels that the model is less sure of go")
            self._slider("cut above, m", -1.0, 5.5, 0.5, 5.5, "nothing that lies higher is drawn")
            self._checkbox("obstacles in red", False, ("voxels", "words"), "what stands in the robot's way")
        with gui.add_folder("Around"):
            self._checkbox("cameras", True, ("cameras",), "where they are, with their images")
            self._checkbox("path", True, ("path",), "grey: driven; green: driven next")
            self._checkbox("map", False, ("map",), "green: ground that was seen; red: something stands there")
            self._checkbox("lidar", False, ("points",), "points, where the recording has them")
        with gui.add_folder("Not occupied"):
            for name, text in (
                ("free", "rays were seen to pass"),
                ("hidden", "in view, but behind a surface, or in doubt"),
                ("unseen", "no camera looks there, or it is too far away"),
            ):
                self._checkbox(name, False, ("states", "words"), text)
        panel = gui.add_panel()
        panel.float(x=15, y=-15, width=_MOSAIC_WIDTH // 2 + 30)
        with panel.add_tab("Cameras"):
            self._dropdown(
                "picture", (painting.IMAGE, painting.DEPTH, painting.COLORS), ("cameras",), "what the voxels look like"
            )
            blank = np.full((90, 160, 3), 24, dtype=np.uint8)
            self._controls["mosaic"] = gui.add_image(blank, format="jpeg", jpeg_quality=85)

    def _build_time(self) -> None:
        gui, timeline = self._server.gui, self._timeline
        assert timeline is not None
        if len(timeline.scenes) > 1:
            chosen = gui.add_dropdown("scene", timeline.scenes, initial_value=timeline.scene)
            chosen.on_update(lambda event: self.on_scene(event.target.value))
        slider = gui.add_slider("moment", 0, max(len(timeline.seconds) - 1, 1), 1, 0)
        # What is set from here, as the drive plays, is no wish of a viewer.
        slider.on_update(lambda event: None if event.client is None else self._seek(slider.value))
        self._controls["time"] = slider
        play = gui.add_button("Play")
        speed = gui.add_dropdown("speed", tuple(SPEEDS), initial_value="1", hint="times that of the recording")
        play.on_click(lambda event: self._play(play.label == "Play", SPEEDS[speed.value]))
        speed.on_update(lambda event: self._play(play.label != "Play", SPEEDS[speed.value]))
        self._controls["play"] = play

    def _seek(self, number: int) -> None:
        self._sought = number
        self.on_seek(number)

    def _play(self, playing: bool, speed: float) -> None:
        self._sought = None  # the slider follows what is shown again
        self.on_play(playing, speed)

    def _dropdown(self, name: str, options: Sequence[str], parts: Sequence[str], hint: str) -> None:
        control = self._server.gui.add_dropdown(name, tuple(options), initial_value=options[0], hint=hint)
        self._watch(name, control, parts)

    def _checkbox(self, name: str, value: bool, parts: Sequence[str], hint: str) -> None:
        self._watch(name, self._server.gui.add_checkbox(name, value, hint=hint), parts)

    def _slider(self, name: str, low: float, high: float, step: float, value: float, hint: str) -> None:
        self._watch(name, self._server.gui.add_slider(name, low, high, step, value, hint=hint), ("voxels", "states"))

    def _watch(self, name: str, control: Any, parts: Sequence[str]) -> None:
        self._controls[name] = control

        @control.on_update
        def _(_: Any) -> None:
            with self._changed:
                self._dirty.update(parts)
                self._changed.notify_all()

    def _offer(self, moment: Moment) -> None:
        """The controls that this kind of recording has a use for."""
        if moment.truth is not None:
            self._controls["show"].options = (painting.PREDICTION, painting.TRUTH, painting.DIFFERENCE)
        if moment.classless:
            self._controls["color"].value = painting.BY_HEIGHT
        self._controls["lidar"].visible = moment.lidar is not None or self._timeline is not None

    def choice(self) -> Choice:
        value = {name: control.value for name, control in self._controls.items() if hasattr(control, "value")}
        return Choice(
            show=value["show"],
            color=value["color"],
            states=tuple(name for name in painting.STATES if value[name]),
            least_confidence=value["least confidence"],
            top=value["cut above, m"],
            obstacles=value["obstacles in red"],
            picture=value["picture"],
            robot=self._robot,
        )

    # ---- who looks -------------------------------------------------------------------------------------------------

    async def _admit(self, connection: Any) -> None:
        """Before anything is sent: not more than the limit, and no page of another site in the viewer's browser."""
        server = self._server._websock_server
        connected = server._live_connections[connection.client_id]
        headers = connected.request.headers
        origin, host = headers.get("Origin"), headers.get("Host")
        # A name of somebody else's that leads to this machine is none of its own (DNS rebinding).
        if (origin is not None and urlsplit(origin).netloc != host) or not is_own_name(host, self.host):
            _log.warning("page: refused a connection from %s", origin)
            await connected.close(1008, "this page is not of this server")
        elif len(server._live_connections) > self._limit:
            _log.warning("page: %d look already; one more was refused", self._limit)
            await connected.close(1013, f"{self._limit} viewers look already; try again later")

    def _count(self) -> None:
        count = self.viewers
        self.on_viewers(count)
        with self._changed:
            self._changed.notify_all()

    # ---- drawing ---------------------------------------------------------------------------------------------------

    def _paint_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or (self._dirty and self._moment is not None and self.viewers)
                )
                if self._closed:
                    return
                moment, parts = self._moment, frozenset(self._dirty)
                self._dirty.clear()
                self._painting = True
            assert moment is not None
            try:
                self._paint(moment, parts, self.choice())
            except Exception:  # the page goes on with the next moment
                _log.exception("page: a moment could not be drawn")
            self._painting = False

    def _paint(self, moment: Moment, parts: frozenset[str], choice: Choice) -> None:
        """Voxels and words first: pictures may have to be rendered."""
        shown = {name: bool(self._controls[name].value) for name in ("cameras", "path", "map", "lidar")}
        with self._server.atomic():
            if "voxels" in parts:
                self._mesh("voxels", painting.paint_voxels(moment, choice))
            if "path" in parts:
                self._paint_path(moment, shown["path"])
            if "words" in parts:
                self._write(moment, choice)
        self._server.flush()
        if "states" in parts:
            for name in painting.STATES:
                wanted = name in choice.states
                self._mesh(name, painting.paint_state(moment, name, choice.top) if wanted else None)
        if "map" in parts:
            self._mesh("map", painting.paint_map(moment, choice.robot) if shown["map"] else None)
        if "points" in parts:
            self._paint_points(moment, shown["lidar"])
        if "cameras" in parts:
            self._paint_cameras(moment, choice, shown["cameras"])
        self._server.flush()

    def _write(self, moment: Moment, choice: Choice) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in describe(moment, choice.robot))
        lines = [] if moment.trained else ["**UNTRAINED: what it says means nothing.**"]
        lines.append(f"model **{plain(moment.model)}** · {plain(moment.scene)}")
        if choice.show != painting.PREDICTION and moment.truth is None:
            lines.append(f"No truth is known at this moment: this is the prediction, not the {choice.show}.")
        self._controls["numbers"].content = f"| | |\n|---|---|\n{rows}"
        self._controls["legend"].content = painting.legend(moment, choice)
        self._controls["state"].content = "  \n".join(lines)

    def _mesh(self, name: str, glb: bytes | None) -> None:
        node = self._nodes.get(name)
        if node is None:
            if glb is not None:
                scene = self._server.scene
                self._nodes[name] = scene.add_glb(f"/{name}", glb, cast_shadow=False, receive_shadow=False)
            return
        node.visible = glb is not None
        if glb is not None:
            node.glb_data = glb

    def _paint_points(self, moment: Moment, shown: bool) -> None:
        points, colors = painting.paint_points(moment)
        self._replace("points", shown and len(points) > 0)
        if shown and len(points):
            self._nodes["points"] = self._server.scene.add_point_cloud(
                "/points", points, colors, point_size=0.06, point_shape="square", point_shading="flat"
            )

    def _paint_path(self, moment: Moment, shown: bool) -> None:
        path = moment.path if shown else None
        self._replace("path", path is not None)
        if path is None or len(path) < 2:
            return
        lifted = path + np.array([0.0, 0.0, 0.3])
        colors = np.where(np.arange(len(path) - 1)[:, None, None] < moment.place, _PATH_RGB, _AHEAD_RGB)
        self._nodes["path"] = self._server.scene.add_line_segments(
            "/path",
            np.stack([lifted[:-1], lifted[1:]], axis=1),
            np.broadcast_to(colors, (len(path) - 1, 2, 3)).astype(np.uint8),
            thickness=4.0,
            thickness_units="screen",
        )

    def _paint_cameras(self, moment: Moment, choice: Choice, shown: bool) -> None:
        pictures = painting.paint_pictures(moment, choice)
        cameras = moment.cameras
        self._controls["mosaic"].image = painting.arrange(moment, pictures, _MOSAIC_WIDTH)
        for n, name in enumerate(cameras.names):
            key = f"camera {name}"
            K, T_ego_cam = cameras.intrinsics[n].double().numpy(), cameras.T_ego_cam[n].double().numpy()
            place, wxyz = tuple(T_ego_cam[:3, 3]), tuple(matrix_to_quat(T_ego_cam[:3, :3]))
            if key not in self._nodes:
                self._nodes[key] = self._server.scene.add_camera_frustum(
                    f"/cameras/{name}",
                    fov=2 * float(np.arctan2(0.5 * cameras.height[n], K[1, 1])),
                    aspect=float(cameras.width[n] / K[0, 0] / (cameras.height[n] / K[1, 1])),
                    scale=0.9,
                    thickness=1.5,
                    thickness_units="screen",
                    color=(120, 190, 255),
                    cast_shadow=False,
                    receive_shadow=False,
                    image=pictures.get(name),
                    format="jpeg",
                    jpeg_quality=80,
                    wxyz=wxyz,
                    position=place,
                )
            else:  # not at once after it was made: a browser drops an image that is replaced while it loads
                node = self._nodes[key]
                node.position, node.wxyz = place, wxyz
                if name in pictures and shown:
                    node.image = pictures[name]
            self._nodes[key].visible = shown
        for key in [key for key in self._nodes if key.startswith("camera ") and key[7:] not in cameras.names]:
            self._replace(key, False)

    def _replace(self, name: str, again: bool) -> None:
        """Nodes of changing length are made anew under their name; without another, they go."""
        if not again and (node := self._nodes.pop(name, None)) is not None:
            with contextlib.suppress(KeyError):
                node.remove()


def _check_port(where: Where) -> None:
    """viser takes the next free port instead, and nobody finds the page."""
    import socket

    if not where.port:
        return
    with socket.socket(socket.AF_INET6 if ":" in where.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where.host, where.port))
        except OSError as error:
            raise GaussianOccError(
                f"{where.host}:{where.port} cannot be served ({error.strerror}); give another port or address"
            ) from None


def _backdrop() -> np.ndarray:
    """A dark vertical gradient."""
    mix = np.linspace(0, 1, 256)[:, None, None]
    return np.rint((1 - mix) * np.array([20, 25, 35]) + mix * np.array([38, 46, 60])).astype(np.uint8).repeat(4, axis=1)
