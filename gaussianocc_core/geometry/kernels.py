# SPDX-License-Identifier: Apache-2.0
"""Numba kernels whose disk cache notices edits in the modules that they call.

Numba's own check looks at the kernel's file only, so an edit in a helper module would go on running as the old code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit


def cached_kernel(*modules: ModuleType, **options) -> Callable[[Callable], Callable]:
    """`njit(cache=True, **options)` that recompiles when one of `modules` has changed on disk."""

    def decorate(function: Callable) -> Callable:
        kernel = njit(cache=True, **options)(function)
        # A private attribute of Numba; if a release drops it, the cache is merely as good as Numba's own.
        index: Any = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
        if hasattr(index, "_source_stamp"):
            files = [Path(str(module.__file__)).stat() for module in modules]
            stamp = tuple((file.st_mtime, file.st_size) for file in files)
            index._source_stamp = (index._source_stamp, stamp)
        return kernel

    return decorate
