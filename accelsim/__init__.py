"""accelsim: traces of real attention, through a simulated accelerator, to bytes, time and energy."""

__version__ = "0.1.0"
