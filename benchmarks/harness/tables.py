"""Tables and plots of results: the same tables on a terminal and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A title, column headings and rows of cells; without rows, a remark."""

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def display_name(name: str) -> str:
    """Return the name of a candidate as shown: results store our runtime as `numba`."""
    return f"rtmtass{name.removeprefix('numba')}" if name.startswith("numba") else name


def print_result(result: dict[str, Any], tables: list[Table], *, is_json: bool) -> None:
    """Print a result as JSON, or its machine and tables."""
    from rtmtass.cli.console import print_table

    if is_json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"])
    for table in tables:
        print(table.title)
        if table.rows:
            print_table(table.columns, table.rows)
        print()


def markdown(tables: list[Table]) -> str:
    """Return tables as Markdown."""
    parts = []
    for table in tables:
        if not table.rows:
            parts.append(table.title)
            continue
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        parts += [f"**{table.title}**", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts)


def one_axes(
    path: Path, draw: Callable[[Any], None], *, size: tuple[float, float] = (8, 5)
) -> None:
    """Save a plot with one pair of axes; see `several_axes`."""
    several_axes(path, 1, lambda axes: draw(axes[0]), size=size)


def several_axes(
    path: Path, n: int, draw: Callable[[Any], None], *, size: tuple[float, float]
) -> None:
    """Save a plot with `n` pairs of axes side by side, drawn by `draw`; needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(list(figure.subplots(1, n, squeeze=False)[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def format_interval(value: dict[str, float] | None, digits: int = 2, mark: str = "") -> str:
    """Return a mean with its interval as text."""
    if not value:
        return "–"
    return (
        f"{value['mean']:.{digits}f}{mark} ({value['low']:.{digits}f} … {value['high']:.{digits}f})"
    )
