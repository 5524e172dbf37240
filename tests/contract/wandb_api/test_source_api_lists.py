"""Lists of a W&B server that counts more than it gives, gives some twice, or fails at large pages or at one run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from migrator.errors import ErrorClass, Retryable
from migrator.sources.base import RunFilter
from tests.contract.api_source import Make, Opened, P, as_logged, assert_same_rows, error_of, rows_of
from tests.servers.http import Fault, Request, Response
from tests.servers.wandb_data import EPOCH_S, Artifact, Run, iso, light_runs, logged
from tests.servers.wandb_server import Query, WandbServer


class Forgetful(WandbServer):
    """Lists runs, files and artifacts whose number on a page is `hidden` not at all, and the first of a page twice."""

    hidden = 3

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        if request.path != "/graphql" or answer.status != 200:
            return answer
        data = json.loads(answer.body)
        for edges in _edges(data):
            if len(edges) > self.hidden:
                del edges[self.hidden]
                edges.insert(0, edges[0])
        return Response(200, json.dumps(data).encode())


def _edges(value: Any) -> list[list[Any]]:
    """All lists called `edges` inside of an answer."""
    if not isinstance(value, dict):
        return []
    own = [value["edges"]] if isinstance(value.get("edges"), list) else []
    return own + [edges for inner in value.values() for edges in _edges(inner)]


def run_ids(source: Any, only: RunFilter | None = None) -> list[str]:
    found = [listing.run_id for listing in source.runs(P, only or RunFilter())]
    assert len(found) == len(set(found))
    return found


def test_runs_that_one_order_hides_are_found_in_another(make: Make) -> None:
    runs = light_runs(1_200)
    _, source = make(*runs, server=Forgetful)
    assert sorted(run_ids(source)) == sorted(run.id for run in runs)
    assert source.missing(P) is None
    assert not source.problems


class Hiding(WandbServer):
    """Counts a run that it never lists, as far as filters let it."""

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        if b"query Runs" not in request.body or answer.status != 200:
            return answer
        data = json.loads(answer.body)
        data["data"]["project"]["runCount"] += 1
        return Response(200, json.dumps(data).encode())


@pytest.mark.parametrize("only", [RunFilter(), RunFilter(states=["finished"])], ids=["all", "filtered"])
def test_a_run_that_is_counted_and_never_listed_is_told_of_and_stops_nothing(only: RunFilter, make: Make) -> None:
    _, source = make(Run("a"), Run("b", created_at=iso(EPOCH_S + 1)), Run("c", state="running"), server=Hiding)
    expected = [run for run in ("a", "b", "c") if not only.states or run != "c"]
    assert sorted(run_ids(source, only)) == expected
    told = f"W&B counts {len(expected) + 1} runs but returns {len(expected)}"
    assert source.missing(P) == told
    assert source.problems == [f"incomplete: team/p: {told}"]


def test_a_count_that_heeds_no_filter_is_not_believed(make: Make) -> None:
    class Unfiltered(WandbServer):
        def handle(self, request: Request) -> Response:
            answer = super().handle(request)
            if b"query Runs" not in request.body:
                return answer
            data = json.loads(answer.body)
            data["data"]["project"]["runCount"] = 2
            return Response(200, json.dumps(data).encode())

    _, source = make(Run("a"), Run("b"), server=Unfiltered)
    assert run_ids(source, RunFilter(run_ids=["a"])) == ["a"]
    assert source.missing(P) is None


def test_files_and_artifacts_that_one_list_hides_are_found_in_another(make: Make, opened: Opened) -> None:
    files = {f"{n:04}": b"1" for n in range(700)}
    used = [Artifact(f"a{n:03}", files={"x": b"1"}) for n in range(130)]
    _, source = make(Run("r", files=files, used=used, mode="live"), server=Forgetful)
    reader = opened(source, "r")
    assert {file.name for file in reader.files()} >= files.keys() - {"0003"}
    assert reader.file_count() == 700
    names = reader.used_artifacts()
    assert len(names) == len(set(names))
    assert len(names) >= 129
    assert (reader.partial("artifacts") is None) is (len(names) == 130)


# ---------------------------------------------------------------- too much at once


class Weak(WandbServer):
    """Answers 502 to whatever is more than `limit` things, and to pages with one of the `bad` runs."""

    limit = 10_000
    bad: frozenset[str] = frozenset()
    asked: list[int]

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        if request.path != "/graphql" or answer.status != 200:
            return answer
        query = Query.of(request)[1]
        edges = [edge["node"] for found in _edges(json.loads(answer.body)) for edge in found]
        runs = {node["name"] for node in edges} if query.name == "Runs" else set()
        if len(edges) > self.limit or self.bad & runs:
            return Response(502, b"Bad Gateway", headers={"Retry-After": "0"})
        return answer


def test_pages_that_are_too_large_for_the_server_become_smaller(make: Make, opened: Opened) -> None:
    run = Run(
        "r",
        files={f"{n:03}": b"1" for n in range(70)},
        console=[(None, None, f"line {n}") for n in range(70)],
        used=[Artifact(f"a{n:03}", files={"x": b"1"}) for n in range(40)],
        created_at=iso(EPOCH_S - 1),
    )
    server, source = make(run, *light_runs(70), server=Weak)
    server.limit = 31  # type: ignore[attr-defined]
    assert len(run_ids(source)) == 71
    reader = opened(source, "r")
    assert len(reader.files()) == 70
    assert [line.number for page in reader.console(0) for line in page] == list(range(70))
    assert len(reader.used_artifacts()) == 40
    assert source.missing(P) is None


@pytest.mark.parametrize(
    "bad", [{0}, {37}, {69}, {20, 21}, {20, 50}, {5, 30, 60}], ids=lambda numbers: "-".join(map(str, sorted(numbers)))
)
def test_runs_that_the_server_fails_at_hide_no_others(bad: set[int], make: Make) -> None:
    runs = light_runs(70)
    server, source = make(*runs, server=Weak)
    server.bad = frozenset(runs[n].id for n in bad)  # type: ignore[attr-defined]
    expected = [run.id for n, run in enumerate(runs) if n not in bad]
    assert sorted(run_ids(source)) == sorted(expected)
    told = source.missing(P)
    assert told
    assert told.startswith(f"W&B counts 70 runs but returns {70 - len(bad)}; it fails at others: ")
    assert source.count_runs(P) == 70


def test_an_outage_while_listing_is_no_fault_of_a_run(make: Make) -> None:
    server, source = make(*light_runs(3))
    down = Fault("graphql", "status", status=503, times=None, headers={"Retry-After": "0"})
    server.faults.set([down])
    assert error_of(Retryable, lambda: run_ids(source)).error_class is ErrorClass.UNAVAILABLE


class FailingAtSteps(WandbServer):
    """Answers 502 to pages of history that are too wide or hold a bad step."""

    bad: frozenset[int] = frozenset()
    widest = 10_000

    def handle(self, request: Request) -> Response:
        if request.path == "/graphql":
            query = Query.of(request)[1]
            if query.name == "HistoryPage":
                low, high = int(query.variables["minStep"]), int(query.variables["maxStep"])
                if high - low > self.widest or any(low <= step < high for step in self.bad):
                    return Response(502, b"Bad Gateway", headers={"Retry-After": "0"})
        return super().handle(request)


def test_rows_that_the_server_fails_at_are_missing_and_no_others(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": n} for n in range(90)]), mode="live")
    server, source = make(run, server=FailingAtSteps)
    server.widest = 30  # type: ignore[attr-defined]
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))
    server.bad = frozenset([40, 41])  # type: ignore[attr-defined]
    reader = opened(source, "r")
    survey = reader.survey()
    assert (survey.rows, survey.counted) == (88, 90)
    assert [row.step for row in rows_of(reader)] == [n for n in range(90) if n not in (40, 41)]
    server.bad = frozenset(range(90))  # type: ignore[attr-defined]
    assert error_of(Retryable, opened(source, "r").survey).error_class is ErrorClass.UNAVAILABLE


def test_an_order_that_the_server_does_not_know_costs_nothing(make: Make) -> None:
    class OneOrder(Hiding):
        def handle(self, request: Request) -> Response:
            if b'"-created_at"' in request.body or b'"+heartbeat_at"' in request.body:
                return Response.of_json({"errors": [{"message": "unsupported order"}]}, 400)
            return super().handle(request)

    _, source = make(Run("a"), server=OneOrder)
    assert run_ids(source) == ["a"]
    assert source.missing(P) == "W&B counts 2 runs but returns 1"


# ---------------------------------------------------------------- old servers

OLD = (
    *("internalId", "projectId", "mimetype", "updatedAt"),  # read by the SDK only
    *("historyLineCount", "historyKeys", "fileCount", "md5", "directUrl", "parquetHistory", "logLines", "sweep"),
    *("outputArtifacts", "inputArtifacts", "readOnly", "heartbeatAt", "displayName"),
)


@pytest.mark.parametrize(
    "absent", [*((name,) for name in OLD), OLD], ids=lambda absent: absent[0] if len(absent) == 1 else "all"
)
def test_what_an_old_server_does_not_know_costs_what_depends_on_it_alone(
    absent: tuple[str, ...], make: Make, opened: Opened
) -> None:
    run = Run("r", "name", history=logged([{"x": n} for n in range(5)]), mode="live", sweep="s", announce_live=False)
    run.files = {"a.txt": b"text", "output.log": b"line\n"}
    server, source = make(run, absent=absent)
    (listing,) = source.runs(P, RunFilter())
    assert (listing.run_id, listing.source_state) == ("r", "finished")
    for _ in range(2):
        reader = opened(source, "r")
        assert reader.attributes().sweep
        assert (reader.survey().rows, reader.summary().values["x"]) == (5, 4)
        assert [row.values["x"] for row in rows_of(reader)] == list(range(5))
        assert [line.text for page in reader.console(0) for line in page] == ["line"]
        assert [file.name for file in reader.files()] == ["a.txt", "output.log"]
        local = reader.fetch("a.txt")
        assert local
        assert local.path.read_bytes() == b"text"
        assert (list(reader.artifacts()), reader.used_artifacts()) == ([], [])
        assert (reader.partial("artifacts") is None) is not bool({"outputArtifacts", "inputArtifacts"} & set(absent))
    refused = server.log.count("graphql Run$") - 2
    assert refused <= 1  # each document is refused once
