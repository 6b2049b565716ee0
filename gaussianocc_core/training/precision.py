# SPDX-License-Identifier: Apache-2.0
"""Numbers of the networks; geometry and losses are always fp32."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def network_precision(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for the networks of a stage; "fp32": none."""
    return torch.autocast(device.type, PRECISIONS[precision], precision != "fp32")
