# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", ROOT / "tools/setup/bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """The module, with its stamps and its log in a scratch folder."""
    module = load_bootstrap()
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(module, "LOG", tmp_path / "setup.log")
    return module


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


# Decisions


def test_without_ros_the_wheels_are_installed(bootstrap):
    plan = bootstrap.Plan({}, machine="x86_64")
    assert [lock.name for lock in plan.locks] == ["requirements.lock", "ros_wheels.lock"]
    assert plan.venv_options == []


def test_a_sourced_ros_is_used_instead_of_the_wheels(bootstrap):
    plan = bootstrap.Plan({"ROS_DISTRO": "jazzy"}, machine="aarch64")
    assert [lock.name for lock in plan.locks] == ["requirements-ros.lock"]
    assert plan.venv_options == ["--system-site-packages"]


def test_numpy_stays_below_2_only_beside_a_ros_whose_cv_bridge_needs_that(bootstrap):
    plans = {distro: bootstrap.Plan({"ROS_DISTRO": distro}, "x86_64") for distro in ("humble", "kilted", "rolling")}
    used = {distro: [lock.name for lock in plan.locks] for distro, plan in plans.items()}
    assert used["humble"] == used["kilted"] == ["requirements-ros.lock"]
    assert used["rolling"] == ["requirements.lock"]


def test_a_machine_without_ros_wheels_is_told_to_source_a_ros(bootstrap):
    with pytest.raises(bootstrap.SetupError, match="this machine is aarch64: install ROS 2 and source it first"):
        bootstrap.Plan({}, machine="aarch64")


@pytest.mark.parametrize("change", [{"ROS_DISTRO": "jazzy"}, {"TORCH": "torch==2.4.0"}])
def test_what_decides_the_packages_is_in_the_key(bootstrap, change):
    assert bootstrap.Plan(change, "x86_64").packages_key() != bootstrap.Plan({}, "x86_64").packages_key()


def test_another_python_means_other_packages(bootstrap, monkeypatch):
    keys = set()
    for version in ("3.11", "3.12"):
        monkeypatch.setattr(bootstrap, "likely_version", lambda ros_distro, version=version: version)
        keys.add(bootstrap.Plan({}, "x86_64").packages_key())
    assert len(keys) == 2


def test_the_likely_version_is_the_one_that_is_chosen(bootstrap):
    assert bootstrap.likely_version("") == bootstrap.find_python(sys.executable, "")[1]


def test_a_venv_made_anew_gets_its_packages_although_the_old_one_had_them(bootstrap, monkeypatch):
    plan = bootstrap.Plan({}, "x86_64")
    with bootstrap.stamped("packages", plan.packages_key()):
        pass
    done = []
    monkeypatch.setattr(bootstrap, "Plan", lambda environ: plan)
    monkeypatch.setattr(bootstrap, "find_python", lambda *arguments: (sys.executable, "3.11"))
    monkeypatch.setattr(bootstrap, "make_venv", lambda *arguments: shutil.rmtree(bootstrap.STAMPS))  # as --clear does
    monkeypatch.setattr(bootstrap, "install", lambda *arguments, **options: done.append(arguments[-1]))
    for name in ("check_prerequisites", "install_hook", "install_torch", "build_messages", "check_imports"):
        monkeypatch.setattr(bootstrap, name, lambda *arguments: None)
    bootstrap.set_up({}, sys.executable)
    assert done == plan.locks


def test_a_changed_message_changes_only_the_messages_key(bootstrap, tmp_path, monkeypatch):
    for name in ("msg", "tools/setup"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("CMakeLists.txt", "package.xml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "SETUP", tmp_path / "tools/setup")
    plan = bootstrap.Plan({}, "x86_64")
    before = plan.packages_key(), plan.messages_key()
    with (tmp_path / "msg/SemanticOccupancy.msg").open("a") as file:
        file.write("bool extra\n")
    assert plan.packages_key() == before[0]
    assert plan.messages_key() != before[1]
    with (tmp_path / "tools/setup/requirements.lock").open("a") as file:
        file.write("extra==1.0\n")
    assert plan.packages_key() != before[0]


# Stamps


def test_a_completed_part_is_stamped_for_its_key_only(bootstrap):
    with bootstrap.stamped("packages", "key 1") as cut_short:
        assert not cut_short
        assert not bootstrap.stamp_holds("packages", "key 1")
    assert bootstrap.stamp_holds("packages", "key 1")
    assert not bootstrap.stamp_holds("packages", "key 2")


def test_an_interrupted_part_leaves_no_stamp_and_the_next_attempt_knows(bootstrap):
    with bootstrap.stamped("packages", "key"):
        pass
    with pytest.raises(KeyboardInterrupt), bootstrap.stamped("packages", "key"):
        raise KeyboardInterrupt
    assert not bootstrap.stamp_holds("packages", "key")
    with bootstrap.stamped("packages", "key") as cut_short:
        assert cut_short
    with bootstrap.stamped("packages", "key") as cut_short:
        assert not cut_short


def test_a_second_run_costs_less_than_a_second():
    module = load_bootstrap()
    plan = module.Plan(os.environ)
    if not (
        module.stamp_holds("packages", plan.packages_key()) and module.stamp_holds("messages", plan.messages_key())
    ):
        pytest.skip("set-up is not complete or not up to date: a run would change the environment under test")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, ROOT / "tools/setup/bootstrap.py"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    # Processor time, not wall time: other programs share the machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


# Prerequisites: one line that names what to install


def prerequisite_error(bootstrap, python: str, plan=None) -> str:
    with pytest.raises(bootstrap.SetupError) as error:
        bootstrap.check_prerequisites(python, "3.11", plan or bootstrap.Plan({}, "x86_64"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_suitable_python_is_one_line(bootstrap, tmp_path, monkeypatch):
    old = executable(tmp_path / "python3", "echo 3.8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match="apt-get install python3.11 python3.11-venv python3.11-dev"):
        bootstrap.find_python(old, "")


def test_a_sourced_ros_whose_python_is_too_new_is_one_line_that_says_what_is_supported(bootstrap, tmp_path):
    new = executable(tmp_path / "python3", "echo 3.14")
    with pytest.raises(bootstrap.SetupError, match="its Python is 3.14; supported are Python 3.10 to 3.12") as error:
        bootstrap.find_python(new, "lyrical")
    assert "a shell that has not sourced ROS" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_installed_python_is_found(bootstrap, tmp_path, monkeypatch):
    old = executable(tmp_path / "python3", "echo 3.13")
    right = executable(tmp_path / "python3.12", "echo 3.12")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.find_python(old, "") == (right, "3.12")
    with pytest.raises(bootstrap.SetupError):  # a sourced ROS is built for one Python: no other will do
        bootstrap.find_python(old, "jazzy")


def test_missing_venv_module_names_its_apt_package(bootstrap, tmp_path):
    python = executable(tmp_path / "python", 'case "$2" in *ensurepip*) exit 1;; esac')
    assert "sudo apt-get install python3.11-venv" in prerequisite_error(bootstrap, python)


def test_missing_headers_name_their_apt_package(bootstrap, tmp_path):
    python = executable(tmp_path / "python", 'case "$2" in *Python.h*) exit 1;; esac')
    assert "sudo apt-get install python3.11-dev" in prerequisite_error(bootstrap, python)


def test_missing_compiler_names_its_apt_package(bootstrap, tmp_path, monkeypatch):
    python = executable(tmp_path / "python", "exit 0")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name, path=None: None)
    assert "sudo apt-get install g++" in prerequisite_error(bootstrap, python)


def test_beside_a_sourced_ros_cmake_and_rclpy_are_needed(bootstrap, tmp_path, monkeypatch):
    plan = bootstrap.Plan({"ROS_DISTRO": "jazzy"})
    python = executable(tmp_path / "python", 'case "$2" in *rclpy*) exit 1;; esac')
    assert "ROS 2 jazzy is sourced but" in prerequisite_error(bootstrap, python, plan)
    assert prerequisite_error(bootstrap, python, plan).endswith("in a shell that has not sourced ROS")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name, path=None: name if name == "g++" else None)
    assert "sudo apt-get install cmake" in prerequisite_error(bootstrap, python, plan)


def test_a_full_disk_is_one_line_before_anything_is_downloaded(bootstrap, tmp_path, monkeypatch):
    python = executable(tmp_path / "python", "exit 0")
    usage = type(shutil.disk_usage("/"))(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: usage)
    assert "has 1.0 GB free and the set-up needs 5 GB" in prerequisite_error(bootstrap, python)


# The parts


def test_export_files_are_repaired_once(bootstrap, tmp_path):
    path = tmp_path / "share/std_msgs/cmake/export_std_msgs__rosidl_generator_pyExport.cmake"
    path.parent.mkdir(parents=True)
    path.write_text(
        'INCLUDES "/opt/python/cp311-cp311/include/python3.11;'
        '/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"\n'
    )
    assert bootstrap.repair_export_files(tmp_path / "share", "/usr/include/python3.11", "/venv/site") == 1
    assert path.read_text() == 'INCLUDES "/usr/include/python3.11;/venv/site/numpy/_core/include"\n'
    assert bootstrap.repair_export_files(tmp_path / "share", "/usr/include/python3.11", "/venv/site") == 0


def test_a_failed_command_shows_the_end_of_its_output_and_where_the_rest_is(bootstrap, tmp_path):
    with pytest.raises(bootstrap.SetupError) as error:
        bootstrap.run([executable(tmp_path / "tool", "echo the reason; exit 3")])
    assert f"tool failed (3); its output, whole in {tmp_path / 'setup.log'}" in str(error.value)
    assert str(error.value).endswith("    the reason")


@pytest.mark.parametrize("reported, kept", [("2.5.0a0+nv", True), ("2.0.1", False)])
def test_an_importable_torch_is_kept_unless_too_old(bootstrap, monkeypatch, reported, kept):
    monkeypatch.setattr(bootstrap, "ask", lambda python, code: reported)
    monkeypatch.setattr(bootstrap, "install", lambda *arguments, **options: pytest.fail("installed"))
    plan = bootstrap.Plan({}, "x86_64")
    if kept:
        bootstrap.install_torch(plan, again=False)
    else:
        with pytest.raises(bootstrap.SetupError, match="torch 2.0.1 is too old"):
            bootstrap.install_torch(plan, again=False)


def test_torch_is_installed_where_none_is_importable_and_as_told(bootstrap, monkeypatch):
    installed = []
    monkeypatch.setattr(bootstrap, "install", lambda *arguments, **options: installed.append(*arguments))
    monkeypatch.setattr(bootstrap, "ask", lambda python, code: None)
    bootstrap.install_torch(bootstrap.Plan({}, "x86_64"), again=False)
    monkeypatch.setattr(bootstrap, "ask", lambda python, code: "2.13.0")
    bootstrap.install_torch(bootstrap.Plan({"TORCH": "torch==2.4.0"}, "x86_64"), again=False)
    assert installed == ["torch==2.13.0", "torch==2.4.0"]


def test_uv_gets_pips_settings(bootstrap, tmp_path, monkeypatch):
    listing = ":env:.find-links='/wheels'\nglobal.extra-index-url='file:///a https://b/simple'\nglobal.find-links='/x'"
    python = executable(tmp_path / "python", f"cat <<'E'\n{listing}\nE")
    monkeypatch.setattr(bootstrap, "VENV_PYTHON", Path(python))
    for variable in ("UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    environment = bootstrap.uv_environment()
    assert environment["UV_FIND_LINKS"] == "/wheels"
    assert environment["UV_INDEX"] == "https://b/simple"
    assert "UV_DEFAULT_INDEX" not in environment


# The locks


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-ros.lock", "ros_wheels.lock"])
def test_the_lock_is_fully_pinned_and_belongs_to_its_inputs(bootstrap, lock):
    lines = (ROOT / "tools/setup" / lock).read_text().splitlines()
    assert f"# Compiled by `make lock`; inputs {bootstrap.inputs_of(lock)}" in lines, "run `make lock`"
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    loose = [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][^ *]*( ; .+)?", pin)]
    assert loose == []
    assert not [pin for pin in pins if re.match(r"(torch|jupyter|nvidia-.*)==", pin)]


def test_numpy_is_what_each_environment_can_bear():
    def numpys(lock):
        return re.findall(r"^numpy==(\d+)\.(\d+)", (ROOT / "tools/setup" / lock).read_text(), re.MULTILINE)

    assert numpys("requirements-ros.lock") == [("1", "26")]
    assert {major for major, _ in numpys("requirements.lock")} == {"2"}
    assert numpys("requirements.lock") == numpys("ros_wheels.lock")
