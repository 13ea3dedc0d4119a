"""Reports: a result as text table, JSON, plots and one self-contained HTML file."""

from accelsim.drawing import PICTURES, Svg, check_picture, svg_text, write_picture
from accelsim.reports._ablation_plot import ablation_figure
from accelsim.reports._console import plain_console
from accelsim.reports._demo import DEMO_STEPS, Demo, demo, demo_to_text
from accelsim.reports._frontier_plot import frontier_figure
from accelsim.reports._html import prepare_folder, render, write_text
from accelsim.reports._pareto_plot import pareto_figure
from accelsim.reports._policy_plot import policy_figure
from accelsim.reports._tables import Section, comparison, to_text
from accelsim.reports._timeline import timeline_figure, trace_events, write_timeline

__all__ = [
    "DEMO_STEPS",
    "PICTURES",
    "Demo",
    "Section",
    "Svg",
    "ablation_figure",
    "check_picture",
    "comparison",
    "demo",
    "demo_to_text",
    "frontier_figure",
    "pareto_figure",
    "plain_console",
    "policy_figure",
    "prepare_folder",
    "render",
    "svg_text",
    "timeline_figure",
    "to_text",
    "trace_events",
    "write_picture",
    "write_text",
    "write_timeline",
]
