# SPDX-License-Identifier: Apache-2.0
"""The node under everything at once: random faults, subscribers that come and go, clients that set its parameters.

python benchmarks/node_load.py [--minutes 10] [--seed 0] [--json FILE]

Six cameras stream. Every one to three seconds another fault begins or ends, as benchmarks/node.py has them: a camera is
dead, corrupt or at half rate, CameraInfo is missing, the clock jumps. Meanwhile two processes subscribe to random
outputs and leave again, one of them killed now and then, and four clients get, list, describe and set parameters, good
values and bad ones. Memory and threads of the node are sampled twice a second. After a first part in which caches and
pools fill, both should stay. Subscribers and clients need processor time too: on few cores the rate of results says
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report
from robot import ROOT, NodeProcess, Robot, robot_and_node

PARTS = 10  # of the time; the first is left out of the verdict
SUBSCRIBERS = 2
_SAMPLE_PERIOD, _KILL_PERIOD = 0.5, 30.0  # s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=12.0, help="images a second of each camera (default: 12)")
    parser.add_argument("--image", default="1600x900", help="size of the images (default: 1600x900)")
    parser.add_argument("--checkpoint", default="", help="model file (default: the shipped one)")
    parser.add_argument("--no-faults", action="store_true", help="subscribers and clients only: the gaps are theirs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = (int(side) for side in options.image.split("x"))
    with robot_and_node(options.rate, checkpoint=options.checkpoint, size=(width, height)) as (robot, node):
        robot.place()
        rows = put_under_load(robot, node, 60.0 * options.minutes, options.seed, not options.no_faults)
    for row in rows:
        print(row, flush=True)
    if options.json:
        shapes = {"cameras": 6, "image": [width, height], "rate_hz": options.rate, "seed": options.seed}
        write_report(options.json, shapes, rows)


def put_under_load(
    robot: Robot, node: NodeProcess, seconds: float, seed: int, with_faults: bool = True
) -> list[dict[str, Any]]:
    """A row for each part of the time, and one for all of it."""
    begin = time.time()
    samples: list[tuple[float, float, int]] = []  # time, MB, threads
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_PERIOD) and node.alive:
            samples.append((time.time(), node.memory_mb(), node.threads))

    sampler = threading.Thread(target=sample)
    crowd = Crowd(robot.rig.names, seed)
    faults: dict[str, int] = {}
    try:
        sampler.start()
        dice = random.Random(seed)
        while time.time() < begin + seconds and node.alive:
            name = set_fault(robot, dice) if with_faults else "none"
            faults[name] = faults.get(name, 0) + 1
            robot.drive(min(dice.uniform(1.0, 3.0), max(0.1, begin + seconds - time.time())))
            crowd.disturb(dice)
    finally:
        over.set()
        sampler.join()
        counts = crowd.close()
    heal(robot)
    rows = [_part(i, samples, robot, begin, seconds / PARTS) for i in range(PARTS)]
    before = len(robot.results)
    robot.drive(5.0)  # does it go on, after all that?
    times, memory = (np.array(column) for column in list(zip(*samples, strict=True))[:2])
    settled = times > begin + seconds / PARTS
    slope = np.polyfit((times[settled] - begin) / 60.0, memory[settled], 1)[0]
    threads = sorted({count for moment, _, count in samples if moment > begin + seconds / PARTS})
    rows.append(
        {
            "memory_growth": round(rows[-1]["memory_mb"] / rows[1]["memory_mb"] - 1.0, 4),
            "memory_slope_mb_per_minute": round(float(slope), 2),
            "threads": threads,
            **_gaps([arrived for _, arrived in robot.results if begin <= arrived < begin + seconds]),
            "kernels_compiled": _compiled_since(begin),
            "alive": node.alive,
            "results_in_5_s_after": len(robot.results) - before,
            "tracebacks": dict(Counter(re.findall(r"^\w*(?:Error|Exception|Failure)\b.*", node.log, re.MULTILINE))),
            "faults": faults,
            **counts,
        }
    )
    return rows


def _compiled_since(begin: float) -> int | None:
    """Kernels that Numba wrote to its cache since then; None without a cache of one's own."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if not folder:
        return None
    return sum(kernel.stat().st_mtime >= begin for kernel in Path(folder).rglob("*.nbc"))


def _gaps(arrivals: list[float]) -> dict[str, float | None]:
    """Between results, whoever subscribes to what meanwhile; of faults there are gaps as well."""
    if len(arrivals) < 3:
        return {"period_s": None, "largest_gap_s": None}
    gaps = np.diff(arrivals)
    return {"period_s": round(float(np.median(gaps)), 3), "largest_gap_s": round(float(gaps.max()), 3)}


def _part(
    number: int, samples: list[tuple[float, float, int]], robot: Robot, begin: float, share: float
) -> dict[str, Any]:
    first, last = begin + number * share, begin + (number + 1) * share
    own = [(memory, threads) for moment, memory, threads in samples if first <= moment < last]
    count = sum(first <= arrived < last for _, arrived in robot.results)
    return {
        "s": round(share, 1),
        "memory_mb": round(float(np.median([memory for memory, _ in own])), 1),
        "memory_mb_most": round(max(memory for memory, _ in own), 1),
        "threads": [min(threads for _, threads in own), max(threads for _, threads in own)],
        "results_per_s": round(count / share, 2),
    }


# ---- faults --------------------------------------------------------------------------------------------------------


def heal(robot: Robot) -> None:
    faults = robot.faults
    faults.dead, faults.corrupt, faults.half_rate, faults.no_info, faults.clock_ns = set(), set(), set(), False, 0


def set_fault(robot: Robot, dice: random.Random) -> str:
    """One at a time, and every third time none."""
    heal(robot)
    faults, camera = robot.faults, dice.choice(robot.rig.names)
    name = dice.choice(
        ("none", "none", "none", "dead", "corrupt", "half rate", "no CameraInfo", "clock", "placed anew")
    )
    if name == "dead":
        faults.dead = {camera}
    elif name == "corrupt":
        faults.corrupt = {camera}
    elif name == "half rate":
        faults.half_rate = {camera}
    elif name == "no CameraInfo":
        faults.no_info = True
    elif name == "clock":
        faults.clock_ns = dice.choice((-3600, -1, 1, 3600)) * 1_000_000_000
    elif name == "placed anew":
        robot.place()
    return name


# ---- subscribers and clients ---------------------------------------------------------------------------------------


class Crowd:
    """Processes that use the node: SUBSCRIBERS that come and go, and one with clients of its parameters."""

    def __init__(self, cameras: tuple[str, ...], seed: int) -> None:
        self._cameras, self._killed = cameras, 0
        self._subscribers = [self._start("subscribe", seed + i) for i in range(SUBSCRIBERS)]
        self._clients = self._start("parameters", seed)
        self._last_kill = time.monotonic()

    def _start(self, work: str, seed: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "benchmarks" / "crowd.py"), work, str(seed), *self._cameras]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def disturb(self, dice: random.Random) -> None:
        """Every half minute a subscriber dies without a word, and another comes."""
        if time.monotonic() - self._last_kill > _KILL_PERIOD:
            self._last_kill = time.monotonic()
            victim = self._subscribers.pop(0)
            victim.kill()
            victim.communicate()
            self._killed += 1
            self._subscribers.append(self._start("subscribe", dice.randrange(1 << 30)))

    def close(self) -> dict[str, Any]:
        """What it did."""
        counts: Counter[str] = Counter(subscribers_killed=self._killed)
        for process in (*self._subscribers, self._clients):
            output, _ = process.communicate("", timeout=60.0)  # closes its standard input
            counts.update(json.loads(output))
        return dict(counts)


if __name__ == "__main__":
    main()
