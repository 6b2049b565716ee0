# SPDX-License-Identifier: Apache-2.0
import ast
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def entry_points() -> dict[str, str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(line.split(" = ") for line in lines)


def executables() -> dict[str, str]:
    """Those of ROS packages have no dash in their names."""
    return {name: target for name, target in entry_points().items() if "-" not in name}


def tracked(*patterns: str) -> list[Path]:
    """The repository's own files; in a tree without git, every file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        return [path for pattern in patterns for path in sorted(ROOT.rglob(pattern)) if ".venv" not in path.parts]
    return [ROOT / line for line in result.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because setuptools leaves build folders in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gaussianocc_core", "gaussianocc_ros", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "setup"))
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    build = [sys.executable, "-m", "pip", "wheel", *options, source]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, check=True, capture_output=True)
    return target


def run_outside_the_tree(installed: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    """`code` against the installed wheel, with the source tree and the venv's own messages out of reach."""
    hide = f"import sys; sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]; "
    hide += f"sys.path.insert(0, {str(installed)!r})\n"
    return subprocess.run([sys.executable, "-c", hide + code], cwd=cwd, capture_output=True, text=True)


# One home per fact


def test_the_version_has_one_home():
    from gaussianocc_core import __version__

    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    built = subprocess.run([sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert manifest.findtext("version") == __version__
    assert built.stdout.split()[-1] == __version__


@pytest.mark.ros
def test_executables_of_ros_resolve():
    for target in executables().values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), target


def test_cmake_reads_the_executables_of_setup_cfg():
    pattern = re.search(r'REGEX "(.*)"\)', (ROOT / "CMakeLists.txt").read_text()).group(1)
    lines = [line for line in (ROOT / "setup.cfg").read_text().splitlines() if re.search(pattern, line)]
    assert dict(line.strip().split(" = ") for line in lines) == executables()
    assert {"occupancy_node", "bag_player", "web_viewer"} <= set(executables())


def test_every_tool_is_a_command_of_its_name():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")}
    wanted = {f"gaussianocc-{name.replace('_', '-')}": f"gaussianocc_core.commands.{name}:main" for name in tools}
    wanted |= {
        f"gaussianocc-{name}": f"gaussianocc_core.{name}:main" for name in ("train", "evaluate", "report", "view")
    }
    assert {name: target for name, target in entry_points().items() if name not in executables()} == wanted


@pytest.mark.medium
def test_commands_of_a_pip_install_run_outside_the_tree(installed, tmp_path):
    targets = [target for name, target in entry_points().items() if name not in executables()]
    code = "import importlib, sys\n" + "".join(
        f"assert callable(importlib.import_module({module!r}).{function})\n"
        for module, function in (target.split(":") for target in targets)
    )
    # A tool that is run by path looks for the package beside it; an installed one must not: types.py would be found.
    code += "assert not [p for p in sys.path if p.endswith('gaussianocc_core')], sys.path\n"
    result = run_outside_the_tree(installed, tmp_path, code)
    assert result.returncode == 0, result.stderr
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    script = installed / "bin" / "gaussianocc-make-synthetic-nuscenes"
    done = subprocess.run([script, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--scenes" in done.stdout, done.stderr


def test_an_executable_without_torch_names_the_interpreter_and_the_command(tmp_path):
    template = (ROOT / "tools/setup/executable.py.in").read_text()
    script = tmp_path / "node"
    script.write_text(template.replace("@module@", "module_of_the_node").replace("@function@", "main"))
    (tmp_path / "module_of_the_node.py").write_text("import torch\n")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{sys.executable} has no torch; run: {sys.executable} -m pip install torch ")


def test_every_list_of_pip_requirements_says_the_same():
    """setup.py is their home. Beside it: what an executable asks for, docs/install.md, package.xml's remark."""
    lists = re.search(r"install_requires=(\[.*?\])", (ROOT / "setup.py").read_text(), re.DOTALL)
    required = {re.split(r"[<>=]", requirement)[0] for requirement in ast.literal_eval(lists.group(1))}
    from_ros = {"numpy": "python3-numpy", "opencv-python-headless": "python3-opencv", "pyyaml": "python3-yaml"}
    text = (ROOT / "package.xml").read_text()
    manifest = ElementTree.fromstring(text)
    assert set(from_ros.values()) <= {element.text for element in manifest.iter("exec_depend")}
    from_pip = sorted(required - set(from_ros) | {"rosbags"})  # the bag player reads with rosbags
    template = (ROOT / "tools/setup/executable.py.in").read_text()
    assert sorted(re.findall(r'"(\w+)"', re.search(r"from_pip = \((.*)\)", template).group(1))) == from_pip
    command = re.search(
        r'^pip install "numpy<2" ([\w ]+?) *(#|$)', (ROOT / "docs" / "install.md").read_text(), re.MULTILINE
    )
    assert sorted(command.group(1).split()) == from_pip
    assert sorted(re.search(r"<!-- From pip: ([\w, ]+)\.", text).group(1).split(", ")) == from_pip


def test_package_xml_names_every_ros_package_that_is_imported():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    named = {element.text for kind in ("depend", "exec_depend") for element in manifest.iter(kind)}
    imported = set()
    for path in tracked("gaussianocc_ros/*.py", "launch/*.py"):
        text = path.read_text()
        ros = r"\w+_msgs|\w+_interfaces|rclpy|launch\w*|ament\w+"
        imported |= set(re.findall(rf"^ *(?:from|import) ({ros})\b", text, re.MULTILINE))
        imported |= set(re.findall(r'package="(\w+)"', text))
    assert len(imported) > 10
    assert sorted(imported - named - {"gaussianocc_ros"}) == []


@pytest.mark.ros
def test_ctrl_c_is_quiet_in_every_executable():
    from gaussianocc_ros import startup

    assert sorted(startup._SCRIPTS) == sorted(executables())


def test_tools_are_executable_programs():
    # `ros2 run` starts them as they are; with a symlinked install the mode of the source counts.
    for tool in sorted((ROOT / "tools").glob("*.py")):
        assert tool.read_text().startswith("#!/usr/bin/env python3\n"), tool.name
        assert os.access(tool, os.X_OK), tool.name


def test_every_source_file_names_its_licence():
    sources = tracked("*.py", "*.msg", "*.sh", "CMakeLists.txt", "Makefile", "*.toml", "*.cfg", "*.yaml")
    assert len(sources) > 20
    unmarked = [str(p.relative_to(ROOT)) for p in sources if "SPDX-License-Identifier: Apache-2.0" not in p.read_text()]
    assert unmarked == []


# What pip installs


def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"gaussianocc_core", "gaussianocc_ros"}
    shipped = {path.name for path in (ROOT / "gaussianocc_core/weights").glob("*") if path.is_file()}
    assert shipped == {Path(n).name for n in names if n.startswith("gaussianocc_core/weights/")}


def test_the_wheel_requires_ranges_and_no_ros(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    required = [line for line in re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE) if "extra ==" not in line]
    assert "torch>=2.1" in required
    assert not [line for line in required if "==" in line]
    assert not [line for line in required if re.match(r"rclpy|ros|.*[-_]msgs|launch|cv[-_]bridge", line)]


@pytest.mark.medium
def test_every_core_module_imports_from_the_wheel_with_its_requirements_alone(installed, tmp_path):
    # What belongs to ROS, to the extras and to the tests is out of reach, as after a plain `pip install`.
    code = """
import importlib, pkgutil
ROS = {"rclpy", "rosidl_runtime_py", "tf2_ros", "cv_bridge", "sensor_msgs_py", "launch", "gaussianocc_ros"}
EXTRAS = {"av", "gsplat", "imageio", "imageio_ffmpeg", "matplotlib", "nuscenes", "pyquaternion", "rosbags"}
EXTRAS |= {"tensorboard"}
UNDECLARED = {"beartype", "hypothesis", "PIL", "pytest", "scipy", "sklearn"}
class Missing:
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top.endswith("_msgs") or top in ROS | EXTRAS | UNDECLARED:
            raise ModuleNotFoundError(f"the core imports {name} as a module is loaded", name=name)
sys.meta_path.insert(0, Missing)
import gaussianocc_core
names = [m.name for m in pkgutil.walk_packages(gaussianocc_core.__path__, "gaussianocc_core.")]
for name in ("storage", "containers"):  # subclasses of rosbags, imported only where a bag is written or read
    names.remove(f"gaussianocc_core.bags.{name}")
for name in names:
    importlib.import_module(name)
print(gaussianocc_core.__file__, len(names))
"""
    result = run_outside_the_tree(installed, tmp_path, code)
    assert result.returncode == 0, result.stderr
    file, count = result.stdout.split()
    assert Path(file).is_relative_to(installed)
    assert int(count) >= 5


def test_importing_the_core_loads_neither_torch_nor_numba(installed, tmp_path):
    result = run_outside_the_tree(
        installed, tmp_path, "import gaussianocc_core; print(sorted({'torch', 'numba', 'gsplat'} & set(sys.modules)))"
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


@pytest.mark.parametrize("statement", ["import gaussianocc_ros.msg", "from gaussianocc_ros import msg"])
def test_after_pip_alone_the_import_of_messages_says_what_to_run(installed, tmp_path, statement):
    # The messages of this environment, wherever they are: in the venv, or on the PYTHONPATH of a sourced workspace.
    hide = "import pathlib\n"
    hide += "sys.path[:] = [p for p in sys.path if not pathlib.Path(p, 'gaussianocc_ros', 'msg').is_dir()]\n"
    result = run_outside_the_tree(installed, tmp_path, hide + statement)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "gaussianocc_ros.msg is not built" in last
    assert "make setup" in last and "colcon build" in last


# The development environment


def test_source_files_take_effect_wherever_python_starts(tmp_path):
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("concerns the environment of `make setup`; a sourced workspace has its own copy of the modules")
    code = "import gaussianocc_core, gaussianocc_ros; print(gaussianocc_core.__file__); print(gaussianocc_ros.__file__)"
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for command in (["-c", code], [str(script)]):
        result = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        files = [Path(line) for line in result.stdout.split()]
        assert files == [ROOT / "gaussianocc_core/__init__.py", ROOT / "gaussianocc_ros/__init__.py"]


@pytest.mark.ros
def test_site_packages_hold_the_messages_and_no_copy_of_the_modules():
    import gaussianocc_ros

    others = [Path(folder) for folder in gaussianocc_ros.__path__ if Path(folder) != ROOT / "gaussianocc_ros"]
    if not any(Path(sys.prefix) in folder.parents for folder in others):
        pytest.skip("the messages come from a sourced workspace")
    for folder in others:
        assert {path.name for path in folder.glob("*.py")} == {"__init__.py"}


@pytest.mark.ros
def test_a_child_that_inherits_the_guard_without_the_library_path_still_imports_rclpy():
    environment = {"HOME": os.environ["HOME"], "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    if "ROS_DISTRO" in os.environ:
        pytest.skip("concerns ROS 2 from wheels")
    code = "import os, rclpy; print(os.environ['AMENT_PREFIX_PATH'], os.environ['NUMBA_CACHE_DIR'])"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [sys.prefix, f"{sys.prefix}/cache/numba"]
