# SPDX-License-Identifier: Apache-2.0
"""Reading that never ends, for what must hold when it is killed or interrupted meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gaussianocc_core.bags.convert import Recording
from gaussianocc_core.bags.schema import BagRig, Record

_FOREVER = 600.0  # s


@dataclass(frozen=True)
class Stalled:
    """A recording whose files stop coming after the first few."""

    whole: Recording

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def provenance(self) -> dict[str, str]:
        return self.whole.provenance

    @property
    def files(self) -> int:
        return self.whole.files

    def open_rig(self) -> BagRig:
        return self.whole.open_rig()

    def records(self) -> Iterator[Record]:
        yield from islice(self.whole.records(), 5)
        time.sleep(_FOREVER)

    def count_messages(self) -> dict[str, int]:
        return self.whole.count_messages()


def write_stalling_tool(path: Path, tool: Path, files: list[str]) -> Path:
    """A program that does as `tool`, and waits for ever for the files of these names, in its worker processes too."""
    path.write_text(
        f"import importlib.util, sys, time\n"
        f"from gaussianocc_core.data import nuscenes_recording as reading\n"
        f"read = reading.read_file\n"
        f"slow = {files}\n"
        f"reading.read_file = lambda path, token: time.sleep({_FOREVER}) if path.name in slow else read(path, token)\n"
        f"if __name__ == '__main__':\n"
        f"    spec = importlib.util.spec_from_file_location('tool', {str(tool)!r})\n"
        f"    tool = importlib.util.module_from_spec(spec)\n"
        f"    spec.loader.exec_module(tool)\n"
        f"    sys.exit(tool.main())\n"
    )
    return path
