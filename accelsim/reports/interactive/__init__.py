"""Interactive reports: a result, a comparison or a result store as one self-contained page.

A document becomes a :class:`Page` (numbers, tables, charts in Vega-Lite's grammar), and a page
becomes HTML, Markdown, PNG or SVG. Charts are drawn once in that grammar for all four.
"""

from accelsim.reports._page_table import Table
from accelsim.reports.interactive._page import Chart, Page
from accelsim.reports.interactive._report import FORMATS, page_of, report, write_report

__all__ = ["FORMATS", "Chart", "Page", "Table", "page_of", "report", "write_report"]
