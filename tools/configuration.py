"""Write docs/configuration.md from the keys themselves.

python tools/configuration.py            # say whether it is up to date (exit code 1: it is not)
python tools/configuration.py --write    # write it anew
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jaxad.keys import table  # noqa: E402
from jaxad.own_keys import EVALUATION, KEYS, TRAINING  # noqa: E402
from jaxad.recipes import mixture  # noqa: E402
from jaxad.recipes.build import OWN, recipe_named  # noqa: E402

FILE = ROOT / "docs" / "configuration.md"
TITLES = {
    "pfm": "PFM, B-PFM, MB-PFM",
    "afrad": "AFRAD",
    "simplenet": "SimpleNet",
    "adapted_moe": "Adapted-MoE",
    "patchcore": "PatchCore",
    "padim": "PaDiM",
    "rd4ad": "RD4AD",
    "uniad": "UniAD",
    "stfpm": "STFPM",
    "spade": "SPADE and nearest neighbours",
    "efficientad": "EfficientAD-S",
    "draem": "DRAEM",
    "anomaly_dino": "AnomalyDINO",
    "dinomaly": "Dinomaly",
}
INTRODUCTION = """\
# Configuration

A configuration is a Python file with a function `get_config()` that returns an
`ml_collections.ConfigDict` with every key below: jaxad's own, and those of one method. It starts
from `jaxad.default_config(METHOD)`. `configs/` has one for every published setting, and fast ones;
they go by their name, too, with or without an argument:

    jaxad train --config mb_pfm_lite --workdir runs/bottle --config.data.root=MVTEC_AD
    jaxad train --config configs/pfm_ablation.py:8 --workdir runs/case8 --config.train.seed=1

Any key can be changed on the command line, `--config.a.b=VALUE`; several values are written with
commas, `--config.data.image_size=256,320`. A key has a type, which goes for its elements, too, and
a range; anything else ends the command with one line that says what the key may be.
`jaxad evaluate` takes changes of {evaluation}, but not of {training}.

This file is made from the keys themselves: `python tools/configuration.py --write`.
"""


def text() -> str:
    """All of docs/configuration.md."""
    told, not_so = (", ".join(f"`{n}`" for n in names) for names in (EVALUATION, TRAINING))
    parts = [
        INTRODUCTION.format(evaluation=told, training=not_so),
        "## jaxad's own\n",
        "\n".join(table(KEYS)) + "\n",
    ]
    parts += [
        "## The method\n",
        "`method.name` names a recipe: "
        + ", ".join(f"`{name}`" for name in OWN)
        + ", or the module of one's own as `package.module`. It declares the keys below `method`, "
        "and belongs to the file: it can not be changed on the command line alone.\n",
    ]
    for name in OWN:
        recipe = recipe_named(name)
        parts += [f"### {TITLES[name]} (`{name}`)\n"]
        parts += ["\n".join(table(recipe.keys, prefix="method.")) + "\n"]
    parts += [
        "### Adapted-MoE with experts of another recipe (`adapted_moe:RECIPE`)\n",
        "Such as `adapted_moe:pfm`. RECIPE's own keys are below `method.expert`, beside these:\n",
        "\n".join(table(mixture.KEYS, prefix="method.")) + "\n",
    ]
    return "\n".join(parts)


def main() -> int:
    """Write the file or judge it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text():
        return 0
    print(f"{FILE.relative_to(ROOT)} is not up to date: python tools/configuration.py --write")
    return 1


if __name__ == "__main__":
    sys.exit(main())
