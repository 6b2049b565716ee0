# SPDX-License-Identifier: Apache-2.0
"""Networks -> ONNX: fixed sizes, operators of the standard set only."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gaussianocc_core.backends.networks import Network
from gaussianocc_core.errors import BackendError
from gaussianocc_core.files import complete_file

OPSET = 18
STANDARD_DOMAINS = ("", "ai.onnx")


def write_onnx(path: Path, network: Network, metadata: Mapping[str, str], opset: int = OPSET) -> None:
    """One network, traced where its weights are, as a file that appears complete or not at all.

    BackendError without the package onnx, or where the operators that it takes are not of the standard set.
    """
    require("onnx", "which networks are exported with")
    import onnx

    # torch.export, the newer exporter, needs onnxscript and leaves sizes open; traced, all are fixed.
    traced: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    tensors = (*network.module.parameters(), *network.module.buffers())
    device = next((each.device for each in tensors), torch.device("cpu"))
    with complete_file(path) as partial:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the tracer: sizes become constants, as they should
            torch.onnx.export(
                network.module.eval(),
                tuple(each.to(device) for each in network.examples()),
                str(partial),
                input_names=[port.name for port in network.inputs],
                output_names=[port.name for port in network.outputs],
                opset_version=opset,
                **traced,
            )
        model = onnx.load(str(partial))
        foreign = sorted({node.domain for node in model.graph.node} - set(STANDARD_DOMAINS))
        if foreign:
            raise BackendError(f"{network.name}: exported with operators of {', '.join(foreign)}; use another opset")
        unused = {port.name for port in network.inputs} - {value.name for value in model.graph.input}
        assert not unused, f"{network.name}: the export dropped {sorted(unused)}"
        for key, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.checker.check_model(model)
        onnx.save_model(model, str(partial))


def require(package: str, purpose: str) -> None:
    """BackendError that says what to install."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise BackendError(
            f"the package {package} is not installed, {purpose}: pip install {package}; for all of them, "
            "in the repository: pip install '.[deploy]'"
        )


__all__ = ["OPSET", "require", "write_onnx"]
