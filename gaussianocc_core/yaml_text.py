# SPDX-License-Identifier: Apache-2.0
"""YAML of strangers: bounded before it becomes objects, every key once, one line for whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import yaml

from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.mistakes import reading
from gaussianocc_core.names import shorten

# Far above any configuration, rig or table of labels (tens of kB, a thousand values, five levels). A bag's metadata has
# limits of its own: a long recording in many files has megabytes.
MOST_BYTES, MOST_NODES, MOST_LEVELS = 1 << 20, 50_000, 50
METADATA_BYTES, METADATA_NODES = 1 << 24, 1_000_000
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it, is ten times faster


def parse_yaml(
    text: str,
    where: str,
    error: type[GaussianOccError] = ConfigError,
    most_bytes: int = MOST_BYTES,
    most_nodes: int = MOST_NODES,
) -> Any:
    """What the text says; `error` names `where` and the fault.

    Aliases count as often as they are used: ten lines can stand for a billion values.
    """
    if len(text) > most_bytes:
        raise error(f"{where}: {len(text)} characters of YAML; at most {most_bytes} are read")
    try:
        _check_events(text, where, error, most_nodes)
        node = yaml.compose(text, Loader=_LOADER)
        if node is None:
            return None
        _check_nodes(node, where, error, most_nodes)
    except yaml.YAMLError as fault:
        raise error(f"{where}: not valid YAML: {' '.join(str(fault).split())[:300]}") from fault
    with reading(where, "correct the file", error):  # dates as 2020-99-99, numbers that are none, unknown tags
        return yaml.load(text, Loader=_LOADER)


def _check_events(text: str, where: str, error: type[GaussianOccError], most_nodes: int) -> None:
    """Depth and number first, without recursion."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        count += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS:
            raise error(f"{where}: it is nested too deeply; at most {MOST_LEVELS} levels are read")
        if count > most_nodes:
            raise error(f"{where}: more than {most_nodes} values of YAML")


def _check_nodes(root: yaml.Node, where: str, error: type[GaussianOccError], most_nodes: int) -> None:
    sizes: dict[int, int] = {}  # id of a node -> values in it, aliases resolved; 0 while it is being counted

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise error(f"{where}: an alias holds itself; write the values out")
        if known is not None:
            return known
        sizes[id(node)] = 0
        total = 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, where, error)
            total += sum(size(key) + size(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(map(size, node.value))
        if total > most_nodes:
            raise error(f"{where}: more than {most_nodes} values of YAML, counting aliases; write out what is needed")
        sizes[id(node)] = total
        return total

    size(root)


def _check_keys(node: yaml.MappingNode, where: str, error: type[GaussianOccError]) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise error(f"{where}: line {key.start_mark.line + 1}: a key is a list or a section; expected a word")
        if key.value in seen and key.value != "<<":
            line = key.start_mark.line + 1
            raise error(f"{where}: line {line}: the key {shorten(key.value)} is there twice; keep one of them")
        seen.add(key.value)
