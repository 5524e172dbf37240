"""`migrate report`: what its page says of a state database filled by way of the store, and of offline files."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from migrations_db import Store, open_store
from migrations_db.types import Selection
from migrator.commands.left_out import LEFT_OUT_MEANS
from migrator.commands.text import SKIPS_MEAN
from migrator.copying.findings import How
from migrator.destinations.neptune.offline import OfflineDestination
from migrator.errors import ADVICE, ErrorClass
from migrator.job.verifier import Verifier, VerifyScope
from migrator.listed import Cause
from migrator.records import Entry, HistoryRow
from migrator.sources.memory import MemoryData
from tests.migration import Migration
from tests.report_job import KEY, Job, fill, report, row

SHOWN = "<script>alert('x')</script>\\x1b[31m\\u202e & \"q\" {{ 7 * 7 }}"
VOID = {"meta", "input", "br", "link", "img"}


@dataclass
class Page(HTMLParser):
    """What a reader gets: text, titles of pictures, tables by their caption; and what is wrong with the page."""

    text: str = ""
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> where {self._open[-1:]} was open")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & {*self._open}:
            self.text += f"{data} "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def read(path: Path) -> Page:
    """The page, once it has been looked over for all that must hold of any report."""
    source = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    page.close()
    page.text = " ".join(page.text.split())
    assert page.wrong == []
    assert len(set(page.ids)) == len(page.ids)
    assert_nothing_is_loaded(page, source)
    assert_everybody_can_read_it(page)
    *lines, last = source.splitlines(keepends=True)
    assert sha256("".join(lines).encode()).hexdigest() in last
    return page


def assert_nothing_is_loaded(page: Page, source: str) -> None:
    loading = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}
    assert [attributes for _, attributes in page.tags if loading & attributes.keys()] == []
    assert [name for name in ("link", "img", "iframe", "object", "base", "use") if page.all(name)] == []
    assert not re.search(r"url\(|@import", source)
    links = [attributes["href"] or "" for attributes in page.all("a")]
    assert [link for link in links if not link.startswith(("#", "https://", "http://"))] == []
    assert {link[1:] for link in links if link.startswith("#")} <= {*page.ids}
    [policy] = [one["content"] or "" for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    handlers = [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert handlers == []
    assert len(page.all("script")) == 1


def assert_everybody_can_read_it(page: Page) -> None:
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption")
    assert names.count("main") == names.count("h1") == 1
    assert page.all("html") == [{"lang": "en"}]
    assert [one for one in page.all("th") if one.get("scope") not in ("row", "col")] == []
    assert [one for one in page.all("svg") if one.get("role") != "img" and one.get("aria-hidden") != "true"] == []
    assert len([one for one in page.all("svg") if one.get("role") == "img"]) == names.count("title") - 1


# ---------------------------------------------------------------- a job with all that can happen


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Runs of every class, in two projects, with names that mean harm."""
    job = Job(tmp_path / "migration.db")
    fill(job)
    yield job
    job.store.close()


def test_the_page_tells_what_arrived_what_did_not_and_why(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = report(job.path, "--out", out)
    page = read(out)
    assert "1 run of 7 is not as sent." in page.text
    assert page.text.count("1 run of 7 is not as sent.") == result.output.count("1 run of 7 is not as sent.") == 1
    assert "2 verified, 1 differs, 2 not verified" in page.text
    for count, word in ((1, "equal"), (1, "explained"), (1, "unexplained"), (2, "not verified"), (2, "not copied")):
        assert re.search(rf"\b{word} {count} (read back|what was|copied, but|waits)", page.text), word
    assert f"missing_file: {SKIPS_MEAN['missing_file']}" in page.text
    assert "renamed: first level is reserved" in page.text
    assert "val/<loss> : differs sent floats: 100 points, steps 0 to 99 found missing" in page.text
    assert ADVICE[ErrorClass.UNAVAILABLE].split("`")[0].strip() in page.text
    assert "migrate retry-failed --class differs --run-id team/vision/differs" in page.text
    assert LEFT_OUT_MEANS[Cause.CRLF][0] in page.text
    assert "3 runs were verified at level counts. Level counts does not compare the points of text" in page.text
    assert "1 run not verified" not in page.text
    assert "2 runs not copied: nothing is proved of them." in page.text
    assert "team/bad_<b> → bad-<b>" in page.text
    assert "https://wandb.invalid/team/vision/runs/equal" in [link["href"] for link in page.all("a")]


def test_names_and_keys_do_no_harm(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = report(job.path, "--out", out, "--json")
    page, source = read(out), out.read_text()
    assert SHOWN in page.text
    assert "49" not in re.sub(r"[0-9a-f]{64}", "", re.findall(r"<table id=.runs-table.*?</table>", source, re.S)[0])
    assert KEY not in source + result.output
    assert "javascript:" not in source
    assert oct(out.stat().st_mode & 0o777) == "0o600"
    assert json.loads(result.stdout)["runs"] == {
        "unexplained": 1,
        "not_copied": 2,
        "not_verified": 2,
        "explained": 1,
        "equal": 1,
    }


def test_long_names_and_keys_within_them_are_cut_without_leaving_a_part(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    job.project("long", row("long", "n" * 80 + KEY + "n" * 200_000))
    job.done("long", Entry("skipped", "p" * 80 + KEY + "p" * 200_000, "missing_file"))
    report(job.path, "--out", out)
    page = read(out)
    assert out.stat().st_size < 200_000
    assert "n" * 60 in page.text
    assert KEY[:10] not in page.text


def test_some_runs_can_be_asked_for(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    report(job.path, "vision/explained", "--out", out)
    page = read(out)
    assert "This report is about run vision/explained only." in page.text
    assert "team/vision/equal" not in page.text
    report(job.path, "--projects", "vision", "--out", out)
    assert "team/bad_<b>" not in read(out).text
    assert "no such project" in report(job.path, "--projects", "nosuch", "--out", out, exit_code=1).exception.args[0]


def test_pictures_that_cannot_be_made_are_told_and_cost_nothing_else(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    job.store.claim_setting("destination", "http://127.0.0.1:9 workspace acme")
    result = report(job.path, "--out", out)
    assert "NEPTUNE_API_TOKEN is not set" in result.stderr
    assert "It cannot be drawn: NEPTUNE_API_TOKEN is not set" in read(out).text
    assert "It cannot be drawn" not in (report(job.path, "--out", out, "--charts", "0"), read(out))[1].text


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda path: path.write_text("<html>mine</html>"), "is not a report of `migrate`"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.symlink_to("/dev/null"), "is not a file"),
        (lambda path: os.mkfifo(path), "is not a file"),
    ],
    ids=["a page", "a directory", "a device", "a pipe"],
)
def test_only_a_report_is_replaced(job: Job, tmp_path: Path, prepare: Any, told: str) -> None:
    out = tmp_path / "page.html"
    prepare(out)
    before = (*out.lstat()[:7], out.lstat().st_mtime_ns)
    assert told in str(report(job.path, "--out", out, exit_code=1).exception)
    assert (*out.lstat()[:7], out.lstat().st_mtime_ns) == before
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_a_report_is_replaced_as_a_whole_or_not_at_all(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    report(job.path, "--out", out, "--force")
    first = out.read_bytes()
    with out.open("rb") as reader:  # what somebody reads stays whole
        report(job.path, "--out", out, "--projects", "vision")
        assert reader.read() == first
    assert out.read_bytes() != first
    for name, told in (("no/page.html", "is not a directory"), ("x" * 300, "File name too long")):
        assert told in str(report(job.path, "--out", tmp_path / name, exit_code=1).exception)
    assert [path.name for path in tmp_path.glob(".migrate-report-*")] == []


def test_an_empty_database_has_a_report_too(tmp_path: Path) -> None:
    open_store(tmp_path / "migration.db").close()
    report(tmp_path / "migration.db", "--out", tmp_path / "page.html")
    assert "There are no runs to report on." in read(tmp_path / "page.html").text


# ---------------------------------------------------------------- pictures of offline files


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Path]]:
    """Two runs with metrics in offline files, verified; somebody has changed one of the files since."""
    directory = tmp_path_factory.mktemp("copied")
    runs = [metrics("long", 3_000), metrics("short", 3)]
    with Migration(runs, OfflineDestination(directory / "offline", lambda: datetime.now(UTC))) as migration:  # type: ignore[arg-type]
        migration.store = open_store(directory / "migration.db")
        migration.run()
        store = migration.store
        store.claim_setting("destination", f"offline:{directory / 'offline'}")
        with ThreadPoolExecutor(1) as downloads:
            scope = VerifyScope(Selection(), "workspace", directory / "offline", How(), 1, 1)
            Verifier(scope, store, downloads).run(lambda _: None)
        yield store, directory
        store.close()


def metrics(run_id: str, steps: int) -> MemoryData:
    history = [
        HistoryRow(step, 1.7e9 + step, {"loss": 1 / (step + 1), "odd": float("nan") if step % 2 else float(step)})
        for step in range(steps)
    ]
    return MemoryData(run_id, name=f"the {run_id} run", history=history)


def test_metrics_are_drawn_as_they_were_read_back(copied: tuple[Store, Path]) -> None:
    _, directory = copied
    out = directory / "page.html"
    result = report(directory / "migration.db", "--out", out)
    page = read(out)
    assert result.stderr == ""
    assert "All 2 runs are copied, read back, and found as sent." in page.text
    assert "the long run" in page.text
    assert page.text.count("3,000 points, steps 0 to 2999: as sent") == 1
    assert "3,000 points, steps 0 to 2999, 1,500 of them NaN or infinite and not drawn: as sent" in page.text
    assert "3 points, steps 0 to 2: as sent" in page.text
    curves = [one["d"] or "" for one in page.all("path") if one.get("class") == "line"]
    assert max(curve.count("L") for curve in curves) <= 400
    assert "The source was not read again" in page.text


def test_a_metric_that_is_not_as_sent_is_told_beside_its_picture(copied: tuple[Store, Path]) -> None:
    _, directory = copied
    other = directory / "other.db"
    with closing(sqlite3.connect(directory / "migration.db")) as first, closing(sqlite3.connect(other)) as database:
        first.backup(database)
        change = "json_set(data, '$.count', 3001, '$.last', 3000000000, '$.hash1', 7, '$.high', 9.5)"
        database.execute(f"UPDATE digest SET data = {change} WHERE path = 'loss' AND data LIKE '%3000%'")
        database.commit()
    report(other, "long", "--out", directory / "page.html")
    page = read(directory / "page.html")
    assert "3,000 points, steps 0 to 2999: not as sent. Sent were 3,001 points, steps 0 to 3000" in page.text
    assert "step 0 to 3000 0.000333333 to 9.5" in page.text
    assert "the short run" not in page.text


def test_a_run_that_is_gone_is_told_in_place_of_its_pictures(copied: tuple[Store, Path]) -> None:
    _, directory = copied
    [log] = (directory / "offline").rglob("short/*.sqlite3")
    log.rename(moved := log.with_suffix(".gone"))
    try:
        report(directory / "migration.db", "--run-id", "short", "--out", directory / "page.html")
    finally:
        moved.rename(log)
    assert "It cannot be drawn: the run is not in workspace/" in read(directory / "page.html").text


# ---------------------------------------------------------------- many runs


#: all runs are done, one after the other, each with twenty lines in its ledger
MANY = """
UPDATE run SET status = 'done', points_read = 1010, points_written = 1000, size_bytes = 8000,
    started_at = datetime('2026-01-01', (id / 2) || ' seconds') || '.000000',
    verdict = iif(id % 3, 'verified', NULL), verified_by = 'digests, files by size',
    verified_at = '2026-01-02 00:00:00.000000';
INSERT INTO attempt (run, number, phase, worker, started_at, ended_at, outcome)
    SELECT id, 1, 'copy', 'w', started_at, datetime('2026-01-01', (id / 2 + 3) || ' seconds') || '.000000', 'done'
    FROM run;
WITH RECURSIVE counter (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n < 19)
INSERT INTO ledger (run, digest, part, kind, path, reason, count)
    SELECT id, randomblob(16), 'history', iif(n % 2, 'skipped', 'renamed'), 'media/images/' || n || '.png',
        iif(n % 2, 'missing_file', 'first level is reserved'), 1
    FROM run, counter;
"""


@pytest.mark.heavy
def test_ten_thousand_runs_take_under_20_s_and_20_mb(tmp_path: Path) -> None:
    job = Job(tmp_path / "migration.db")
    for project in range(10):
        job.project(f"p{project}", *(row(f"r{project}-{n:04}", f"resnet-{n} lr=0.{n}") for n in range(1_000)))
    job.store.close()
    with closing(sqlite3.connect(job.path)) as database, database:
        database.executescript(MANY)
    began = time.monotonic()
    report(job.path, "--charts", "0", "--out", tmp_path / "page.html")
    took_s = time.monotonic() - began
    size_mb = (tmp_path / "page.html").stat().st_size / 1e6
    print(f"{took_s:.1f} s, {size_mb:.1f} MB")
    page = read(tmp_path / "page.html")
    assert "9,000 more runs of this kind are not told here" in page.text
    assert (took_s < 20, size_mb < 20) == (True, True), (took_s, size_mb)
