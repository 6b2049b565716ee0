# SPDX-License-Identifier: Apache-2.0
"""The node's parameters as the table in docs/node.md: `python -m gaussianocc_ros.parameter_table` prints it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from gaussianocc_ros.parameters import NodeParameters

_KINDS = {bool: "bool", int: "int", float: "float", str: "string", tuple[str, ...]: "string[]"}


def parameter_texts() -> Iterator[tuple[str, Any, str]]:
    """Name, default, and what it is with its limits."""
    for field in dataclasses.fields(NodeParameters):
        limits = []
        if choices := field.metadata.get("choices"):
            limits.append(f"One of {', '.join(choices)}.")
        if bounds := field.metadata.get("range"):
            limits.append(f"{bounds[0]:g} to {bounds[1]:g}.")
        if field.metadata.get("dynamic"):
            limits.append("Changes at once.")
        yield field.name, field.default, " ".join([field.metadata["description"], *limits])


def parameter_table() -> str:
    """Markdown; a test keeps the one in the docs equal."""
    kinds = typing.get_type_hints(NodeParameters)
    rows = ["| parameter | type | default | |", "|---|---|---|---|"]
    for name, default, text in parameter_texts():
        text = text.replace("|", "\\|")
        rows.append(f"| `{name}` | {_KINDS[kinds[name]]} | {_shown(default)} | {text} |")
    return "\n".join(rows)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`" if isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    print(parameter_table())
