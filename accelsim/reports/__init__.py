"""Reports: a result as text table, JSON, plots and one self-contained HTML file."""

from accelsim.reports._html import prepare_folder, render, write_text
from accelsim.reports._pareto_plot import pareto_figure
from accelsim.reports._policy_plot import policy_figure
from accelsim.reports._svg import Svg
from accelsim.reports._tables import Section, comparison, to_text

__all__ = [
    "Section",
    "Svg",
    "comparison",
    "pareto_figure",
    "policy_figure",
    "prepare_folder",
    "render",
    "to_text",
    "write_text",
]
