"""Reports: a result as text table, JSON, plots and one self-contained HTML file."""

from accelsim.reports._ablation_plot import ablation_figure
from accelsim.reports._html import prepare_folder, render, write_text
from accelsim.reports._picture import check_picture, svg_text, write_picture
from accelsim.reports._policy_plot import policy_figure
from accelsim.reports._tables import Section, comparison, to_text

__all__ = [
    "Section",
    "ablation_figure",
    "check_picture",
    "comparison",
    "policy_figure",
    "prepare_folder",
    "render",
    "svg_text",
    "to_text",
    "write_picture",
    "write_text",
]
