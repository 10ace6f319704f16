import pytest

from jaxad.report import fitting, format_table

RESULTS = {
    "categories": {
        "bottle": {"image_auroc": 1.0, "pixel_ap": None, "aupro_0.30": 0.95, "n_test": 83},
        "a\x1b[31mlong\nname": {
            "image_auroc": 0.5,
            "pixel_ap": None,
            "aupro_0.30": None,
            "n_test": 9,
        },
    },
    "mean": {"image_auroc": 0.75, "pixel_ap": None, "aupro_0.30": 0.95},
}


def test_table_reads_like_the_results() -> None:
    lines = format_table(RESULTS).split("\n")
    assert lines[0].split() == ["category", "image", "AUROC", "pixel", "AP", "AUPRO@0.30", "test"]
    assert lines[2].split() == ["bottle", "1.0000", "–", "0.9500", "83"]
    assert lines[3].split() == ["a\\x1b[31mlong\\nname", "0.5000", "–", "–", "9"]
    assert lines[5].split() == ["mean", "0.7500", "–", "0.9500"]
    assert len(lines) == 6
    ends = [line.index(text) + len(text) for line, text in
            [(lines[0], "image AUROC"), (lines[2], "1.0000"), (lines[5], "0.7500")]]  # fmt: skip
    assert len(set(ends)) == 1


def test_table_without_categories() -> None:
    assert format_table({"categories": {}, "mean": {}}).split("\n")[0] == "category"


NAMED = {
    "categories": {
        "Häuser – ☀": {"image_auroc": None},
        "latin \udce9": {"image_auroc": 0.5},
    },
    "mean": {"image_auroc": 0.5},
}


@pytest.mark.parametrize(
    ("encoding", "first", "rule"),
    [
        ("utf-8", "Häuser – ☀", "─"),
        ("utf-16", "Häuser – ☀", "─"),
        ("cp437", "Häuser - \\u2600", "─"),
        ("latin-1", "Häuser - \\u2600", "-"),
        ("ascii", "H\\xe4user - \\u2600", "-"),
    ],
)
def test_every_terminal_can_show_the_table(encoding: str, first: str, rule: str) -> None:
    text = format_table(NAMED, encoding=encoding)
    assert text.encode(encoding).decode(encoding) == text
    lines = text.split("\n")
    assert lines[2].startswith(first)
    assert lines[3].startswith("latin \\udce9")
    assert set(lines[1]) == {rule}
    # What stands for a sign is wider than it; columns are as wide as what is printed.
    assert lines[3].endswith("  0.5000")
    assert len(lines[0]) == len(lines[2]) == len(lines[3]) == len(lines[1])


def test_any_text_fits_a_stream() -> None:
    assert fitting("a ± b … ü\n\udcff", "ascii") == "a +- b ... \\xfc\n\\udcff"
    assert fitting("a ± b\udcff", "utf-8") == "a ± b\\udcff"
    assert fitting("a ± b", None) == "a ± b"
