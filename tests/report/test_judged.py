"""The page of what was judged: in order, escaped, with links that lead to the overlays."""

from __future__ import annotations

import re

from jaxad.report.judged import Shown, judged_page

HOSTILE = "<img src=x onerror=alert(1)>"


def page(photos: list[Shown], errors: list[str] | None = None) -> str:
    return judged_page(
        f"{HOSTILE}: {len(photos)} judged",
        "model 1",
        ["a line"],
        photos,
        errors or [],
        total=7,
        unreadable=5,
    )


def test_photos_stand_in_their_order_and_link_to_their_overlays() -> None:
    photos = [
        Shown("x/b 1.png", "overlays/x/b 1.png.jpg", "anomalous", 3.14159, 2.0, 0.0476190),
        Shown("#?\udce9.png", "overlays/#?é.png.jpg", "good", 1.0, 2.0, 1.0),
    ]
    found = page(photos)
    assert re.findall(r'<img [^>]*src="([^"]*)"', found) == [
        "overlays/x/b%201.png.jpg",
        "overlays/%23%3F%C3%A9.png.jpg",
    ]
    assert "score 3.142, threshold 2, p 0.0476" in found
    assert "2 of 7 photos; predictions.csv has all" in found
    assert r"#?\udce9.png" in found
    assert "Could not be read" not in found


def test_texts_are_no_markup_and_errors_are_told() -> None:
    found = page([Shown(HOSTILE, "overlays/a.jpg", "good", 1, 2, 0.5)], [f"{HOSTILE}: damaged"])
    assert HOSTILE not in found
    assert found.count("&lt;img src=x") == 5  # title twice, name, picture, error
    assert "Could not be read<small>1 of 5" in found
    assert "default-src 'none'" in found.replace("&#39;", "'")
