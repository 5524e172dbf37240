from __future__ import annotations

import io

import pytest

from migrator.job.display import Lines
from migrator.visible import tell, visible


def test_escape_sequences_show_instead_of_acting() -> None:
    assert visible("a\x1b[31mred\r\n\x07\x9b\u202eü 🌊") == "a\\x1b[31mred\\r\\n\\x07\\x9b\\u202eü 🌊"


def test_messages_keep_their_lines() -> None:
    stream = io.StringIO()
    tell("one\n\ttwo\r\x1b]0;title\x07", stream)
    assert stream.getvalue() == "one\n\ttwo\\r\\x1b]0;title\\x07\n"


def test_what_a_job_says_is_visible(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().say("the server said \x1b[2J")
    assert capsys.readouterr().err == "the server said \\x1b[2J\n"
