"""The data sets of the benchmarks, as changes of a configuration.

`{data}` stands for one folder that holds `mvtec_ad_256/` (layout mvtec_ad), `magnetic_tile/` and
`deep_pcb/` (each with its manifest.csv); ELPV comes as a package.
"""

from __future__ import annotations

JOIN = (("elpv", ""), ("manifest", "magnetic_tile"), ("mvtec_ad", "mvtec_ad_256", "bottle"))
"""Four categories of three data sets, for one model."""

BOTTLE = {"data.root": "{data}/mvtec_ad_256", "data.categories": "bottle"}
TILES = {"data.root": "{data}/magnetic_tile", "data.layout": "manifest"}

SETS = {
    "bottle": BOTTLE,
    "tiles": TILES,
    "elpv_mono": {"data.layout": "elpv", "data.categories": "mono"},
    "elpv_poly": {"data.layout": "elpv", "data.categories": "poly"},
    "deep_pcb": {"data.root": "{data}/deep_pcb", "data.layout": "manifest"},
}
"""One category each."""


def flags(changes: dict[str, str], data: str) -> list[str]:
    """A set's changes as the command line takes them, below the folder `data`."""
    return [f"--config.{key}={value.format(data=data)}" for key, value in changes.items()]
