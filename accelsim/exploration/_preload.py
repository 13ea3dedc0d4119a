"""What the fork server of a process pool imports once for all workers."""

import accelsim.exploration._point
import accelsim.functional.kernels
import accelsim.hardware.spatten.accelerator  # noqa: F401
