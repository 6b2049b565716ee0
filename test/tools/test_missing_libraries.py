# SPDX-License-Identifier: Apache-2.0
"""Tools that are started with a Python which lacks what they need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = {
    "carve_labels.py": ["data", "--checkpoint", "model", "--output", "labels"],
    "ddad_to_rosbag.py": ["--dataroot", "data", "--output", "bags"],
    "export_depth.py": ["--dataroot", "data"],
    "export_model.py": ["model.safetensors", "--output", "exported"],
    "fit_memory.py": ["data", "--labels", "labels", "--checkpoint", "a.safetensors", "--output", "b.safetensors"],
    "import_reference_checkpoint.py": ["released", "model.safetensors"],
    "inspect_bag.py": ["bag"],
    "label_semantics.py": ["--bag", "bag", "--model", "model"],
    "make_clips.py": ["--output", "clips", "--count", "1"],
    "make_masks.py": ["--bag", "bag", "--output", "masks"],
    "make_synthetic_nuscenes.py": ["--output", "data"],
    "nuscenes_to_rosbag.py": ["--dataroot", "data", "--output", "bags"],
    "parity_report.py": ["golden"],
    "set_image_size.py": ["model.safetensors", "--size", "240x128", "--output", "other.safetensors"],
}


@pytest.mark.parametrize("tool", ARGUMENTS)
def test_a_python_without_the_libraries_gets_one_line_with_the_command(tool, tmp_path):
    # -S leaves site-packages out, and with them numpy and an installed gaussianocc_core.
    command = [sys.executable, "-E", "-S", ROOT / "tools" / tool, *ARGUMENTS[tool]]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert f"{sys.executable} has no module " in result.stderr and f".venv/bin/python tools/{tool}" in result.stderr
    assert "gaussianocc_core" not in result.stderr  # that one is beside the tool
    assert list(tmp_path.iterdir()) == []


def test_every_tool_that_is_run_by_path_is_tested_here():
    assert {path.name for path in (ROOT / "tools").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("tool", ARGUMENTS)
def test_help_needs_no_library(tool, tmp_path):
    command = [sys.executable, "-E", "-S", ROOT / "tools" / tool, "--help"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.startswith("usage:")
