"""The service's benchmark counts every hop, every lost sample and every refusal."""

from __future__ import annotations

from typing import Any

import pytest
from serve_rig import run, serving

from benchmarks import serve


def test_clients_note_the_latency_of_every_hop_and_those_refused() -> None:
    async def scene() -> tuple[serve.Run, serve.Run]:
        async with serving(max_streams=2) as (server, _):
            return await serve.load(server.url, 2, 0.16), await serve.load(server.url, 3, 0.5)

    served, crowded = run(scene())
    assert (served.refused, served.lost, served.broken) == (0, 0, [])
    assert len(served.latencies_s) == 2 * 10
    assert min(served.latencies_s) > 0
    assert crowded.refused + len(crowded.latencies_s) // 31 == 3
    assert (crowded.lost, crowded.broken) == (0, [])


POINT: dict[str, Any] = {
    "p50_us": 12000.0, "p99_us": 30000.0, "max_us": 31000.0, "clients": 8, "served": 8,
    "refused": 0, "lost_samples": 0, "broken": [], "late_hops": 0.0, "cpu": 0.5, "cpu_us": 120.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ({}, True),
        ({"p99_us": 32001.0}, False),
        ({"lost_samples": 1}, False),
        ({"refused": 1}, False),
        ({"broken": ["closed with 1008"]}, False),
    ],
)
def test_a_load_counts_only_if_it_lost_nothing_in_time(
    change: dict[str, Any], is_kept: bool
) -> None:
    assert serve.keeps({**POINT, **change}, 32000.0) is is_kept


def test_the_table_names_the_largest_load() -> None:
    result = {"streams_per_core": 8, "bound_ms": 32.0, "curve": {"8": POINT},
              "fractions": {"0.8": POINT}, "admission": POINT, "shares_a_core": True}  # fmt: skip
    curve, longer, remark = serve.tables(result)
    assert curve.title == "8 streams on one core with p99 of the added latency below 32 ms"
    assert curve.rows == [["8", "8", "12.0", "30.0", "31.0", "0", "0", "50 %", "120"]]
    assert len(curve.rows[0]) == len(curve.columns)
    assert longer.rows[0][0] == "80 % of 8: 8"
    assert remark.title == "The clients ran on the server's core"
