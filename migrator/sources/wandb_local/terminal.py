"""Converts the raw pieces of output in a `.wandb` log to console lines.

The log contains what a program wrote, piece by piece ("text" and "\\n" apart). W&B shows it as a terminal of 32 lines
does: `\\r` returns to the start of the line, where later text overwrites it; `ESC[A` and `ESC[B` move between lines
(nested progress bars); everything else stays in the text. A line gets its number, counted over both streams, and its
time when its first character is written (wandb `core/internal/terminalemulator`, `runconsolelogs`). Two things are
better here. Lines are cut at Neptune's limit instead of 4096 characters, so a program that never ends a line still does
not fill the memory. And text for a line that can no longer change begins a new line instead of being dropped.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from io import StringIO

from migrator.records import ConsoleLine
from migrator.sources.paging import LINE_MAX

VIEW_LINES = 32  # W&B: height of the terminal, and number of lines that can still change (maxTerminalLines)
_CONTROL = re.compile("[\r\n]|\x1b\\[[AB]")
_CONTROL_BEGUN = re.compile("\x1b\\[?$")


class _Line:
    __slots__ = ("_end", "_text", "done", "number", "stream", "time")

    def __init__(self, number: int, stream: str, time: float | None) -> None:
        self.number, self.stream, self.time = number, stream, time
        self._text = StringIO()  # writing a piece takes time in proportion to its length, at any position
        self._end = 0
        self.done = False

    def put(self, text: str, column: int) -> None:
        """Overwrite the line from `column` on."""
        if column > self._end:
            column = min(column, LINE_MAX)
            text, column = " " * (column - self._end) + text, self._end
        end = column + len(text)
        if end > LINE_MAX:
            text, end = text[: LINE_MAX - column], LINE_MAX
        self._text.seek(column)
        self._text.write(text)
        if end > self._end:
            self._end = end

    def freeze(self) -> ConsoleLine:
        line = ConsoleLine(self.number, self.time, self.stream, self._text.getvalue())
        self.done = True
        self._text.close()  # a view may still refer to the line
        return line


class Terminal:
    """Both streams of one process. `write` and `finish` yield the lines that can no longer change, in order."""

    def __init__(self) -> None:
        self.next_number = 0
        self._changing: deque[_Line] = deque()
        self._terminals = {stream: _Terminal(self, stream) for stream in ("stdout", "stderr")}

    def write(self, stream: str, time: float | None, text: str) -> Iterator[ConsoleLine]:
        self._terminals[stream].write(time, text)
        while len(self._changing) > VIEW_LINES:
            yield self._changing.popleft().freeze()

    def finish(self) -> Iterator[ConsoleLine]:
        """Yield the remaining lines. A last line without a line end counts too."""
        for terminal in self._terminals.values():
            terminal.flush()
        while self._changing:
            yield self._changing.popleft().freeze()

    def new_line(self, stream: str, time: float | None) -> _Line:
        line = _Line(self.next_number, stream, time)
        self.next_number += 1
        self._changing.append(line)
        return line


class _Terminal:
    """One stream."""

    def __init__(self, console: Terminal, stream: str) -> None:
        self._console, self._stream = console, stream
        self._view: list[_Line] = []
        self._row = self._column = 0
        self._begun = ""  # the beginning of a control sequence that ends in the next piece
        self._time: float | None = None

    def write(self, time: float | None, text: str) -> None:
        self._time = time
        text = self._begun + text
        self._begun = ""
        if begun := _CONTROL_BEGUN.search(text):
            self._begun = begun[0]
            text = text[: begun.start()]
        pos = 0
        for control in _CONTROL.finditer(text):
            self._put(text[pos : control.start()])
            self._control(control[0])
            pos = control.end()
        self._put(text[pos:])

    def flush(self) -> None:
        self._put(self._begun)
        self._begun = ""

    def _control(self, sequence: str) -> None:
        match sequence[-1]:
            case "\r":
                self._column = 0
            case "A":
                self._row = max(self._row - 1, 0)
            case end:
                self._row += 1
                if end == "\n":
                    self._column = 0
                if self._row >= VIEW_LINES:
                    self._row -= 1
                    del self._view[:1]

    def _put(self, text: str) -> None:
        if not text:
            return
        while self._row >= len(self._view):  # empty lines in between get their numbers now
            self._view.append(self._console.new_line(self._stream, self._time))
        line = self._view[self._row]
        if line.done:
            line = self._view[self._row] = self._console.new_line(self._stream, self._time)
            self._column = 0
        line.put(text, self._column)
        self._column += len(text)
