# SPDX-License-Identifier: Apache-2.0
"""Start the occupancy node and, if asked, a bag replay and RViz.

ros2 launch gaussianocc_ros occ.launch.py bag:=bags/scene-0061 rviz:=true
"""

import os
import re
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = "gaussianocc_ros"
# Argument -> what to do about it where the file is absent.
FILES = {
    "params_file": "tools/inspect_bag.py --write-config writes one for a robot's bag",
    "rig": "see config/rig/ for examples, or leave it out to take CameraInfo and TF",
    "checkpoint": "leave it out to take the shipped model",
    "bag": "give the folder of a rosbag2, its .mcap or its .db3 file",
}
VIEWED = re.compile(r"Value: (/[\w/]+)$", re.MULTILINE)  # topics in RViz's files
RVIZ = ("rviz2", "compressed_image_transport")  # without the second RViz refuses the whole file


def generate_launch_description():
    share = get_package_share_directory(PACKAGE)
    # An empty default means "not set": the node's own default, or the parameter file's value, then holds.
    arguments = {
        "params_file": (
            _default_parameters(share),
            "Parameter file of the node: cameras, topics, policies (docs/node.md lists all).",
        ),
        "rig": (
            "",
            "Rig file (config/rig/): lenses and mounting, in place of CameraInfo and /tf_static. "
            "Without a params_file all its cameras are used.",
        ),
        "checkpoint": ("", "Model file (.safetensors); overrides the parameter file. Default: the shipped model."),
        "device": ("", "auto, cpu, cuda, openvino, onnx, tensorrt ...; overrides the parameter file."),
        "autostart": ("", "false leaves configure and activate to a lifecycle manager."),
        "use_sim_time": ("", "Time from /clock. Default: true when a bag is played."),
        "bag": ("", "rosbag2 to play (folder, .mcap or .db3). Default: none, cameras are live."),
        "rate": ("", "Speed of the replay, 1 is that of the recording."),
        "loop": ("false", "Repeat the bag."),
        "rviz": ("false", "Start RViz: true or occ for cubes, map and two cameras, occ_depth for all cameras' depth."),
        "viewer": ("false", "Serve the viewer's page at localhost:8080 (docs/viewer.md)."),
        "namespace": ("", "Namespace of the robot: node, cameras' topics, TF and the replay move into it."),
        "tf": (
            "",
            "With a namespace: 'namespace' for a robot with TF of its own on /NAMESPACE/tf, as Nav2 has it, 'global' "
            "for /tf. Default: namespace, with a frame_prefix global.",
        ),
        "frame_prefix": ("", "Put before base_link and odom, such as robot1/; overrides the parameter file."),
        "log_level": ("info", "debug, info, warn, error or fatal."),
    }
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_processes, args=[share])])


def _default_parameters(share):
    return os.path.join(share, "config", "ros", "occupancy_node.yaml")


def _processes(context, share):
    given = {name: value for name, value in context.launch_configurations.items() if value != ""}
    for name, hint in FILES.items():
        if name in given:
            given[name] = os.path.abspath(os.path.expanduser(given[name]))
            # Of parameter files launch_ros would only warn; the others would fail after seconds.
            found = os.path.exists(given[name]) if name == "bag" else os.path.isfile(given[name])
            if not found:
                raise RuntimeError(f"{name}: no file {given[name]!r}; {hint}")
    rviz = _rviz_file(given["rviz"], share)
    bag = given.get("bag")
    if bag:
        _check_bag(bag)
    sim_time = _is_true(given.get("use_sim_time", "true" if bag else "false"))
    namespace = given.get("namespace", "").strip("/")
    node = f"/{namespace}/occupancy_node".replace("//", "/")
    overrides = {name: given[name] for name in ("checkpoint", "device", "frame_prefix") if name in given}
    tf = given.get("tf", "global" if "frame_prefix" in given else "namespace")
    if tf not in ("namespace", "global"):
        raise RuntimeError(f"tf: expected namespace or global, got {tf!r}")
    own_tf = namespace and tf == "namespace"
    tf_topics = ("/tf", "/tf_static")
    to_namespace = [(topic, f"/{namespace}{topic}") for topic in tf_topics] if own_tf else []
    # The player plays into its namespace.
    to_global = [(f"/{namespace}{topic}", topic) for topic in tf_topics] if namespace and not own_tf else []
    files = [given["params_file"]]
    if "rig" in given:
        overrides["rig_file"] = given["rig"]
        if given["params_file"] == os.path.abspath(_default_parameters(share)):
            files = []  # it names the cameras of another rig
    if "autostart" in given:
        overrides["autostart"] = _is_true(given["autostart"])
    rig = {name: value for name, value in overrides.items() if name == "rig_file"}
    if rviz and rviz.stem == "occ_depth":
        overrides["view_colors"] = True  # ids would be nearly black
    # RViz's files name odom and base_link; the view's target frame cannot be given, so it stays at the origin.
    fixed = ["--fixed-frame", f"{given['frame_prefix']}odom"] if "frame_prefix" in given else []
    common = {"output": "screen", "ros_arguments": ["--log-level", given["log_level"]]}
    processes = [
        Node(
            package=PACKAGE,
            executable="occupancy_node",
            name="occupancy_node",
            namespace=namespace,
            parameters=[*files, {**overrides, "use_sim_time": sim_time}],
            remappings=to_namespace,
            # Threads that wait must not spin: on a robot other processes need the cores.
            additional_env={"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
            on_exit=_node_ended,
            **common,
        ),
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["--display-config", str(rviz), *fixed],
            parameters=[{"use_sim_time": sim_time}],
            remappings=[*to_namespace, *_into_namespace(rviz, namespace)],
            **common,
        )
        if rviz
        else None,
        Node(
            package=PACKAGE,
            executable="web_viewer",
            name="web_viewer",
            namespace=namespace,
            # The node's own file: topics and frames have the same names there.
            parameters=[*files, {**rig, "use_sim_time": sim_time}],
            condition=IfCondition(LaunchConfiguration("viewer")),
            **common,
        ),
    ]
    if bag:
        options = ["--rate", given["rate"]] if "rate" in given else []
        options += ["--loop"] if _is_true(given["loop"]) else []
        options += ["--clock"] if sim_time else []
        # The node needs seconds for torch and its warm-up, and would miss the beginning.
        options += ["--wait-for", f"{node}/occupancy", "--wait", "120"]
        player = Node(
            package=PACKAGE,
            executable="bag_player",
            namespace=namespace,
            remappings=to_global,
            arguments=[bag, *options],
            on_exit=_player_ended,
            **common,
        )
        processes.append(player)
    return [process for process in processes if process is not None]


def _rviz_file(wanted, share):
    """The configuration to show; None for none."""
    if wanted.strip().lower() in ("false", "0", "no", "off"):
        return None
    name = "occ" if _is_true(wanted) else wanted
    path = Path(share) / "config" / "rviz" / f"{name}.rviz"
    if not path.is_file():
        names = ", ".join(sorted(each.stem for each in path.parent.glob("*.rviz")))
        raise RuntimeError(f"rviz: expected true, false or one of {names}; got {wanted!r}")
    for package in RVIZ:
        try:
            get_package_prefix(package)
        except PackageNotFoundError:
            apt = f"ros-<distro>-{package.replace('_', '-')}"
            raise RuntimeError(f"rviz: {package} is not installed; install it (apt: {apt})") from None
    return path


def _into_namespace(rviz, namespace):
    """Every topic that RViz shows, cameras' images and depth included."""
    topics = sorted(set(VIEWED.findall(rviz.read_text()))) if rviz and namespace else []
    return [(topic, f"/{namespace}{topic}") for topic in topics]


def _check_bag(bag):
    """Before the node loads its model, which takes seconds."""
    try:
        from gaussianocc_core.bags.opened import open_bag
        from gaussianocc_core.errors import GaussianOccError
    except ImportError:  # launch runs in another Python than the package; the player will say it
        return
    try:
        reader = open_bag(Path(bag))
        empty = not reader.message_count
        reader.close()
    except GaussianOccError as error:
        raise RuntimeError(f"bag: not a readable rosbag2: {error}") from None
    if empty:
        raise RuntimeError(f"bag: {bag} holds no messages; record again")


def _node_ended(event, context):
    _fail_with(event, context, "the occupancy node")
    return Shutdown(reason="the occupancy node ended")


def _player_ended(event, context):
    """The end of a bag leaves the node and RViz to look at; a replay that failed does not."""
    _fail_with(event, context, "the replay")


def _fail_with(event, context, who):
    """An exception in a handler is what makes `ros2 launch` end with status 1."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"{who} ended with status {event.returncode}; its last line says why")


def _is_true(text):
    return text.strip().lower() in ("true", "1", "yes", "on")
