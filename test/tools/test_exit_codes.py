# SPDX-License-Identifier: Apache-2.0
"""A user's mistake ends every program with 2 and one line that says what to do."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISTAKES = {
    "tools/carve_labels.py": ["{none}", "--checkpoint", "{none}", "--output", "{new}"],
    "tools/ddad_to_rosbag.py": ["--dataroot", "{none}", "--output", "{new}"],
    "tools/export_depth.py": ["--dataroot", "{none}"],
    "tools/export_model.py": ["{none}", "--output", "{new}"],
    "tools/fit_memory.py": ["{none}", "--labels", "{none}", "--checkpoint", "{none}", "--output", "{new}"],
    "tools/import_reference_checkpoint.py": ["{none}", "{new}.safetensors"],
    "tools/inspect_bag.py": ["{none}"],
    "tools/label_semantics.py": ["--bag", "{none}", "--model", "{none}"],
    "tools/make_clips.py": ["--output", "{new}", "--count", "0"],
    "tools/make_masks.py": ["--bag", "{none}", "--output", "{new}"],
    "tools/make_synthetic_nuscenes.py": ["--output", "{new}", "--rig", "{none}"],
    "tools/nuscenes_to_rosbag.py": ["--dataroot", "{none}", "--output", "{new}"],
    "tools/parity_report.py": ["{none}"],
    "tools/set_image_size.py": ["{none}", "--size", "240x128", "--output", "{new}"],
    "gaussianocc_core.train": ["{none}.yaml"],
    "gaussianocc_core.evaluate": ["{none}", "--dataroot", "{none}"],
    "gaussianocc_core.report": ["{none}", "{none}", "--output", "{new}"],
    "gaussianocc_core.view": ["{none}", "--made", "{new}"],
}


def test_every_tool_is_tried():
    tools = {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")}
    assert tools == {program for program in MISTAKES if program.startswith("tools/")}


@pytest.mark.parametrize("program", MISTAKES)
def test_a_mistake_is_2_and_one_line(program, tmp_path, monkeypatch, capfd):
    if program == "tools/label_semantics.py":
        pytest.importorskip("transformers", reason="transformers is not installed: nothing to label with")
    arguments = [each.format(none=tmp_path / "none", new=tmp_path / "new") for each in MISTAKES[program]]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        if program.startswith("tools/"):
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            monkeypatch.delitem(sys.modules, program, raising=False)
            runpy.run_module(program, run_name="__main__")
    error = capfd.readouterr().err
    assert ended.value.code == 2, error
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert not (tmp_path / "new").exists()
