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


_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST, _MOST = np.float32(-87.0), np.float32(88.0)
_ONE = np.float32(1.0)


@njit(inline="always", error_model="numpy")
def exp32(x):
    """exp of a float32 to 2e-7 of its value, between exp(-87) and exp(88): without a call, so that a loop of it fills
    vector registers (ten times as fast as `np.exp`). NaN gives no NaN."""
    x = min(max(x, _LEAST), _MOST)
    whole = np.int32(x * _LOG2_E + np.float32(128.5)) - np.int32(128)  # rounds: what is cut off is positive
    part = np.float32(whole)
    r = x - part * _LN2_HIGH - part * _LN2_LOW
    value = np.float32(1.9875691500e-4)
    value = value * r + np.float32(1.3981999507e-3)
    value = value * r + np.float32(8.3334519073e-3)
    value = value * r + np.float32(4.1665795894e-2)
    value = value * r + np.float32(1.6666665459e-1)
    value = value * r + np.float32(5.0000001201e-1)
    value = value * r * r + r + _ONE
    return value * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


_SQRT_2 = np.float32(1.41421356)


@njit(inline="always", error_model="numpy")
def log32(x):
    """Natural logarithm of a positive, normal float32 to 1e-6: as `exp32`, for loops that fill vector registers. The
    polynomial is that of Cephes' logf."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(127))
    m = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    above = m > _SQRT_2
    m = m * np.float32(0.5) if above else m
    exponent = exponent + _ONE if above else exponent
    f = m - _ONE
    value = np.float32(7.0376836292e-2)
    value = value * f - np.float32(1.1514610310e-1)
    value = value * f + np.float32(1.1676998740e-1)
    value = value * f - np.float32(1.2420140846e-1)
    value = value * f + np.float32(1.4249322787e-1)
    value = value * f - np.float32(1.6668057665e-1)
    value = value * f + np.float32(2.0000714765e-1)
    value = value * f - np.float32(2.4999993993e-1)
    value = value * f + np.float32(3.3333331174e-1)
    squared = f * f
    return f + (value * f * squared - np.float32(0.5) * squared) + exponent * np.float32(0.693147181)


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
