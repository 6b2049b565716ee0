# SPDX-License-Identifier: Apache-2.0
"""What every CPU kernel shares: how Numba code is decorated, threads, and arrays without a copy."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

# Contraction to fused multiply-add and reordered sums; infinities and NaNs keep their meaning.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
JIT = {"nogil": True, "cache": True, "fastmath": _FASTMATH, "error_model": "numpy"}


def cached_kernel(*modules: ModuleType, **options) -> Callable[[Callable], Callable]:
    """`njit(cache=True, **options)` that recompiles when one of `modules` has changed on disk.

    Numba's own check looks at the kernel's file only, so an edit in a helper would go on running as the old code.
    """

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


def inner(function: Callable) -> Callable:
    """`njit` for functions that only kernels call and that allocate nothing.

    Without `_nrt`, each call counts references to its arrays with atomic adds that threads contend for: a third of the
    street world's rendering time (measured 2026-11).
    """
    return njit(error_model="numpy", _nrt=False)(function)


def as_array(values: Tensor, dtype: type = np.float32) -> np.ndarray:
    """The tensor's values as a contiguous array for a kernel, without a copy where they are one."""
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=dtype)


def run_in_threads(work: Callable[..., Any], items: Sequence[tuple]) -> Iterator[Any]:
    """Results of work(*item), in order, from as many threads as torch uses.

    The threads live only as long as the call: there is no pool that a fork could leave without its threads.
    """
    threads = min(torch.get_num_threads(), os.cpu_count() or 1, len(items))
    if threads <= 1:
        yield from (work(*item) for item in items)
        return
    yield work(*items[0])  # alone: it compiles, or loads from the cache
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items[1:]:
            waiting.append(pool.submit(work, *item))
            if len(waiting) > 4 * threads:  # bounds the memory that finished results hold
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
