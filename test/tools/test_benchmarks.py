# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that nobody runs for a while must still run: each part once, its figures thrown away."""

import json

import pytest

pytestmark = pytest.mark.medium


def run(spawn, tmp_path, *arguments):
    process = spawn(*arguments, "--json", tmp_path / "figures.json")
    assert process.wait(120) == 0, process.output
    return json.loads((tmp_path / "figures.json").read_text())["results"]


def test_every_stage_of_the_network_is_timed(spawn, tmp_path):
    rows = run(spawn, tmp_path, "benchmarks/stages.py", "--repeats", 1)
    stages = {row["stage"] for row in rows}
    assert {"encode", "lift", "decode", "decide", "observed", "plan", "render", "total"} <= stages
    assert all(row["wall_s"] > 0 for row in rows)


def test_decoding_of_images_and_encoding_of_results_are_timed(spawn, tmp_path):
    pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")
    rows = run(spawn, tmp_path, "benchmarks/node.py", "images", "--repeats", 1)
    assert [row["reduce"] for row in rows if "reduce" in row] == [4, 1, 2, 1]
    rows = run(spawn, tmp_path, "benchmarks/node.py", "outputs", "--repeats", 1)
    assert [row["topics"] for row in rows] == ["up to occupancy", "up to points", "up to markers"]
