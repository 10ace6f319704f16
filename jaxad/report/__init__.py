"""A run's results as one self-contained HTML page and as a table for the terminal."""

from jaxad.report.html import write_report
from jaxad.report.table import format_table
from jaxad.report.view import CategoryView, Example, Selection, select_examples, view_category

__all__ = [
    "CategoryView",
    "Example",
    "Selection",
    "format_table",
    "select_examples",
    "view_category",
    "write_report",
]
