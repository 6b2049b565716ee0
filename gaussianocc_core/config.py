# SPDX-License-Identifier: Apache-2.0
"""Configuration files: frozen dataclasses from defaults, YAML and overrides, and back. Knows no model.

Each default has its home in the dataclass that has the field. Checkpoints embed their whole configuration, so a node or
a script needs no file beside the weights.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import dacite

from gaussianocc_core.bounded import read_text
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.mistakes import one_line, reading, reason_of
from gaussianocc_core.names import shorten
from gaussianocc_core.yaml_text import MOST_BYTES, parse_yaml

T = TypeVar("T")


def load_config(path: str | Path | None, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """A configuration dataclass from its defaults, then a YAML file (or None), then `key.sub=value` overrides.

    Raises ConfigError that names the unknown key and the nearest valid one, or the wrong type.
    """
    data: dict[str, Any] = read_yaml(path) if path is not None else {}
    origin = str(path) if path is not None else "defaults"
    if isinstance(data.get("model"), str):  # a training file names its model: `model: reference`
        data["model"] = read_yaml(find_model_config(data["model"]))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r}: expected key=value, e.g. decoder.channels=16")
        node = data
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
        node[last] = parse_yaml(text, f"override {override!r}")
        if key == "model" and isinstance(node[last], str):
            node[last] = read_yaml(find_model_config(node[last]))
    return from_dict(cls, data, origin)


def from_dict(cls: type[T], data: dict[str, Any], origin: str = "configuration") -> T:
    """A configuration dataclass from plain data; lists become tuples and integers floats where the field says so."""
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: expected a section of `key: value` lines, got {shorten(data)}")
    with reading(origin, "correct it", ConfigError):
        data = drop_retired(cls, data, origin)
        _check_keys(cls, data, origin)
        data = _named_values(cls, data)
        try:
            return dacite.from_dict(cls, data, dacite.Config(strict=True, cast=[tuple], type_hooks=_TYPE_HOOKS))
        except (dacite.DaciteError, ValueError, TypeError) as error:
            raise ConfigError(f"{origin}: {one_line(error)}") from error


def drop_retired(cls: Any, data: dict[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    """The data without keys that were settings once and are constants now: a class attribute RETIRED has their values.

    Files of before hold the same value as a rule; another one is a ConfigError, for nothing would heed it.
    """
    hints, retired = _field_types(cls), getattr(cls, "RETIRED", {})
    kept: dict[str, Any] = {}
    for key, value in data.items():
        if key in retired:
            if not _agrees(value, retired[key]):
                raise ConfigError(
                    f"{origin}: {prefix}{key} is no setting any more; its value is {retired[key]!r}, not "
                    f"{shorten(value)}. "
                    "Leave it out, or use the version of this package that the file is from"
                )
        elif isinstance(value, dict) and dataclasses.is_dataclass(hints.get(key)):
            kept[key] = drop_retired(hints[key], value, origin, f"{prefix}{key}.")
        else:
            kept[key] = value
    return kept


def _agrees(value: Any, constant: Any) -> bool:
    """Whether a value of a file is the constant; of a section, whether what it says of it is."""
    if isinstance(constant, dict):
        return isinstance(value, dict) and all(key in constant and _agrees(value[key], constant[key]) for key in value)
    if isinstance(constant, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) == len(constant) and all(map(_agrees, value, constant))
    return bool(_to_float(value) == constant) if isinstance(constant, float) else bool(value == constant)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data (dicts, lists, scalars) of a configuration dataclass, complete with all defaults."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where it is absent, unreadable or not a mapping."""
    try:
        data = parse_yaml(read_text(Path(path), MOST_BYTES), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the path of an existing YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)}); give a file of YAML") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top level, got a {type(data).__name__}")
    return data


def find_model_config(name: str) -> Path:
    """The file of a named model in a clone (`config/model/`) or an installed ROS package (`share/`)."""
    for parent in Path(__file__).resolve().parents:
        for folder in ("config/model", "share/gaussianocc_ros/config/model"):
            path = parent / folder / f"{name}.yaml"
            if path.is_file():
                return path
    raise ConfigError(f"model {name!r}: no config/model/{name}.yaml near this package; copy it from the repository")


def _to_float(value: Any) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads 4e-3, without a point, as text
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {each.name: hints[each.name] for each in dataclasses.fields(cls)}


def _names(cls: Any) -> Mapping[str, Any]:
    """Values that files may say by name, `quirks: published`: a class attribute NAMED of the dataclass."""
    return getattr(cls, "NAMED", {})


def _named_values(cls: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The data with names in place of sections replaced by the values that they mean."""
    hints = _field_types(cls)
    result = dict(data)
    for key, value in data.items():
        if not dataclasses.is_dataclass(hints[key]):
            continue
        if isinstance(value, str):
            result[key] = _names(hints[key]).get(value, value)
        elif isinstance(value, dict):
            result[key] = _named_values(hints[key], value)
    return result


_TYPE_HOOKS: dict[type[Any], Callable[[Any], Any]] = {float: _to_float}


def _check_keys(cls: Any, data: dict[str, Any], origin: str, prefix: str = "") -> None:
    hints = _field_types(cls)
    for key, value in data.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; valid keys: {', '.join(hints)}"
            unknown = one_line(f"{prefix}{key}")
            raise ConfigError(f"{origin}: unknown key {unknown}{hint}")
        inner = hints[key]
        if isinstance(inner, types.UnionType):
            continue
        if dataclasses.is_dataclass(inner):
            if isinstance(value, str) and value in _names(inner):
                continue
            if not isinstance(value, dict):
                got = shorten(value)
                raise ConfigError(f"{origin}: {prefix}{key} is a section; expected `key: value` lines, got {got}")
            _check_keys(inner, value, origin, f"{prefix}{key}.")
