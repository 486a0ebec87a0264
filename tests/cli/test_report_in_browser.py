"""The page of `batchmill report` in a real Chromium: it shows what it should, asks nobody, and runs nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_kit import Browser, chromium
from cli_kit import EVIL
from timeline_kit import ZERO, Writer

from batchmill_cli.html_report.page import render

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here (Debian: apt-get install chromium)")

# Pairs of labels in one plot that cover each other, and labels that leave the page.
OVERLAPS = """
[...document.querySelectorAll('svg.plot')].flatMap(plot => {
  const seen = [...plot.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
    .filter(([, r]) => r.width > 0);
  const out = seen.filter(([, r]) => r.left < 0 || r.right > document.documentElement.clientWidth).map(([t]) => [t]);
  const over = seen.flatMap(([t, a], n) => seen.slice(n + 1).filter(([, b]) =>
    a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom).map(([u]) => [t, u]));
  return [...out, ...over];
})
"""
# WCAG's contrast of each piece of visible text with the ground it stands on, where that is below 4.5.
CONTRAST = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = parse(c).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (parse(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
      const style = getComputedStyle(e), ink = e.closest('svg') ? style.fill : style.color;
      const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
      return [(a + .05) / (b + .05), e.textContent.trim().slice(0, 40), ink];
    }).filter(([ratio]) => ratio < 4.5);
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page about three runs with everything in it, failures and names that try to be markup among it."""
    work = tmp_path_factory.mktemp("page")
    writer, rng = Writer(work / "x.ckpt"), random.Random(1)
    for number in range(3):
        begin = number * 1000.0
        writer.run(begin, workers=4, function=EVIL, input=[EVIL], settings={"workers": 4, "set": {EVIL: EVIL}},
                   machine={"cpu": EVIL}, versions={"python": "3"})  # fmt: skip
        for second in range(60):
            seconds = [1e-5, 100.0, *(rng.lognormvariate(-3, 1) for _ in range(200))]  # quantiles stand close together
            failures = {7: ("ValueError", EVIL), 9: ("OSError", "disk 7 full")} if second % 5 == 0 else {}
            writer.outcomes(begin + second, seconds, failures=failures, took=4.0, worker=second % 4, pid=number)
            ends = [[ZERO + begin + second, second % 3, 1, -6, why] for why in ("died", "recycled", "Timeout")]
            writer.sample(begin + second, rss=rng.randrange(1 << 30), parent_rss=1 << 25, ends=ends[: second % 4])
        if number != 1:
            writer.end(begin + 62, stopped="limit" if number == 0 else "", total=3600)
    (work / "x.html").write_text(render(writer.timeline()), encoding="utf-8")
    return (work / "x.html").as_uri()


def complaints(browser: Browser) -> list[Any]:
    return browser.said("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


def test_the_page_shows_its_plots_and_asks_nobody_for_anything(browser: Browser, url: str) -> None:
    browser.show(url)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg.plot')].map(p => [p.querySelector('title').id, p.clientWidth,"
        " Math.max(...[...p.querySelectorAll('path')].map(d => d.getBoundingClientRect().width))])"
    )
    assert [name for name, *_ in sizes] == [
        f"{name}-title" for name in ("throughput", "cpu", "memory", "workers", "durations")
    ]
    assert all(width > 600 for _, width, _ in sizes)
    assert all(drawn > 10 for *_, drawn in sizes)
    assert browser.evaluate("document.querySelectorAll('svg.plot use').length") > 10
    assert [asked["request"]["url"] for asked in browser.said("Network.requestWillBeSent")] == [url]
    assert complaints(browser) == []


def test_what_tries_to_be_a_script_is_text(browser: Browser, url: str) -> None:
    browser.show(url)
    assert browser.evaluate("window.caught === undefined && document.scripts.length === 0 && !document.images.length")
    assert "<script>window.caught" in browser.evaluate("document.querySelector('h1').innerText")


def test_the_page_could_not_reach_anyone_if_it_tried(browser: Browser, url: str) -> None:
    browser.show(url)
    browser.evaluate("{ const i = new Image(); i.src = 'http://127.0.0.1:9/x'; document.body.append(i); }")
    browser.wait(lambda: bool(complaints(browser)))
    assert "Content Security Policy" in complaints(browser)[0]["entry"]["text"]


@pytest.mark.parametrize("width", [1100, 700, 360])
def test_no_label_covers_another_and_nothing_is_wider_than_the_page(browser: Browser, url: str, width: int) -> None:
    browser.show(url, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_by_day_and_by_night(browser: Browser, url: str, dark: bool) -> None:
    browser.show(url, dark=dark)
    grounds = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(grounds) < 60) is dark
    assert browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)") is None
    assert browser.evaluate(CONTRAST) == []


def test_the_printed_page_is_on_white(browser: Browser, url: str, tmp_path: Path) -> None:
    browser.show(url, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(27, 36, 48)"
    browser.pdf(tmp_path / "x.pdf")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
