"""What the fork server of a process pool imports once for all workers."""

import gc

import accelsim.exploration._point
import accelsim.functional.kernels
import accelsim.hardware.spatten.accelerator  # noqa: F401

# What was imported lives as long as the workers: no need to look for garbage in it time and again,
# nor to copy its pages to every worker for the notes that the collector takes. A point makes
# hundreds of thousands of objects and hardly a cycle among them: looking for those every 700
# objects, as is the default, takes 4 % of its time.
gc.freeze()
gc.set_threshold(10_000)
