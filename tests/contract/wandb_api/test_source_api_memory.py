"""Absurdly long answers and files of W&B: they are not read, memory stays bounded, and the next request works."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from migrator.errors import ErrorClass, Retryable, TooLong
from migrator.sources.wandb.exports import HistoryExport, TooLarge
from migrator.sources.wandb.page_headers import largest_page
from tests.contract.api_source import Make, Opened, as_logged, assert_same_rows, error_of, rows_of
from tests.memory import measured
from tests.servers.http import Fault
from tests.servers.wandb_data import Artifact, Run, sample_runs

BOMB_BYTES = 2 << 30
BOTH_MB = 900  # this process and wandb-core, at most: see `client.CORE_BYTES_MAX`
GZIP = {"Content-Encoding": "gzip"}


def flood(match: str, headers: dict[str, str] | None = None, size_bytes: int = BOMB_BYTES) -> Fault:
    return Fault(match, "flood", None, status=200, headers=headers or {}, size_bytes=size_bytes)


@pytest.mark.parametrize("headers", [pytest.param({}, marks=pytest.mark.slow), GZIP], ids=["plain", "gzip"])
def test_an_answer_of_gigabytes_is_not_read_and_named(headers: dict[str, str], make: Make, opened: Opened) -> None:
    server, source = make(Run("r", "name"))
    server.faults.set([flood("graphql Run$", headers)])
    with measured() as growth:
        told = error_of(TooLong, lambda: opened(source, "r"))
    assert "W&B's answer is over 96 MiB" in str(told)
    assert told.error_class is ErrorClass.UNAVAILABLE
    assert growth.mb < BOTH_MB
    server.faults.set([])
    assert opened(source, "r").attributes().name == "name"


@pytest.mark.slow
def test_an_answer_that_wandb_core_can_read_but_we_should_not_is_named(make: Make, opened: Opened) -> None:
    server, source = make(Run("r"))
    server.faults.set([flood("graphql Run$", size_bytes=100 << 20)])
    with measured() as growth:
        error_of(TooLong, lambda: opened(source, "r"))
    assert growth.mb < BOTH_MB


def test_a_page_that_is_too_long_is_requested_in_smaller_ones(make: Make, opened: Opened) -> None:
    [run] = sample_runs(1, steps=20)
    run.mode = "live"
    server, source = make(run)
    server.faults.set([Fault("HistoryPage", "flood", 1, status=200, size_bytes=BOMB_BYTES)])
    assert_same_rows(rows_of(opened(source, run.id)), as_logged(run))


@pytest.mark.parametrize("headers", [{}, GZIP], ids=["plain", "gzip"])
def test_a_file_is_not_saved_beyond_its_size(
    headers: dict[str, str], make: Make, opened: Opened, tmp_path: Path
) -> None:
    server, source = make(Run("r", files={"a": b"content"}))
    run = opened(source, "r")
    server.faults.set([flood("GET /(files|storage)/", headers)])
    with measured() as growth:
        assert error_of(Retryable, lambda: run.fetch("a")).error_class is ErrorClass.BAD_DATA
    assert growth.mb < 100
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 100 << 20


def test_a_manifest_of_gigabytes_is_not_read(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", logged=[Artifact("data", files={"a": b"1"})]))
    run = opened(source, "r")
    server.faults.set([flood("GET /artifact-manifests/", GZIP, 400 << 20)])
    with measured() as growth:
        told = error_of(TooLong, lambda: list(run.artifacts()))
    assert "W&B's answer is over 256 MiB" in str(told)
    assert growth.mb < 100


# ---------------------------------------------------------------- exports


def one_page(table: pa.Table) -> bytes:
    """The table as a Parquet file with one page per column."""
    sink = io.BytesIO()
    pq.write_table(table, sink, use_dictionary=False, data_page_size=1 << 30, row_group_size=1 << 30)
    return sink.getvalue()


@pytest.mark.slow
def test_an_export_with_a_huge_page_is_replaced_by_the_live_history(make: Make, opened: Opened) -> None:
    [run] = sample_runs(1, steps=20)
    run.mode = "live"
    run.cache["parquet"] = [one_page(pa.table({"_step": range(240), "text": ["x" * 1_000_000] * 240}))]
    _, source = make(run)
    with measured() as growth:
        assert_same_rows(rows_of(opened(source, run.id)), as_logged(run))
    assert growth.mb < 100


@pytest.mark.slow
def test_many_rows_in_one_group_are_read_in_little_memory(tmp_path: Path) -> None:
    rows = 50_000_000
    path = tmp_path / "0.parquet"
    table = pa.table({"_step": np.arange(rows, dtype=np.int32), "x": np.zeros(rows, dtype=np.int8)})
    options: dict[str, Any] = {"use_dictionary": ["x"], "column_encoding": {"_step": "DELTA_BINARY_PACKED"}}
    pq.write_table(table, path, row_group_size=rows, data_page_size=1 << 30, **options)
    assert pq.ParquetFile(path).num_row_groups == 1
    del table
    with measured() as growth:
        export = HistoryExport(path, "history")
        assert (export.rows, export.first, export.last) == (rows, 0, rows - 1)
        assert sum(batch.num_rows for batch in export.batches(None)) == rows
        export.close()
    assert growth.mb < 100


@pytest.mark.slow
def test_rows_out_of_order_that_are_too_many_to_be_sorted_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    steps = np.arange(17_000_000)
    steps[-1] = 0
    pq.write_table(pa.table({"_step": steps}), path)
    with pytest.raises(TooLarge, match=r"\d+ MiB whose steps do not ascend"):
        HistoryExport(path, "history")


def test_page_sizes_are_found_whatever_the_pages_look_like(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    texts = [f"{number}" * 1000 for number in range(3_000)]
    for version, dictionary in itertools.product(["1.0", "2.0"], [True, False]):
        table = pa.table({"_step": range(3_000), "text": texts, "list": [[0.5, 1.5]] * 3_000})
        pq.write_table(
            table,
            path,
            use_dictionary=dictionary,
            data_page_version=version,
            data_page_size=100_000,
            write_batch_size=10,
        )
        meta = pq.ParquetFile(path).metadata
        found = largest_page(path, meta, 50_000)
        total = meta.row_group(0).column(1).total_uncompressed_size
        assert 90_000 < found <= (total if dictionary else 200_000)
        assert largest_page(path, meta, 1 << 30) == 0


@pytest.mark.parametrize("junk", [b"\0" * 64, b"\xff" * 64, b"\x15" * 64])
def test_a_file_whose_page_headers_are_junk_is_unreadable(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "0.parquet"
    path.write_bytes(one_page(pa.table({"text": [f"{number}" * 100_000 for number in range(200)]})))
    content = bytearray(path.read_bytes())
    content[4:68] = junk
    path.write_bytes(content)
    meta = pq.ParquetFile(path).metadata
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        largest_page(path, meta, 1000)
