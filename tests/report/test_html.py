import base64
import hashlib
import io
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image

from jaxad.calibration import Calibration
from jaxad.errors import InputError
from jaxad.metrics import category_metrics, mean_metrics, pixel_metrics
from jaxad.normal import Normal
from jaxad.report import CategoryView, Example, ViewStream, html, write_report
from jaxad.report.line import draw
from jaxad.report.papers import PFM, Beside

VOID = {"meta", "img", "br", "line", "rect", "polyline", "polygon", "circle", "input"}


class Page(HTMLParser):
    """A page as its parts; fails where an element is not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def photos(self) -> list[dict[str, str | None]]:
        """Pictures of the galleries; those of the table have no text of their own."""
        return [image for image in self.all("img") if image["alt"]]

    def under(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def category(
    *, seed: int = 0, count: int = 12, size: tuple[int, int] = (40, 40), masked: bool = True,
    labels: np.ndarray | None = None, n: int = 2,
) -> tuple[dict[str, Any], CategoryView]:  # fmt: skip
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2 if labels is None else labels
    masks = np.zeros((count, *size), bool)
    masks[labels == 1, 10:20, 5:15] = True
    maps = (rng.random(masks.shape) + masks).astype(np.float32)
    photos = rng.integers(0, 256, (count, *size, 3)).astype(np.uint8)
    scores = maps.max(axis=(1, 2))
    known = slice(None if masked else 0)
    pixel = pixel_metrics(masks[known], maps[known])
    stream = ViewStream([f"photo {i}.png" for i in range(count)], labels, n=n)
    stream.add(photos, scores, maps, masks if masked else [None] * count)
    return category_metrics(labels, scores, pixel, n_train=5), stream.view()


def results_of(categories: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "method": "mb_pfm",
        "dataset": "elpv",
        "categories": categories,
        "mean": mean_metrics(categories),
        "seconds": {"features": 1.25, "train": 60.04, "score": 2.5},
        "images_per_second": 123.45,
        "environment": {"jax": "0.10.2", "devices": ["cpu:0", "cpu:1"]},
    }


def write(
    folder: Path, parts: dict[str, tuple[dict[str, Any], CategoryView]], **changes: Any
) -> Page:
    arguments: dict[str, Any] = {
        "title": "A run",
        "results": results_of({name: metrics for name, (metrics, _) in parts.items()}),
        "categories": {name: view for name, (_, view) in parts.items()},
        "config_text": "train:\n  epochs: 3\n",
    }
    path = folder / "report" / "index.html"
    write_report(path, **(arguments | changes))
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    return Page(path)


def test_page_is_self_contained(tmp_path: Path) -> None:
    page = write(tmp_path, {"mono": category(seed=1), "poly": category(seed=2)})
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "iframe", "object", "embed", "base", "form", "video"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data", "action"):
            target = attributes.get(name) or "#"
            assert target.startswith(("data:image/jpeg;base64,", "#"))
    assert "://" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = (policy["content"] or "").split("; ")
    assert rules[0] == "default-src 'none'"
    # Of scripts the browser runs this one alone, which never makes markup of a text.
    (script,) = [text for text in page.under("script") if "use strict" in text]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in rules
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval"):
        assert unsafe not in script


def test_links_lead_to_their_categories(tmp_path: Path) -> None:
    page = write(tmp_path, {"mono": category(seed=1), "poly": category(seed=2)})
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    sections = [section["id"] for section in page.all("section") if "id" in section]
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in sections}
    assert len(sections) == 2


def test_numbers_are_those_of_the_results(tmp_path: Path) -> None:
    parts = {"mono": category(seed=1), "poly": category(seed=2, masked=False)}
    page = write(tmp_path, parts)
    results = results_of({name: metrics for name, (metrics, _) in parts.items()})
    expected = []
    for metrics in results["categories"].values():
        expected += [
            "–" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
            for value in metrics.values()
        ]
    expected += [f"{value:.4f}" for value in results["mean"].values()]
    cells = page.under("td")
    assert cells[: len(expected)] == expected
    assert cells[-6:] == [
        "1.2", "60.0", "2.5", "123.5", "0.10.2", '["cpu:0", "cpu:1"]',
    ]  # fmt: skip
    assert page.under("dd")[:4] == [
        f"{results['mean'][name]:.4f}" for name in ("image_auroc", "pixel_auroc", "aupro_0.30")
    ] + ["123.5"]
    assert "train:\n  epochs: 3\n" in page.under("pre")


def test_photos_heatmaps_and_captions(tmp_path: Path) -> None:
    metrics, view = category(size=(300, 150))
    page = write(tmp_path, {"tile": (metrics, view)})
    images = page.photos()
    examples = [*view.defects, *view.missed, *view.normal]
    assert len(images) == 2 * len(examples) == 12
    for image in images:
        data = (image["src"] or "").removeprefix("data:image/jpeg;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            assert decoded.size == (128, 256)
            decoded.load()
    captions = "".join(text for _, text in page.texts)
    for example, photo, heat in zip(examples, images[::2], images[1::2]):
        kind = "defective" if example.label else "good"
        assert f"{example.name}, {kind}" in (photo["alt"] or "")
        assert f"Heatmap of {example.name}, {kind}, score {example.score:.4g}" in heat["alt"]
        assert ("outlined" in photo["alt"]) == bool(example.label)
        assert f"score {example.score:.4g}" in captions
    best = view.defects[0].score
    above = np.sum(view.scores[view.labels == 0] >= best)
    assert f"{above} of 6 good photos score as high or higher" in captions


def test_mask_is_outlined_in_both_pictures(tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 90, np.uint8)
    mask = np.zeros((16, 16), bool)  # masks and maps may be smaller than the photo
    mask[4:8, 4:8] = True
    flat = np.zeros((16, 16), np.float32)
    pictures = {}
    for known in (mask, None):
        example = Example("a.png", 1, grey, flat, known, 0.0)
        view = CategoryView(np.array([0, 1]), np.zeros(2), [example], [], [], (0.0, 1.0))
        page = write(tmp_path, {"tile": (category()[0], view)})
        for kind, image in zip(("photo", "heat"), page.photos()):
            data = base64.b64decode((image["src"] or "").partition(",")[2])
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
            pictures[kind, known is not None] = pixels
        assert ("no mask" in "".join(text for _, text in page.texts)) == (known is None)
    for kind in ("photo", "heat"):
        changed = np.abs(pictures[kind, True] - pictures[kind, False]).max(axis=-1) > 60
        rows, columns = np.nonzero(changed)
        assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (15, 32)
        assert not changed[18:30, 18:30].any()


def test_without_masks(tmp_path: Path) -> None:
    page = write(tmp_path, {"mono": category(masked=False)})
    text = "".join(text for _, text in page.texts)
    assert "no mask" in text
    assert "pixel figures need masks" in text
    assert not any("outlined" in (image["alt"] or "") for image in page.photos())
    assert page.under("dt")[0] == "image AUROC"
    assert "pixel AUROC" not in page.under("dt")[:2]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only(tmp_path: Path, label: int) -> None:
    page = write(tmp_path, {"mono": category(labels=np.full(5, label), count=5)})
    text = "".join(text for _, text in page.texts)
    assert "needs both good and defective" in text
    assert ("Nearest false alarms" in text) == (label == 0)
    assert ("Clearest defects" in text) == (label == 1)
    assert len(page.photos()) == 2 * (2 if label == 0 else 4)


def test_a_category_without_a_view_stands_in_the_table_only(tmp_path: Path) -> None:
    metrics, _ = category()
    page = write(tmp_path, {}, results=results_of({"mono": metrics}), categories={})
    assert "mono" in page.under("th")
    assert not page.photos()
    assert not page.all("a")


def test_more_sections_stand_before_the_run(tmp_path: Path) -> None:
    more = [("<b>", Markup("<em>kept &amp; whole</em>")), ("Second", Markup(""))]
    page = write(tmp_path, {}, sections=more)
    assert page.under("h2")[-3:] == ["<b>", "Second", "The run"]
    assert page.under("em") == ["kept & whole"]


def test_a_calibration_is_the_page_s_line(tmp_path: Path) -> None:
    metrics, view = category(count=40)
    scores = np.linspace(0, 1.5, 59).astype(np.float32)
    own = Calibration({"inner": Normal(scores, scores, ("",) * 59)}, 0.05)
    line = draw(view.labels, view.scores, own, "inner")
    page = write(tmp_path, {"mono": (metrics, view)}, lines={"mono": line})
    text = "".join(text for _, text in page.texts)
    assert "at most 5 % of photos of normal parts score above this line" in text
    assert "Kolmogorov" in text
    assert f"{own.limits('inner').score:.4g}" in page.under("output")
    assert len(page.all("svg")) == 5
    plain = write(tmp_path, {"mono": (metrics, view)})
    assert "for looking only" in "".join(text for _, text in plain.texts)
    assert len(plain.all("svg")) == 3  # and no PRO curve: nothing was kept of it


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    metrics = category()[0] | {"image_auroc": 0.9876, "pixel_auroc": None, "aupro_0.30": 0.96}
    results = results_of({"bottle": metrics, "other": metrics})
    page = write(
        tmp_path, {}, results=results, beside=Beside(PFM, ("train.epochs 2 instead of 3",))
    )
    cells = page.under("td")
    at = cells.index("98.76")
    assert cells[at : at + 7] == ["98.76", "100", "-1.24", "–", "98.41", "96.00", "95.42"]
    assert "Not the published recipe" in page.under("strong")
    assert page.under("li") == ["train.epochs 2 instead of 3"]
    assert page.under("th").count("mean") == 1  # theirs is of 15 categories
    every = results_of(dict.fromkeys(PFM.categories, metrics))
    page = write(tmp_path, {}, results=every, beside=Beside(PFM, ()))
    assert page.under("th").count("mean") == 2
    assert "97.447" in page.under("td")
    assert not page.under("strong")
    assert not write(tmp_path, {}, results=results).under("strong")


def test_pictures_keep_to_their_share_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = category(count=24, size=(72, 72))
    page = write(tmp_path, {"a": part, "b": part})
    assert len(page.all("img")) - len(page.photos()) == 2 * 24 + 2  # two of the large photo
    monkeypatch.setattr(html, "_PICTURES", 100_000)
    page = write(tmp_path, {"a": part, "b": part})
    small = [image for image in page.all("img") if not image["alt"]]
    pictures = [src for image in small if (src := image.get("src"))]
    assert 4 < len(pictures) < 40
    assert sum(map(len, pictures)) < 100_000
    assert len([row for row in page.all("tr") if "data-photo" in row]) == 48
    assert "have no small picture" in "".join(text for _, text in page.texts)


HOSTILE = '<script>alert("1")</script>\'&amp;\u202e\x00\udcff\n'


def test_every_text_from_outside_is_escaped(tmp_path: Path) -> None:
    metrics, view = category()
    view = view._replace(
        names=[HOSTILE] * 12,
        kinds=["good", HOSTILE] * 6,
        defects=[example._replace(name=HOSTILE) for example in view.defects],
        normal=[example._replace(name=HOSTILE) for example in view.normal],
    )
    results = results_of({HOSTILE: metrics}) | {
        "method": HOSTILE,
        "dataset": HOSTILE,
        "environment": {HOSTILE: HOSTILE, "list": [HOSTILE]},
        "seconds": {HOSTILE: 1.0},
    }
    page = write(
        tmp_path,
        {HOSTILE: (metrics, view)},
        title=HOSTILE,
        results=results,
        config_text=f"a\n{HOSTILE}\nb",
    )
    assert len(page.all("script")) == 2  # the category's numbers, and the page's own
    assert "\u202e" not in page.source
    assert "\x00" not in page.source
    shown = '<script>alert("1")</script>\'&amp;\\u202e\\x00\\udcff\\n'
    assert page.under("h1") == page.under("h2")[2:3] == page.under("title")[:1] == [shown]
    assert page.under("b").count(shown) == 4
    assert page.under("th").count(shown) > 12  # every photo and type in its table
    assert any(shown in (image["alt"] or "") for image in page.photos())


@hypothesis.given(st.text(st.characters(codec=None, exclude_categories=()), max_size=12))
@hypothesis.settings(max_examples=25, deadline=None)
def test_any_text_makes_a_page(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    page = write(
        tmp_path_factory.mktemp("page"),
        {},
        title=text,
        config_text=text,
        results=results_of({text: {"image_auroc": None}}),
    )
    assert not {tag for tag, _ in page.tags} & {"script", "img", "a"}


def test_page_stays_small(tmp_path: Path) -> None:
    metrics, view = category(count=24, n=6)
    rng = np.random.default_rng(0)
    scores = rng.random((64, 64)).astype(np.float32)
    noise = rng.integers(0, 256, (512, 512, 3)).astype(np.uint8)  # the worst case for JPEG
    grey = np.clip(rng.normal(128, 12, (300, 300)), 0, 255).astype(np.uint8)
    grainy = np.repeat(grey[..., None], 3, axis=2)  # as of solar cells
    for photo, limit in ((noise, 3e6), (grainy, 1.5e6)):
        groups = {
            group: [e._replace(image=photo, map=scores, mask=None) for e in getattr(view, group)]
            for group in ("defects", "missed", "normal")
        }
        page = write(tmp_path, {"mono": (metrics, view._replace(**groups))})
        assert len(page.photos()) == 2 * 18
        assert len(page.source) < limit


def test_ties_count_as_high_or_higher_and_as_low_or_lower(tmp_path: Path) -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    scores = np.array([1.0, 2.0, 2.0, 3.0, 2.0, 2.0, 0.5])
    photo, flat = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32)

    def example(index: int) -> Example:
        return Example("a", int(labels[index]), photo, flat, None, float(scores[index]))

    shown = [example(i) for i in (4, 6)], [example(i) for i in (3, 1, 0)]
    view = CategoryView(labels, scores, shown[0], [], shown[1], (0.0, 1.0))
    page = write(tmp_path, {"tile": (category()[0], view)})
    assert [text for text in page.under("figcaption") if "photos score" in text] == [
        "3 of 4 good photos score as high or higher",
        "4 of 4 good photos score as high or higher",
        "3 of 3 defective photos score as low or lower",
        "3 of 3 defective photos score as low or lower",
        "1 of 3 defective photos score as low or lower",
    ]


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    metrics, view = category()
    old = write(tmp_path, {"mono": (metrics, view)}).source
    broken = view._replace(defects=[view.defects[0]._replace(image=np.zeros((8, 8, 3)))])
    with pytest.raises(TypeError, match="data type"):
        write(tmp_path, {"mono": (metrics, broken)})
    assert (tmp_path / "report" / "index.html").read_text("utf-8") == old


def bare(path: Path) -> None:
    write_report(path, title="", results=results_of({}), categories={}, config_text="")


def test_a_page_that_can_not_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "index.html"):
        with pytest.raises(InputError, match=r"folder|file"):
            bare(path)
    bare(tmp_path / "report" / "index.html")
    old = (tmp_path / "report" / "index.html").read_text("utf-8")
    opened = os.open

    def on_full_disk(path: Any, flags: int, *args: Any) -> int:
        os.close(opened(path, flags, *args))
        return opened("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", on_full_disk)
    with pytest.raises(InputError, match=r"index.html \(No space left on device\): free space"):
        write(tmp_path, {"mono": category()})
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    assert (tmp_path / "report" / "index.html").read_text("utf-8") == old


def test_a_link_does_not_lead_the_page_elsewhere(tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    (work / "report").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"report is a link that leads out of .*: remove it"):
        bare(work / "report" / "index.html")
    assert not [*elsewhere.iterdir()]
    (work / "report").unlink()
    (work / "report").mkdir()
    (elsewhere / "precious").write_text("mine")
    (work / "report" / "index.html").symlink_to(elsewhere / "precious")
    bare(work / "report" / "index.html")
    assert (elsewhere / "precious").read_text() == "mine"
    assert "<html" in (work / "report" / "index.html").read_text()
    (tmp_path / "link").symlink_to(work)  # the user's own choice of a work directory
    bare(tmp_path / "link" / "report" / "index.html")
