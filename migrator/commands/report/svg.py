"""Curves and bars as inline SVG: no script, no styles of its own, texts escaped.

Pictures fill the width that they are given, so they are stretched, and hold no text to be read: names, ends and
extremes stand beside them in HTML. Lines keep their width (`vector-effect` in the style sheet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from migrator.commands.report.buckets import Points
from migrator.visible import visible

WIDTH, HEIGHT, MARGIN = 400.0, 120.0, 4.0  # of curves, in units of the view box


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of the plane that is shown. Extremes may be as far apart as doubles allow."""

    left: float
    right: float
    low: float
    high: float

    def x(self, place: float) -> float:
        return MARGIN + _share(place, self.left, self.right) * (WIDTH - 2 * MARGIN)

    def y(self, value: float) -> float:
        return HEIGHT - MARGIN - _share(value, self.low, self.high) * (HEIGHT - 2 * MARGIN)


def _share(number: float, low: float, high: float) -> float:
    """Where a number lies between two others, from 0 to 1; halves, because the difference may be infinite."""
    if not high / 2 > low / 2:
        return 0.5
    return min(1.0, max(0.0, (number / 2 - low / 2) / (high / 2 - low / 2)))


def frame_of(points: Points, *also: float) -> Frame:
    """A frame that holds all points, and the values `also`."""
    known = [point for point in points if point is not None]
    values = [value for _, value in known] + list(also)
    places = [place for place, _ in known]
    return Frame(min(places, default=0.0), max(places, default=1.0), min(values, default=0.0), max(values, default=1.0))


def curve(title: str, points: Points, frame: Frame, levels: Sequence[float] = (), beside: Points = ()) -> Markup:
    """A curve; below it, wide and pale, another one `beside` it, and horizontal lines at `levels`.

    `title` is what a screen reader says.
    """
    lines = Markup("").join(
        Markup('<path class="level" d="M{} {}H{}"/>').format(_number(MARGIN), _number(frame.y(level)), _number(WIDTH))
        for level in levels
    )
    if beside:
        lines += Markup('<path class="beside" d="{}"/>').format(_path(beside, frame))
    return Markup(
        '<svg class="curve" role="img" viewBox="0 0 {} {}" preserveAspectRatio="none"><title>{}</title>{}'
        '<path class="line" d="{}"/></svg>'
    ).format(_number(WIDTH), _number(HEIGHT), visible(title), lines, _path(points, frame))


def bar(share: float) -> Markup:
    """A bar of this share of its width (0 to 1), for a number that is written beside it."""
    return Markup(
        '<svg class="bar" aria-hidden="true" viewBox="0 0 100 8" preserveAspectRatio="none">'
        '<rect class="rail" width="100" height="8"/><rect class="filled" width="{}" height="8"/></svg>'
    ).format(_number(100 * min(1.0, max(0.0, share))))


def stack(title: str, shares: Sequence[tuple[str, float]]) -> Markup:
    """Shares of a whole side by side: (class of the style sheet, 0 to 1)."""
    rectangles, at = Markup(""), 0.0
    for name, share in shares:
        rectangles += Markup('<rect class="{}" x="{}" width="{}" height="8"/>').format(
            name, _number(100 * at), _number(100 * share)
        )
        at += share
    return Markup(
        '<svg class="stack" role="img" viewBox="0 0 100 8" preserveAspectRatio="none"><title>{}</title>{}</svg>'
    ).format(visible(title), rectangles)


def _path(points: Points, frame: Frame) -> str:
    pieces: list[str] = []
    begins = True
    for n, point in enumerate(points):
        if point is None:
            begins = True
            continue
        x, y = _number(frame.x(point[0])), _number(frame.y(point[1]))
        if begins and (n + 1 == len(points) or points[n + 1] is None):
            pieces.append(f"M{x} {y}h.01")  # a point of its own: the ends of lines are round
        else:
            pieces.append(f"{'M' if begins else 'L'}{x} {y}")
        begins = False
    return "".join(pieces)


def _number(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
