# SPDX-License-Identifier: Apache-2.0
"""What every benchmark records beside its figures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        ).stdout.strip()
    except OSError:  # a lent machine may have no git
        return ""


COMMIT = _commit()  # at the start: a run takes minutes, and the branch may move


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's model as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_report(
    path: Path, shapes: dict[str, Any], results: list[dict[str, Any]], dtype: str = "float32", **more: Any
) -> None:
    """Write results with commit, versions, machine and shapes; `more` goes beside them."""
    import numba
    import torch

    report = {
        "commit": COMMIT,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "shapes": shapes,
        "dtype": dtype,
        "results": results,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
