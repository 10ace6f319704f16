"""Make the notebook of a Markdown page: its Python blocks are cells, its text stands between them.

    python tools/notebook.py docs/tour.md docs/tour.ipynb

A test keeps docs/tour.ipynb equal to docs/tour.md.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def notebook(page: str) -> str:
    """Markdown to the text of a notebook (nbformat 4.5)."""
    cells = []
    for number, part in enumerate(re.split(r"```python\n(.*?)```", page, flags=re.DOTALL)):
        if not part.strip():
            continue
        cell = {"id": f"cell-{number}", "metadata": {}, "source": part.strip()}
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append(cell | (code if number % 2 else {"cell_type": "markdown"}))
    about = {"language_info": {"name": "python"}}
    found = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(notebook(Path(sys.argv[1]).read_text()))
