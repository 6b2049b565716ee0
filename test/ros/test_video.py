# SPDX-License-Identifier: Apache-2.0
"""Compressed video in the node: every packet is decoded in order, and no picture stands for one that is missing."""

import os
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from support.message_packages import build_message
from support.node_rig import NodeRig
from support.video_streams import LOSS, VideoBag, difference, encode, packet, scene

from gaussianocc_core.bags.messages import ImageError, WaitsForKeyframe
from gaussianocc_core.bags.video import FFMPEG_TYPE, FOXGLOVE_TYPE, VIDEO_DEFINITIONS, VideoDecoder
from gaussianocc_core.errors import ConfigError
from gaussianocc_ros import decoding
from gaussianocc_ros.decoding import ImageDecoder
from gaussianocc_ros.transports import message_type

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 64)
MS = 1_000_000


@pytest.fixture
def decoder():
    made = []

    def build(*videos):
        made.append(ImageDecoder(2, 1 << 20, videos))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The messages of both packages, built where ROS does not bring them."""
    folder = tmp_path_factory.mktemp("messages")
    build_message(folder, FFMPEG_TYPE, VIDEO_DEFINITIONS[FFMPEG_TYPE], "std_msgs")
    build_message(folder, FOXGLOVE_TYPE, VIDEO_DEFINITIONS[FOXGLOVE_TYPE], "builtin_interfaces")
    return SimpleNamespace(ffmpeg=message_type("ffmpeg", "front"), foxglove=message_type("foxglove", "left"))


def stream(count=12, codec="h264", seed=0, **options):
    frames = [scene(n, SIZE, seed) for n in range(count)]
    return frames, encode(frames, codec, **options)


def packets(kind=FFMPEG_TYPE, **options):
    frames, coded = stream(**options)
    return frames, [
        packet(kind, 1000 + each.frame, "front", each, SIZE, options.get("codec", "h264")) for each in coded
    ]


# ---- the decoder, with packets as they arrive ----------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_pictures_are_taken_only_of_some_packets_and_are_right(decoder, codec):
    frames, contents = packets(codec=codec, gop=30)
    images = decoder("front")
    images.reduce_to({"front": 2})
    pending = [images.take("front", content) for content in contents]
    for n in (3, 11):
        decoded, failed = images.finish({"front": pending[n]})
        assert failed == {} and decoded["front"].reduce == 2 and decoded["front"].fits(*SIZE)
        small = frames[n].reshape(32, 2, 48, 2, 3).mean((1, 3))
        assert difference(decoded["front"].pixels, small) < LOSS
    assert pending[3].picture is None and pending[3].message is None  # nothing is kept twice


def test_after_a_gap_images_wait_for_a_keyframe_and_say_so(decoder):
    frames, contents = packets(gop=6)
    images = decoder("front")
    pending = {n: images.take("front", content) for n, content in enumerate(contents) if n not in (0, 8)}
    for n, image in pending.items():
        decoded, failed = images.finish({"front": image})
        if n < 6 or n > 8:
            assert isinstance(failed["front"], WaitsForKeyframe) and "waits for a keyframe" in str(failed["front"])
        else:
            assert difference(decoded["front"].pixels, frames[n]) < LOSS


def test_a_restarted_stream_needs_a_keyframe(decoder):
    frames, contents = packets(gop=6)
    images = decoder("front")
    first = images.take("front", contents[0])
    images.restart()  # the node was inactive meanwhile
    later = {n: images.take("front", contents[n]) for n in (1, 6, 7)}
    assert difference(images.finish({"front": first})[0]["front"].pixels, frames[0]) < LOSS
    assert isinstance(images.finish({"front": later[1]})[1]["front"], WaitsForKeyframe)
    assert difference(images.finish({"front": later[7]})[0]["front"].pixels, frames[7]) < LOSS


def test_b_frames_are_refused_by_name(decoder):
    _, contents = packets(b_frames=2, gop=8)
    images = decoder("front")
    failed = [images.finish({"front": images.take("front", content)})[1].get("front") for content in contents]
    assert any(isinstance(error, ImageError) and "B-frames" in str(error) for error in failed)


def test_packets_that_come_too_fast_do_not_pile_up(decoder, monkeypatch):
    monkeypatch.setattr(decoding, "_MOST_WAITING", 3)
    may_go, feed = threading.Event(), VideoDecoder.feed
    monkeypatch.setattr(
        VideoDecoder, "feed", lambda self, message, token: may_go.wait(20) and feed(self, message, token)
    )
    frames, contents = packets(gop=6)
    images = decoder("front")
    pending = [images.take("front", content) for content in contents[:5]]
    assert "comes faster than it is decoded" in str(images.finish({"front": pending[4]})[1]["front"])
    may_go.set()
    for n in range(3):
        assert difference(images.finish({"front": pending[n]})[0]["front"].pixels, frames[n]) < LOSS
    after = [images.take("front", contents[n]) for n in (5, 6)]
    assert "packets were skipped" in str(images.finish({"front": after[0]})[1]["front"])
    assert difference(images.finish({"front": after[1]})[0]["front"].pixels, frames[6]) < LOSS


def test_rubbish_is_an_undecodable_image(decoder):
    _, contents = packets(count=2)
    contents[1].data = np.zeros(40, np.uint8)
    images = decoder("front")
    pending = [images.take("front", content) for content in contents]
    failed = images.finish({"front": pending[1]})[1]["front"]
    assert not isinstance(failed, WaitsForKeyframe) and "video packet cannot be decoded" in str(failed)


# ---- packages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transport, package", [("ffmpeg", "ffmpeg_image_transport_msgs"), ("foxglove", "foxglove_msgs")]
)
def test_a_missing_package_is_named_with_its_camera(transport, package, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{package}.msg", None)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    said = f"camera left: image transport {transport} needs the ROS package {package}: apt install ros-jazzy-"
    with pytest.raises(ConfigError, match=said + package.replace("_", "-")):
        message_type(transport, "left")


def test_a_node_without_the_package_does_not_configure_and_says_why(graph, make, capfd, monkeypatch):
    from rclpy.lifecycle import TransitionCallbackReturn

    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", None)
    rig = NodeRig(graph, make, capfd, image_transport="foxglove")
    assert rig.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert rig.logged("image transport foxglove needs the ROS package foxglove_msgs")


def test_the_player_names_what_it_cannot_replay(tmp_path):
    path = VideoBag(cameras={"front": 0.0}, frames=3).write(tmp_path / "bag")
    arguments = ["bag_player", str(path), "--rate", "0", "--wait", "0"]
    code = "import sys; sys.modules['ffmpeg_image_transport_msgs.msg'] = None; "
    code += f"from gaussianocc_ros.bag_player import main; main({arguments})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    said = "skipped /front/image_raw/ffmpeg: no Python package for ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    assert said in result.stderr and "/front/camera_info" in result.stdout


# ---- the node, with the packages' messages -------------------------------------------------------------------------


@pytest.mark.slow  # two packages of messages are built
def test_the_node_takes_both_kinds_of_video_beside_jpeg(graph, make, capfd, packages):
    topics = ["/front/image_raw/ffmpeg", "/left/image_raw/foxglove", "/right/image_raw/compressed"]
    rig = NodeRig(graph, make, capfd, image_topics=topics)
    rig.image["front"] = graph.publisher(packages.ffmpeg, topics[0])
    rig.image["left"] = graph.publisher(packages.foxglove, topics[1])
    rig.start()
    rig.place()
    _, front = stream(gop=6)
    _, left = stream(gop=6, codec="h265", seed=1)

    def send(n, skip=()):
        ms = 100 * n
        stamps = {c: make.START_NS + (ms + 5 * i) * MS for i, c in enumerate(make.CAMERAS)}
        for camera, stamp in stamps.items():
            rig.info[camera].publish(make.camera_info(stamp, camera))
        header = make.header(stamps["front"], "front")
        if "front" not in skip:
            flags = int(front[n].keyframe)
            about = {
                "width": SIZE[0],
                "height": SIZE[1],
                "encoding": "h264;yuv420p;bgr8;bgr8",
                "pts": n,
                "flags": flags,
            }
            rig.image["front"].publish(packages.ffmpeg(header=header, data=array("B", front[n].data), **about))
        stamp = make.header(stamps["left"], "left").stamp
        data = array("B", left[n].data)
        rig.image["left"].publish(packages.foxglove(timestamp=stamp, frame_id="left", data=data, format="h265"))
        rig.image["right"].publish(make.jpeg(stamps["right"], "right", None))
        return stamps["front"]

    wanted = []
    for n in range(3):
        wanted.append(send(n))
        rig.outputs(n + 1)
    send(3, skip=("front",))
    send(4)  # its picture builds on one that never came
    graph.until(lambda: rig.logged("waits for a keyframe"), what="the reason")
    assert any("waits for a keyframe" in key for key in rig.values()[0])
    wanted.append(send(6))  # the next keyframe; of H.265 the fifth is missing, which its decoder does not mind here
    rig.outputs(4)
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in rig.occupancy]
    assert stamps == wanted


@pytest.mark.slow
def test_the_player_replays_video_byte_by_byte(graph, packages, tmp_path):
    for kind, message in ((FFMPEG_TYPE, packages.ffmpeg), (FOXGLOVE_TYPE, packages.foxglove)):
        bag = VideoBag(cameras={"front": 0.0}, frames=6, kind=kind)
        path = bag.write(tmp_path / message.__name__)
        found = graph.record(message, bag.topic("front"))
        command = [sys.executable, "-m", "gaussianocc_ros.bag_player", str(path), "--rate", "0"]
        built = os.pathsep.join(each for each in sys.path if "site-packages" in each)
        player = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": built})
        graph.until(lambda: len(found) == 6, 60.0, "packets")  # noqa: B023
        assert player.wait(30) == 0
        assert [bytes(each.data) for each in found] == [coded.data for coded in bag.streams["front"]]
