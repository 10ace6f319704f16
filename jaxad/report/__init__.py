"""A run's results as one self-contained HTML page and as a table for the terminal."""

from jaxad.report.html import write_report
from jaxad.report.table import fitting, format_table
from jaxad.report.view import CategoryView, Example, Selection, ViewStream, select_examples

__all__ = [
    "CategoryView",
    "Example",
    "Selection",
    "ViewStream",
    "fitting",
    "format_table",
    "select_examples",
    "write_report",
]
