"""The words hardware blocks are written in: Module, Stream, stalls by reason."""

from accelsim.hardware.simulation._module import Module, Stream

__all__ = ["Module", "Stream"]
