"""What a W&B server says of itself and of the account, for `migrate doctor`."""

from __future__ import annotations

import pytest

from migrator.errors import UserError
from tests.contract.api_source import Make
from tests.servers.http import Fault
from tests.servers.wandb_data import Entity, Project, sample_runs


def test_an_account_its_projects_and_a_run_are_seen(make: Make) -> None:
    runs = sample_runs(2, steps=1)
    server, source = make(entities=[Entity("ann", []), Entity("team", [Project("empty", []), Project("p", runs)])])
    server.clock_ahead_s = -500.0
    found = source.introduce("team")
    assert (found.address, found.account, found.version) == (server.url, "ann", "0.70.0")
    assert (found.spaces, found.projects, found.tried) == (["team", "ann"], 2, f"team/p/{runs[0].id}")
    assert found.ahead_s == pytest.approx(-500, abs=2)
    assert (source.introduce(None).projects, source.introduce(None).tried) == (0, "")
    with pytest.raises(UserError, match="nobody"):
        source.introduce("nobody")


def test_an_old_server_tells_less_and_what_it_lacks_is_told(make: Make) -> None:
    absent = ("latestLocalVersionInfo", "historyKeys", "sweepName")
    _, source = make(*sample_runs(1, steps=1), absent=absent)
    found = source.introduce(None)
    assert (found.version, found.lacks) == ("", ["historyKeys", "sweepName"])
    assert (found.spaces, found.tried, found.trouble) == (["team"], "team/p/run00000", "")


def test_a_run_that_may_not_be_read_is_no_reason_to_say_nothing(make: Make) -> None:
    server, source = make(*sample_runs(1, steps=1))
    server.faults.add(Fault("graphql Run$", "status", None, status=403))
    found = source.introduce(None)
    assert (found.projects, found.tried) == (1, "")
    assert "403" in found.trouble
