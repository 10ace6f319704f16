"""What `benchmarks.anomalib_peer` measured, as Markdown; and the lines that a user writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import markdown

METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")
WAYS = {
    "bare_1": "scores alone, batch 1",
    "bare_8": "batch 8",
    "job_1": "job, batch 1",
    "job_8": "batch 8",
    "pictures_8": "job with pictures, batch 8",
}
"""What is timed, in the table's words."""
RUNTIMES = {"openvino": ", OpenVINO", "": ""}
DASH = "–"
_SCRIPT = re.compile(r"<!-- script: (\w+) (\w+) -->\n+```\w+\n(.*?)```", re.DOTALL)


def scripts(text: str) -> dict[str, dict[str, str]]:
    """Library -> what it does -> the script that a page shows for it, below a marker.

    Args:
        text: Markdown with `<!-- script: LIBRARY TASK -->` before a fenced block.
    """
    found: dict[str, dict[str, str]] = {}
    for library, task, script in _SCRIPT.findall(text):
        found.setdefault(library, {})[task] = script
    return found


def lines_of(script: str) -> int:
    """Lines that a user writes: none that are empty or a comment; one that goes on counts once."""
    lines = [line.strip() for line in script.replace("\\\n", " ").splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def name(row: Mapping[str, Any]) -> str:
    """Of a row, for its first cell."""
    return f"{row['library']} {row['method']}{RUNTIMES[row['runtime']]}"


def accuracy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All figures by jaxad's exact metrics, beside what the library prints itself."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        photos, own = row["photos"], row.get("own_metrics", {})
        kept = f" + {photos['calibration']} for the threshold" if photos["calibration"] else ""
        said = [f"{label} {own[key]:.4f}" for key, label in OWN.items() if key in own]
        return [
            f"{row['data']}, {name(row)}",
            f"{photos['train']}{kept}; {photos['test']}",
            *(f"{row['metrics'][metric]:.4f}" for metric in METRICS),
            ", ".join(said) or DASH,
        ]

    head = ("", "photos: training; test", "image AUROC", "pixel AUROC", "AUPRO@0.3")
    return markdown((*head, "anomalib's own figures"), [cells(row) for row in rows])


OWN = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "image_F1Score": "image F1",
    "pixel_F1Score": "pixel F1",
}


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds and memory of whole commands."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        training, prediction = row["training"], row["prediction"]
        return [
            f"{row['data']}, {name(row)}",
            f"{training['command_seconds']:,.0f} s",
            f"{training['fit_seconds']:,.0f} s",
            f"{training['megabyte']:,.0f} MB",
            f"{prediction['command_seconds']:.0f} s",
            f"{prediction['megabyte']:,.0f} MB",
            f"{training['others']:.1f}",
        ]

    head = ("whole commands", "to train and test", "of it training", "memory at most")
    tail = ("to judge the test photos", "memory at most", "cores that others took")
    return markdown((*head, *tail), [cells(row) for row in rows if "training" in row])


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Photos a second: median of the rounds, and their range."""

    def cell(found: Mapping[str, float] | None) -> str:
        return "{median:.1f} ({low:.1f}–{high:.1f})".format(**found) if found else DASH

    timed = [row for row in rows if row.get("images_per_second")]
    lines = [
        [name(row), *(cell(row["images_per_second"].get(way)) for way in WAYS)] for row in timed
    ]
    return markdown(("photos a second", *WAYS.values()), lines)


def section(file: str, found: Mapping[str, Any]) -> str:
    """All tables, and what they were measured on."""
    peer = found["benchmarks"]["anomalib_peer"]
    m, rows = peer["machine"], peer["rows"]
    versions = peer["versions"]
    about = (
        f"`{peer['command']}`, {m['date']}: {m['processor']}, {m['cores']} cores, Python "
        f"{m['python']}, jax {m['jax']}; anomalib {versions['anomalib']}, PyTorch "
        f"{versions['torch']} (`{file}`). Features of both ResNet-18s differ by "
        f"{peer['feature_difference']:.0e} of a level's largest."
    )
    tasks = list(dict.fromkeys(task for own in peer["lines"].values() for task in own))
    lines = [[who, *(own.get(task, DASH) for task in tasks)] for who, own in peer["lines"].items()]
    alone = ", ".join(f"{who} {mb:,.0f} MB" for who, mb in peer["imports_megabyte"].items())
    parts = [about, accuracy_table(rows), cost_table(rows)]
    parts.append(f"Imports alone take: {alone}.")
    timed = next((row["data"] for row in rows if "images_per_second" in row), None)
    if timed:
        parts.append(f"Of {timed}, {peer['rounds']} rounds in turn:\n\n{speed_table(rows)}")
    parts.append(markdown(("lines that a user writes", *tasks), lines))
    return "\n\n".join(parts)
