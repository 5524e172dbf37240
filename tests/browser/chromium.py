"""A headless chromium, asked over a pipe in its DevTools protocol: no driver, no port, no packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
DEADLINE_S = 60.0
QUIET_S = 0.3  # a page that has loaded asks for nothing more after that time
#: starts a command that finds two pipes where chromium looks for them
AS_3_AND_4 = """
import fcntl, os, sys
reader, writer = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reader, 3)
os.dup2(writer, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The browser of this machine; None: there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One tab. `events` are what the browser has told so far."""

    def __init__(self, ours: int, theirs: int) -> None:
        self._write, self._read = ours, theirs
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        os.set_blocking(self._read, False)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def ask(self, method: str, **parameters: Any) -> Any:
        """The result of a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._answers(DEADLINE_S):
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
        raise AssertionError(f"no answer to {method}")

    def show(self, page: Path, *, width: int = 1400, dark: bool = False, scripts: bool = True) -> None:
        """Load a page, and wait until nothing more happens."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + DEADLINE_S
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, "the page does not load"
            list(self._answers(0.05))
        list(self._answers(QUIET_S))

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives, as JSON has it."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """The addresses that the page asked for, its own first."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def complaints(self) -> list[dict[str, Any]]:
        """What would stand in the console."""
        methods = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in methods]

    def _answers(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Answers and events until the time is over; events are kept."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            while b"\0" in self._buffer:
                text, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(text)
                if "method" in message:
                    self.events.append(message)
                yield message
            try:
                data = os.read(self._read, 1 << 20)
                assert data, "the browser has ended"
                self._buffer += data
            except BlockingIOError:
                time.sleep(0.005)


@contextmanager
def started(program: str) -> Iterator[Chromium]:
    """A browser with a profile of its own, which ends with the context."""
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [program, *arguments, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(their_read), str(their_write), *command],
            pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        try:
            yield Chromium(our_write, our_read)
        finally:
            os.close(our_write)  # it ends when nobody can ask any more
            process.terminate()
            process.wait(DEADLINE_S)
            os.close(our_read)
