# SPDX-License-Identifier: Apache-2.0
"""Parameter files that say nothing of this node: ROS takes them without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from gaussianocc_core.bounded import read_text
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.yaml_text import MOST_BYTES, parse_yaml


def files_without_section(arguments: Sequence[str], node: str) -> list[str]:
    """A line for each --params-file of a command line that has no section for the node. node: its full name."""
    found = []
    for flag, name in pairwise(arguments):
        if flag != "--params-file":
            continue
        try:
            document = parse_yaml(read_text(Path(name), MOST_BYTES), name, ConfigError)
        except (OSError, ValueError, ConfigError):  # ROS itself says what it cannot read
            continue
        sections = list(_sections(document, ""))
        if sections and not any(_fits(section, node) for section in sections):
            has = ", ".join(section.lstrip("/") for section in sections)
            found.append(f"no section for {node} in {name}; it has {has}. Call it /** or by the node's name")
    return found


def _sections(document: Any, space: str) -> Iterator[str]:
    """The full names, with wildcards, that have ros__parameters; namespaces may be levels of their own."""
    for name, content in document.items() if isinstance(document, dict) else ():
        full = f"{space}/{str(name).strip('/')}"
        if isinstance(content, dict):
            if "ros__parameters" in content:
                yield full
            yield from _sections({k: v for k, v in content.items() if k != "ros__parameters"}, full)


def _fits(section: str, node: str) -> bool:
    pattern = "".join(
        "(/[^/]+)*" if part == "**" else "/[^/]+" if part == "*" else f"/{re.escape(part)}"
        for part in section.split("/")[1:]
    )
    return re.fullmatch(pattern, node) is not None
