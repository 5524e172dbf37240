"""The page of `migrate report` in a real browser: it asks for nothing, complains of nothing, and can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, find_chromium, started
from tests.report_job import Job, fill, report

#: the least contrast of any text with what is behind it, by WCAG's rule for relative luminance
LEAST_CONTRAST = """
(() => {
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, n) => sum + part * [.2126, .7152, .0722][n], 0);
  const back = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? back(element.parentElement) : color;
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const texts = [...document.querySelectorAll("body *")].filter(
    (element) => element.checkVisibility() && hasText(element)
  );
  return Math.min(...texts.filter((element) => !element.closest("svg, script, .skip")).map((element) => {
    const [low, high] = [light(getComputedStyle(element).color), light(back(element))].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  }));
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    job = Job(directory / "migration.db")
    fill(job)
    job.store.close()
    report(job.path, "--out", directory / "page.html")
    return directory / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("there is no chromium here")
    with started(program) as chromium:
        yield chromium


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_can_be_read_and_asks_for_nothing(browser: Chromium, page: Path, width: int, dark: bool) -> None:
    browser.show(page, width=width, dark=dark)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    color = browser.value("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert browser.value(LEAST_CONTRAST) >= 4.5
    pictures = "[...document.querySelectorAll('svg')].filter((one) => one.checkVisibility())"
    assert browser.value(f"{pictures}.every((one) => one.clientWidth > 50 && one.clientHeight > 5)")


def test_runs_can_be_found_where_scripts_may_run(browser: Chromium, page: Path) -> None:
    browser.show(page)
    rows = "[...document.querySelectorAll('#runs-table tbody tr')].filter((row) => row.checkVisibility())"
    names = f"{rows}.map((row) => row.querySelector('.weak').textContent)"
    assert browser.value(f"{rows}.length") == 7
    search = "new Promise((done) => {{ const form = document.forms.find; {change}; {event}; setTimeout(done, 300) }})"
    event = "form.dispatchEvent(new Event('input', {bubbles: true}))"
    for change, found in [
        ("form.text.value = 'VISION differs'", ["team/vision/differs"]),
        ("form.text.value = ''; form.result.value = 'explained'", ["team/vision/explained"]),
        ("form.text.value = 'nosuch'", []),
    ]:
        code = search.format(change=change, event=event)
        browser.ask("Runtime.evaluate", expression=code, awaitPromise=True)
        assert browser.value(names) == found
        assert browser.value("document.getElementById('found').textContent") == f"{len(found)} of 7 runs"


def test_without_scripts_everything_is_there_but_the_search(browser: Chromium, page: Path) -> None:
    browser.show(page, scripts=False)
    assert browser.value("document.getElementById('find').checkVisibility()") is False
    assert browser.value("document.querySelectorAll('#runs-table tbody tr').length") == 7


def test_the_print_has_the_details_that_the_screen_folds(browser: Chromium, page: Path) -> None:
    browser.show(page)
    hidden = "[...document.querySelectorAll('details li')].some((one) => !one.checkVisibility())"
    assert browser.value(hidden)
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert not browser.value(hidden)
    browser.ask("Emulation.setEmulatedMedia", media="")
