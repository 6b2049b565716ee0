# SPDX-License-Identifier: Apache-2.0
"""How the programs of `tools/` start. Imports nothing beyond the standard library: it reports what is not there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def run_tool(main: Callable[[], int]) -> int:
    """The exit status of `main`; 2 and one line instead of a traceback where this Python lacks a library."""
    try:
        return main()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "gaussianocc_core":
            raise  # not the user's installation: a mistake of ours
        tool = Path(sys.argv[0]).name
        sys.stderr.write(
            f"error: {sys.executable} has no module {error.name}; "
            f"run `make setup` once in the repository, then: .venv/bin/python tools/{tool}\n"
        )
        return 2
