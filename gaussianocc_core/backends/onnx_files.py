# SPDX-License-Identifier: Apache-2.0
"""ONNX files that came from somebody, looked at before a runtime reads them; without the package onnx, which a robot
does not need.

Protocol buffers (onnx.proto): fields are read by number, what is in a tensor is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gaussianocc_core.backends.onnx_export import STANDARD_DOMAINS
from gaussianocc_core.bounded import read_bytes

_MOST_BYTES = 1 << 30
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_KIND, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
# Operators that make tensors as large as a number says; exports of ours have none.
_MAKE_FROM_NOTHING = frozenset(
    ("ConstantOfShape", "EyeLike", "OneHot", "Range", "Tile", "Upsample", "RandomNormal", "RandomUniform")
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_onnx(path: Path) -> None:
    """ValueError where it is no plain network: one whose values lie in other files, which may be any of this machine's,
    with loops and branches, which need not end, or with operators of others. OSError as `read_bytes`."""
    data = memoryview(read_bytes(path, _MOST_BYTES))
    for field, value in _fields(data):
        if field == _MODEL_FUNCTIONS:
            raise ValueError("it defines functions")
        if field == _MODEL_GRAPH:
            _check_graph(_message(value))


def _check_graph(graph: memoryview) -> None:
    for field, value in _fields(graph):
        if field == _GRAPH_NODE:
            _check_node(_message(value))
        elif field == _GRAPH_TENSOR:
            _check_tensor(_message(value))
        elif field == _GRAPH_SPARSE:
            raise ValueError("it has sparse values")


def _check_node(node: memoryview) -> None:
    kind = domain = ""
    for field, value in _fields(node):
        if field == _NODE_KIND:
            kind = bytes(_message(value)).decode("ascii", "replace")[:40]
        elif field == _NODE_DOMAIN:
            domain = bytes(_message(value)).decode("ascii", "replace")[:40]
        elif field == _NODE_ATTRIBUTE:
            for of_attribute, content in _fields(_message(value)):
                if of_attribute in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    raise ValueError("it has loops or branches")
                if of_attribute in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                    _check_tensor(_message(content))
    if kind in _MAKE_FROM_NOTHING:
        raise ValueError(f"it has an operator {kind!r}, which makes tensors of any size")
    if domain not in STANDARD_DOMAINS:
        raise ValueError(f"it has an operator {kind!r} of {domain!r}")


def _check_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise ValueError("its values lie in other files")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is damaged")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message; ValueError where it is none."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            number, place = _varint(data, place)
            yield field, number
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("it is damaged")
        if place + size > len(data):
            raise ValueError("it is cut off")
        yield field, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it is cut off")
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("it is damaged")


__all__ = ["check_onnx"]
