"""Runs kernels, which release the GIL, in several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

R = TypeVar("R")


def run_parts(run: Callable[..., R], parts: Iterable[tuple[Any, ...]], threads: int) -> list[R]:
    """Return run(*part) of every part, in so many threads; no part waits for another."""
    if threads == 1:
        return [run(*part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return [done.result() for done in [pool.submit(run, *part) for part in parts]]
