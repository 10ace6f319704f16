"""The page in a real browser: what its script does, and what is there without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from jaxad.calibration import Calibration
from jaxad.conformal import p_values
from jaxad.metrics import category_metrics, mean_metrics
from jaxad.normal import Normal
from jaxad.report import CategoryView, ViewStream, write_report
from jaxad.report.judged import Shown as Judged
from jaxad.report.judged import judged_page
from jaxad.report.line import count, draw

HOSTILE = "<img src=x onerror=document.title='owned'>"
COUNT = 150


class Shown(NamedTuple):
    """A page, and what is on it."""

    file: Path
    views: dict[str, CategoryView]
    calibration: Calibration


def view_of(seed: int, kinds: tuple[str, ...]) -> tuple[dict[str, Any], CategoryView]:
    rng = np.random.default_rng(seed)
    labels = np.arange(COUNT) % 3 % 2  # every third is defective
    scores = (rng.normal(size=COUNT) + 1.5 * labels).round(2)  # with ties
    types = [kinds[i % len(kinds)] if label else "good" for i, label in enumerate(labels)]
    names = [f"{kind}/{i:03}.png" for i, kind in enumerate(types)]
    photos = rng.integers(0, 255, (COUNT, 64, 64, 3)).astype(np.uint8)
    maps = rng.random((COUNT, 16, 16)).astype(np.float32) + scores[:, None, None]
    stream = ViewStream(names, labels, n=3, kinds=types)
    stream.add(photos, scores, maps.astype(np.float32), [None] * COUNT)
    return category_metrics(labels, scores, {}, n_train=5), stream.view()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    parts = {"tile": view_of(0, ("crack", "blow hole")), HOSTILE: view_of(1, (HOSTILE,))}
    categories = {name: metrics for name, (metrics, _) in parts.items()}
    normal = np.random.default_rng(2).normal(size=60).astype(np.float32)
    calibration = Calibration({"tile": Normal(normal, normal, ("",) * 60)}, 0.1)
    views = {name: view for name, (_, view) in parts.items()}
    tile = views["tile"]
    file = tmp_path_factory.mktemp("page") / "index.html"
    write_report(
        file,
        title=HOSTILE,
        results={"method": "pfm", "categories": categories, "mean": mean_metrics(categories)},
        categories=views,
        config_text=HOSTILE,
        lines={"tile": draw(tile.labels, tile.scores, calibration, "tile")},
    )
    return Shown(file, views, calibration)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=root)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, shown: Shown) -> Iterator[Callable[..., Any]]:
    """Open the page; it must neither complain nor ask for anything."""
    contexts, wrong = [], []

    def opened(*, of: Path = shown.file, **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda said: wrong.append(said.text))  # CSP's complaints, too
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        context.on(
            "request",
            lambda asked: (
                asked.url.startswith(("data:", shown.file.as_uri(), of.parent.as_uri()))
                or wrong.append(asked.url)
            ),
        )
        page.goto(of.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def told(page: Any, panel: str) -> list[int]:
    names = ("found", "missed", "alarms", "passed")
    return [int(page.inner_text(f"{panel} [data-told={name}]")) for name in names]


def test_the_slider_moves_counts_marks_and_verdicts(opened: Any, shown: Shown) -> None:
    page, view = opened(), shown.views["tile"]
    limit = shown.calibration.limits("tile").score
    steps = [-np.inf, *np.unique([*view.scores, limit])]
    slider = page.locator("#category-1 .line input")
    assert int(slider.get_attribute("max")) == len(steps) - 1
    start = steps.index(limit)
    assert int(slider.input_value()) == start
    dots = set()
    for step in (start, 0, len(steps) // 3, len(steps) - 1, start + 1):
        slider.evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(step)
        )
        right = count(view.labels, view.scores, steps[step])
        assert told(page, "#category-1") == list(right)
        shares = [page.inner_text(f"#category-1 [data-told={n}]") for n in ("recall", "rate", "f1")]
        wanted = (right.recall, right.false_alarm_rate, right.f1)
        assert shares == [f"{100 * (value or 0):.1f} %" for value in wanted]
        for kind in ("good", "crack", "blow hole"):
            own = view.scores[[k == kind for k in view.kinds]]
            row = page.locator("#category-1 .kinds tbody tr", has_text=kind)
            assert int(row.locator("td").nth(1).inner_text()) == int((own > steps[step]).sum())
        alarms = page.locator("#category-1 .photos tr[data-verdict='false alarm']")
        assert alarms.count() == right.alarms
        assert page.locator("#category-1 .photos td.verdict", has_text="missed").count() == (
            right.missed
        )
        cards = page.locator("#category-1 .card")
        for card in cards.all():
            number = int(card.get_attribute("data-photo"))
            above = view.scores[number] > steps[step]
            word = (("passed", "false alarm"), ("missed", "found"))[view.labels[number]][int(above)]
            assert card.locator(".verdict").inner_text() == word
        dot = page.locator("#category-1 svg[data-plot=roc] .mark")
        dots.add((dot.get_attribute("cx"), dot.get_attribute("cy")))
    assert len(dots) == 5
    assert "calibration photos score above" in page.inner_text("#category-1 [data-told=rank]")
    slider.press("ArrowLeft")
    assert told(page, "#category-1") == list(count(view.labels, view.scores, limit))
    slider.press("ArrowLeft")
    page.click("#category-1 .reset")
    assert int(slider.input_value()) == start
    assert page.is_disabled("#category-1 .reset")


def test_lines_of_subclasses_move_together(chromium: Any, tmp_path: Path) -> None:
    metrics, view = view_of(0, ("crack",))
    taken = [("dark", "light")[i % 2] for i in range(COUNT)]
    view = view._replace(taken=taken)
    rng = np.random.default_rng(2)
    normal = np.concatenate([rng.normal(size=40), rng.normal(1, 0.3, 40)]).astype(np.float32)
    names = ("dark",) * 40 + ("light",) * 40
    own = Calibration({"tile": Normal(normal, normal, ("",) * 80, names)}, 0.1)
    line = draw(view.labels, view.scores, own, "tile", taken=taken)
    assert line is not None
    limits = own.routed_limits("tile")
    compared = view.scores - [limits[name].score for name in taken]
    results = {"method": "m", "categories": {"tile": metrics}, "mean": metrics}
    file = tmp_path / "index.html"
    write_report(
        file,
        title="t",
        results=results,
        categories={"tile": view},
        config_text="",
        lines={"tile": line},
    )
    page = chromium.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file.as_uri())
    steps = [-np.inf, *np.unique([*compared, 0])]
    slider, start = page.locator(".line input"), steps.index(0)
    assert int(slider.input_value()) == start
    assert page.inner_text(".at") == "the line of its subclass"
    for step in (start, 0, start + 20):
        slider.evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(step)
        )
        right = count(view.labels, compared, steps[step])
        assert told(page, "#category-1") == list(right)
        alarms = page.locator(".photos tr[data-verdict='false alarm']")
        assert alarms.count() == right.alarms
    assert page.inner_text(".at").startswith("the line of its subclass + ")
    assert "calibration photos score above the line" in page.inner_text("[data-told=rank]")
    assert [row.inner_text() for row in page.locator(".lines tbody th").all()] == ["dark", "light"]
    page.close()
    assert wrong == []


def test_tabs_by_mouse_keys_and_address(opened: Any) -> None:
    page = opened()

    def seen() -> list[bool]:
        return [page.is_visible(f"#category-{n}") for n in (1, 2)]

    assert seen() == [True, False]
    page.click("[role=tab] >> nth=1")
    assert seen() == [False, True]
    assert page.get_attribute("[role=tab] >> nth=1", "aria-selected") == "true"
    page.keyboard.press("ArrowRight")  # round to the first
    assert seen() == [True, False]
    page.click(".metrics a[href='#category-2']")
    page.wait_for_selector("#category-1", state="hidden")  # the address changes a moment later
    assert seen() == [False, True]
    assert "for looking only" in page.inner_text("#category-2 .promise")


def test_search_chips_sorting_and_the_large_photo(opened: Any, shown: Shown) -> None:
    page, view = opened(), shown.views["tile"]
    rows = page.locator("#category-1 .photos tbody tr:visible")
    assert rows.count() == COUNT
    assert page.locator("#category-1 .photos img").count() == COUNT  # nobody is left out
    page.fill("#category-1 .tools input", "CRACK")
    assert rows.count() == sum(kind == "crack" for kind in view.kinds)
    page.fill("#category-1 .tools input", "")
    page.click("#category-1 .chips button >> nth=2")
    limit = shown.calibration.limits("tile").score
    assert rows.count() == count(view.labels, view.scores, limit).missed
    page.click("#category-1 .chips button >> nth=0")
    scores = view.scores.tolist()
    order = "rows => rows.map(row => Number(row.dataset.photo))"
    for ends in (sorted(scores), sorted(scores, reverse=True)):  # it begins with the highest
        page.click("#category-1 th[data-by=score] button")
        assert [scores[i] for i in rows.evaluate_all(order)] == ends
    page.click("#category-1 th[data-by=name] button")
    assert [view.names[i] for i in rows.evaluate_all(order)] == sorted(view.names)
    card = page.locator("#category-1 .card >> nth=0")
    card.locator(".pair").press("Enter")
    assert page.inner_text("#large h2") == card.locator(".name").inner_text()
    assert page.get_attribute("#large img >> nth=1", "src") == (
        card.locator("img").nth(1).get_attribute("src")
    )
    page.keyboard.press("Escape")
    assert not page.is_visible("#large")


def test_names_are_text(opened: Any) -> None:
    page = opened()
    assert page.title() == page.inner_text("h1") == HOSTILE
    page.click("[role=tab] >> nth=1")
    page.locator("#category-2 .card .pair").first.click()
    assert HOSTILE in page.inner_text("#large h2")
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(scheme: str, opened: Any) -> None:
    page = opened(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for number in (0, 1):
        page.click(f"[role=tab] >> nth={number}")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_without_its_script_all_is_there(opened: Any, shown: Shown) -> None:
    page = opened(java_script_enabled=False)
    for number, view in enumerate(shown.views.values(), start=1):
        panel = f"#category-{number}"
        assert page.is_visible(panel)
        assert page.locator(f"{panel} .photos tbody tr:visible").count() == COUNT
        assert page.locator(f"{panel} .kinds tbody tr:visible").count() == len({*view.kinds})
        assert sum(told(page, panel)) == COUNT
        assert page.locator(f"{panel} .js:visible").count() == 0
    limits = shown.calibration.limits("tile")
    view = shown.views["tile"]
    assert told(page, "#category-1") == list(count(view.labels, view.scores, limits.score))
    assert "at most 10 % of photos of normal parts" in page.inner_text("#category-1 .promise")
    highest = int(np.argmax(view.scores))
    p = p_values(limits.normal[0].scores, view.scores)[highest]
    assert f"{p:.3g}" in page.inner_text("#category-1 .photos tbody tr >> nth=0")


def test_the_page_is_light(shown: Shown) -> None:
    assert shown.file.stat().st_size < 5e6


def test_pictures_of_the_page_of_what_was_judged_are_shown(opened: Any, tmp_path: Path) -> None:
    """From a folder, without a server; nothing else is asked for."""
    (tmp_path / "overlays").mkdir()
    Image.new("RGB", (900, 30), "red").save(tmp_path / "overlays" / "a #1.png.jpg")
    photo = Judged("a #1.png", "overlays/a #1.png.jpg", "anomalous", 3.0, 2.0, 0.05)
    file = tmp_path / "index.html"
    file.write_text(judged_page("t", "m", [], [photo], [], total=1, unreadable=0))
    page = opened(of=file)
    page.wait_for_function("document.images[0].complete && document.images[0].naturalWidth")
    assert page.evaluate("document.images[0].naturalWidth") == 900
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
