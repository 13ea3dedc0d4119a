"""accelsim: traces of real attention through simulated accelerators, to bytes, time, energy."""

__version__ = "0.1.0"
