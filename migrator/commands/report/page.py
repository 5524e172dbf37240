"""The template of a report and what it may say: every text goes through the same door on its way into the page.

Names come from outside. They are escaped by jinja2, control characters do nothing, and our own keys are never shown.
The page's policy for contents (CSP) allows its own style sheet and script by their hashes, and nothing else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.filesize import decimal

from migrations_db.accounts import InvocationRow
from migrator.commands.report.metrics import Curve
from migrator.commands.report.output import MARK
from migrator.commands.status.conclusions import advice
from migrator.commands.status.run import attempt_text, time_text
from migrator.commands.text import counted, message_text, path_text, shortened, status_word, what_text
from migrator.figures import age_text
from migrator.redaction import key_hider
from migrator.visible import visible

TEXT_CHARS = 200  # of a name, a path or a reason
MOST_CHARS = 1_000  # of any text
PIECES_AT_A_TIME = 100  # of the template's output, put together before they are written
LAST_LINE = '<p class="page weak">SHA-256 of all lines above: <code>{}</code></p></body></html>\n'


def pages(context: Mapping[str, Any]) -> Iterator[str]:
    """The page in pieces, without its last line."""
    environment = _environment()
    templates = environment.loader
    assert isinstance(templates, PackageLoader)
    style, script = (Markup(templates.get_source(environment, name)[0]) for name in ("style.css", "filter.js"))
    stream = environment.get_template("report.html.j2").stream(
        {**context, "mark": Markup(MARK), "style": style, "script": script}
    )
    stream.enable_buffering(PIECES_AT_A_TIME)
    yield from stream


def _environment() -> Environment:
    hidden = key_hider()
    environment = Environment(
        loader=PackageLoader("migrator.commands.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: _shown(value, hidden),
    )
    environment.filters |= {
        "advice": advice,
        "attempt": attempt_text,
        "counted": counted,
        "csp": _csp,
        "day": lambda time: f"{time:%Y-%m-%d}",
        "message": lambda text: message_text(hidden(text or "")),
        "path": lambda text: path_text(hidden(text), TEXT_CHARS),
        "proof": proof,
        "prose": prose,
        "short": lambda text: shortened(hidden(text), TEXT_CHARS),
        "size": decimal,
        "status_word": status_word,
        "time": lambda time: Markup('<span class="time">{}</span>').format(time_text(time)),
        "tone": lambda word: str(word).replace(" ", "-"),
        "took": _took,
    }
    environment.globals["what"] = lambda line: what_text(line.kind, hidden(line.reason), TEXT_CHARS)
    return environment


def _shown(value: Any, hidden: Callable[[str], str]) -> Any:
    """What every expression of the template passes before it is escaped."""
    if isinstance(value, Markup):  # escaped already
        return Markup(hidden(str(value)))
    if not isinstance(value, str):
        return value
    text = shortened(hidden(str(value)), MOST_CHARS)
    return text if text.isprintable() else visible(text)


def prose(text: str) -> Markup:
    """A sentence of ours in which `backticks` hold what one types."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # one is left over: they mean something else here
        return Markup("{}").format(visible(text))
    return Markup("").join(
        Markup("<code>{}</code>" if n % 2 else "{}").format(visible(piece)) for n, piece in enumerate(pieces)
    )


def proof(curve: Curve) -> str:
    """What a curve shows, beside what was sent."""
    found = curve.found
    if curve.not_drawn:
        found += f", {curve.not_drawn:,} of them NaN or infinite and not drawn"
    match curve.as_sent:
        case True:
            told = f"{found}: as sent"
        case False:
            told = f"{found}: not as sent. Sent were {curve.sent}"
        case None:
            told = f"{found}; it is not known whether that is what was sent"
    if not curve.source:
        return told
    return f"{told}. " + ("Equal to the source" if curve.as_source else f"The source has {curve.source}: not equal")


def _took(invocation: InvocationRow) -> str:
    ended_at: datetime | None = invocation.ended_at
    return age_text((ended_at - invocation.started_at).total_seconds()) if ended_at else "did not end, or goes on"


def _csp(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
