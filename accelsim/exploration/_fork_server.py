"""What the fork server of a process pool imports once for all workers."""

import gc

import accelsim.attention.kernels
import accelsim.exploration.point
import accelsim.hardware.machines.spatten_rtl.machine  # noqa: F401

# What was imported lives as long as the workers: no need to look for garbage in it time and again,
# nor to copy its pages to every worker for the notes that the collector takes.
gc.freeze()
