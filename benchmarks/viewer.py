# SPDX-License-Identifier: Apache-2.0
"""The viewer's page in headless Chromium whose WebGL runs on the CPU: frames while one turns the view, and updates.

    python benchmarks/viewer.py --json benchmarks/results/viewer.json

The scene is the truth of a street of our own at the published size, 200 x 200 x 16 voxels. CPU seconds per frame do not
depend on what else the machine does; frames a second do. Needs Chromium and Playwright, as the tests of the page do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test"), str(Path(__file__).resolve().parent)]

from report import write_report  # noqa: E402
from support.browser import SIZE, Tab, browser, why_no_browser  # noqa: E402
from support.moments import road_with_hedge  # noqa: E402

from gaussianocc_core.viewer import painting  # noqa: E402
from gaussianocc_core.viewer.page import Page, Where  # noqa: E402

_TICKS = os.sysconf("SC_CLK_TCK")
_COUNT = "() => { window.frames_ = 0; const next = () => { window.frames_++; requestAnimationFrame(next) }; next() }"


def street() -> Any:
    """The truth of a street, as a moment."""
    from gaussianocc_core.synthetic.world import World, occupancy

    truth = occupancy(World(7000), 0.0)
    confidence = np.full(truth.semantics.shape, 0.8, np.float32)
    return road_with_hedge(labels=truth.semantics, truth=truth, confidence=confidence)


def children_cpu(root: int) -> float:
    """s of CPU that all descendants of a process have used."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)], used[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    total = 0
    for pid in used:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        total += used[pid] if above == root and pid != root else 0
    return total / _TICKS


def measure(seconds: float) -> dict[str, Any]:
    moment = street()
    choice = painting.Choice()
    begin, cpu = time.perf_counter(), time.process_time()
    glb = painting.paint_voxels(moment, choice)
    painted = {"wall_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}
    page = Page("benchmark", Where(port=0))
    try:
        with browser() as chromium:
            tab = Tab(chromium, page.url)
            page.show(moment)
            tab.page.wait_for_timeout(8000)
            tab.page.evaluate(_COUNT)
            tab.page.mouse.move(500, 350)
            tab.page.mouse.down()
            first, cpu, begin = tab.page.evaluate("() => window.frames_"), children_cpu(os.getpid()), time.monotonic()
            while (gone := time.monotonic() - begin) < seconds:
                tab.page.mouse.move(500 + 120 * np.sin(3 * gone), 350)
                tab.page.wait_for_timeout(15)
            frames = tab.page.evaluate("() => window.frames_") - first
            used = children_cpu(os.getpid()) - cpu
            tab.page.mouse.up()
            updates = []
            for k in range(5):
                labels = np.roll(moment.labels, k + 1, axis=0)
                begin = time.monotonic()
                page.show(replace(moment, labels=labels))
                while page.busy:
                    time.sleep(0.005)
                updates.append(time.monotonic() - begin)
                tab.page.wait_for_timeout(500)
            errors = list(tab.errors)
    finally:
        page.close()
    return {
        "faces": (len(glb) - 1200) // 72,
        "glb_mb": len(glb) / 1e6,
        "paint": painted,
        "frames_per_s": frames / gone,
        "browser_cpu_s_per_frame": used / max(frames, 1),
        "update_s": float(np.median(updates)),
        "console_errors": errors,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of turning the view")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if reason := why_no_browser():
        print(reason, file=sys.stderr)
        return 2
    result = measure(options.seconds)
    print(json.dumps(result, indent=2))
    if options.json:
        write_report(options.json, {"grid": [200, 200, 16], "window": list(SIZE.values())}, [result])
    return 0


if __name__ == "__main__":
    sys.exit(main())
