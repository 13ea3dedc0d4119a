"""The words hardware blocks are written in.

Module, Stream, Port and Milestone for engines that are written by hand; Dataflow, Block, Queue and
Item for machines that are a wiring of blocks.
"""

from accelsim.hardware.simulation._clock import Clock
from accelsim.hardware.simulation._dataflow import Block, Dataflow, Item, Queue, Wire
from accelsim.hardware.simulation._module import (
    FirstOf,
    Follower,
    Milestone,
    Module,
    Pause,
    Port,
    Process,
    Stream,
)

__all__ = [
    "Block",
    "Clock",
    "Dataflow",
    "FirstOf",
    "Follower",
    "Item",
    "Milestone",
    "Module",
    "Pause",
    "Port",
    "Process",
    "Queue",
    "Stream",
    "Wire",
]
