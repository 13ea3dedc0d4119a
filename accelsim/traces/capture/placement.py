"""Where a forward pass runs, in which type, and how much of the weights is in memory at once."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accelsim.errors import TraceError

FORWARD_DTYPES = ("float64", "float32", "bfloat16", "float16")
_GB = 10**9


@dataclass(frozen=True)
class Placement:
    """How a model runs while it is recorded.

    Attributes:
        device: as torch names it (``cpu``, ``cuda``, ``cuda:1``, ``mps``); the NumPy models run on
            the CPU.
        dtype: type of weights and activations; ``None``: float64 of the NumPy models, float32 of
            torch. Attention itself is computed in float32 at least, where transformers' interface
            lets us, so that a trace is proven as tightly in every type.
        weights_gb: memory for weights, in GB (10^9 bytes) of that type; layers beyond it are read
            from the file each time they run. All are in memory if ``None``.
    """

    device: str = "cpu"
    dtype: str | None = None
    weights_gb: float | None = None

    def check(self) -> None:
        """Refuse what no library could do.

        Raises:
            TraceError: naming the option.
        """
        if self.dtype is not None and self.dtype not in FORWARD_DTYPES:
            raise TraceError(f"forward dtype '{self.dtype}': expected {', '.join(FORWARD_DTYPES)}")
        if self.weights_gb is not None and not 0 < self.weights_gb < float("inf"):
            raise TraceError(f"weights memory {self.weights_gb:g} GB: expected more than 0")

    @property
    def needs_torch(self) -> bool:
        """Whether the NumPy models cannot run like this."""
        return self.device != "cpu" or self.dtype in ("bfloat16", "float16")

    @property
    def weights_bytes(self) -> int | None:
        """Memory for weights, in bytes."""
        return None if self.weights_gb is None else max(int(self.weights_gb * _GB), 1)


ON_CPU = Placement()
"""All weights in memory, on the CPU, in the type of each backend."""


class TorchPlacement:
    """A placement for torch: what a model is loaded with, and where its inputs go.

    Args:
        torch: the library.
        placement: what the user wants.
        model: for errors.
        gguf: whether the weights are in a GGUF file, which is decoded whole.

    Raises:
        TraceError: a device that torch does not have here, or weights that cannot be read layer by
            layer.
    """

    def __init__(self, torch: Any, placement: Placement, model: str, gguf: bool) -> None:
        self._torch, self._model, self._limit = torch, model, placement.weights_bytes
        self.dtype = getattr(torch, placement.dtype or "float32")
        try:
            self.device = torch.device(placement.device)
            torch.empty(1, device=self.device)
        except Exception as error:  # what a device raises that is not there depends on it
            raise TraceError(
                f"device '{placement.device}': torch {torch.__version__} cannot use it here "
                f"({(str(error).splitlines() or ['?'])[0][:120]}); expected cpu, or an accelerator "
                "of this machine, as in cuda:0"
            ) from None
        if self.device.type == "meta":
            raise TraceError("device 'meta': holds no numbers; expected cpu or an accelerator")
        if self._limit is None:
            return
        if gguf:
            raise TraceError(
                f"{model}: transformers decodes a .gguf file whole; weights memory goes with "
                "--backend numpy, or with a folder of .safetensors"
            )
        if importlib.util.find_spec("accelerate") is None:
            raise TraceError(
                "weights memory needs the package 'accelerate': pip install 'accelsim[capture]'"
            )

    @contextmanager
    def loading(self) -> Iterator[dict[str, Any]]:
        """Options of ``from_pretrained``, while the model is used."""
        options: dict[str, Any] = {"dtype": self.dtype}
        if self._limit is None:
            yield options
            return
        place = self.device.type
        if place != "cpu":
            place = self.device.index or 0 if place == "cuda" else place
        with tempfile.TemporaryDirectory(prefix="accelsim-weights-") as folder:
            # Weights are read from their own file; the folder is for those that need a conversion.
            yield options | {
                "device_map": "auto", "max_memory": {place: self._limit}, "offload_folder": folder,
            }  # fmt: skip

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Say it of a model whose weights cannot be read as its layers run.

        Raises:
            TraceError: its code takes weights that are not in memory.
        """
        try:
            yield
        except (NotImplementedError, RuntimeError) as error:
            if self._limit is None or "meta" not in str(error):
                raise
            raise TraceError(
                f"{self._model}: takes weights of a layer before the layer runs, so that they "
                "cannot be read from the file as it does; expected no weights memory"
            ) from error

    def placed(self, network: Any) -> Any:
        """Move a model to its device, unless it was loaded there."""
        return network.to(self.device) if self._limit is None else network

    def given(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Move inputs to the device, and numbers among them to the type of the weights."""
        moved = {}
        for name, value in inputs.items():
            if isinstance(value, self._torch.Tensor):
                value = value.to(self.device)
                if value.is_floating_point():
                    value = value.to(self.dtype)
            moved[name] = value
        return moved

    def tokens(self, ids: list[int]) -> Any:
        """Token ids as a batch of one."""
        return self._torch.tensor([ids], device=self.device)

    def __str__(self) -> str:
        """For provenance, as in ``float32`` or ``bfloat16 on cuda``."""
        name = str(self.dtype).removeprefix("torch.")
        return name if self.device.type == "cpu" else f"{name} on {self._named()}"

    def _named(self) -> str:
        if self.device.type == "cuda":
            return f"{self.device} ({self._torch.cuda.get_device_name(self.device)})"
        return str(self.device)
