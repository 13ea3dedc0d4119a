"""The words hardware blocks are written in: Module, Stream, Milestone, stalls by reason."""

from accelsim.hardware.simulation._module import Follower, Milestone, Module, Stream

__all__ = ["Follower", "Milestone", "Module", "Stream"]
