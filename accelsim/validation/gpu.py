"""The measured platforms against measured attention kernels, point by point.

A case file is Parquet with one attention call of one layer a row (bfloat16): ``system``,
``framework``, ``kind`` (``prefill``: causal, ``tokens`` queries on as many keys; ``decode``: one
query a sequence; ``encoder``: all queries on all keys), ``batch``, ``tokens``, ``query_heads``,
``kv_heads``, ``head_dim``, ``window_tokens`` (0: none), ``latency_s``. Others are ignored.

What the package ships is a sample of AIConfigurator's measurements that nothing was fitted to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelsim import configs
from accelsim.baselines import Calls, Kernel, Platform, kernels_of
from accelsim.errors import did_you_mean
from accelsim.validation._base import DATA, Bar, Case, Options, Report
from accelsim.validation._table import CaseFileError

TAKES = ("cases",)
SHIPPED = DATA / "gpu.parquet"
"""AIConfigurator (ai-dynamo, Apache-2.0), package aiconfigurator-core 0.12.0."""
LIMITS = {"decode": 0.12, "prefill": 0.10, "encoder": 0.10}
"""Mean absolute percentage error that the model is held to, as a fraction, by kind of call."""
_NAMES = ("system", "framework", "kind")
_SIZES = ("batch", "tokens", "query_heads", "kv_heads", "head_dim", "window_tokens")
_OTHER_UNIT = 100.0
"""A file whose latencies are this much longer or shorter than predicted is not in seconds."""
Table = dict[str, NDArray[Any]]


def run(options: Options) -> Report:
    """Compare every point; see :func:`accelsim.validation.validate`.

    Raises:
        CaseFileError: a file that is not what the module describes, with row and column.
    """
    path = options.cases or SHIPPED
    table = read_points(path)
    kernels = _kernels()
    predicted, low, high = (np.empty(len(table["latency_s"])) for _ in range(3))
    groups: list[dict[str, Any]] = []
    keys = np.stack([table[name] for name in _NAMES], axis=1)
    found, which = np.unique(keys, axis=0, return_inverse=True)
    for number, key in enumerate(map(tuple, found.tolist())):
        options.on_case(number + 1, len(found), "/".join(key))
        chosen = np.flatnonzero(which.ravel() == number)
        kernel = _kernel(kernels, key, f"{path}: row {chosen[0] + 1}")
        calls = Calls(key[2], *(table[name][chosen] for name in _SIZES))
        seconds = kernel.seconds(calls)
        predicted[chosen] = seconds
        low[chosen], high[chosen] = kernel.interval(calls, seconds)
    measured = table["latency_s"]
    ratio = predicted / measured
    _check_unit(path, float(np.median(ratio)))
    error = np.abs(ratio - 1)
    inside = (low <= measured) & (measured <= high)
    for number, key in enumerate(map(tuple, found.tolist())):
        chosen = np.flatnonzero(which.ravel() == number)
        groups.append(
            {
                **dict(zip(_NAMES, key, strict=True)),
                "points": len(chosen),
                "mape": float(error[chosen].mean()),
                "median_ratio": float(np.median(ratio[chosen])),
                "in_interval": float(inside[chosen].mean()),
            }
        )
    bars = [
        Bar(f"mean, {kind}", float(error[table["kind"] == kind].mean()), limit)
        for kind, limit in LIMITS.items()
        if (table["kind"] == kind).any()
    ]
    return Report("gpu", None, "s", _cases(table, predicted), (), bars, groups=groups)


def _cases(table: Table, predicted: NDArray[np.float64]) -> list[Case]:
    columns = [table[name].astype(np.int64).tolist() for name in _SIZES]
    names = zip(*(table[name].tolist() for name in _NAMES), strict=True)
    rows = zip(names, zip(*columns, strict=True), strict=True)
    numbers = zip(rows, table["latency_s"].tolist(), predicted.tolist(), strict=True)
    return [
        Case(f"{row}/{'/'.join(name)}/{'-'.join(map(str, sizes))}", measured, seconds)
        for row, ((name, sizes), measured, seconds) in enumerate(numbers, start=1)
    ]


def read_points(path: Path) -> Table:
    """Read and check a case file; names as str, sizes and latency as float64, each shape (n,).

    Raises:
        CaseFileError: with the row (from 1) and column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = (*_NAMES, *_SIZES, "latency_s")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            for name in wanted:
                if name not in present:
                    raise CaseFileError(
                        f"{path}: column '{name}' is missing{did_you_mean(name, present)}"
                    )
            content = file.read(columns=list(wanted))
    except (OSError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:120]
        raise CaseFileError(f"{path}: cannot be read as Parquet ({detail})") from None
    if not content.num_rows:
        raise CaseFileError(f"{path}: no points; expected one a row")
    table: Table = {}
    for name in wanted:
        column = content.column(name)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]) + 1
            raise CaseFileError(f"{path}: row {row}, column '{name}': no value")
        if name in _NAMES:
            table[name] = _text(path, name, column)
        else:
            table[name] = _numbers(path, name, column)
    _whole_groups(path, table)
    return table


def _text(path: Path, name: str, column: Any) -> NDArray[Any]:
    import pyarrow as pa

    try:
        values = column.cast(pa.string())
    except pa.ArrowException:
        raise CaseFileError(f"{path}: column '{name}': expected text, got {column.type}") from None
    return np.asarray(values.to_pylist(), dtype=np.str_)


def _numbers(path: Path, name: str, column: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise CaseFileError(f"{path}: column '{name}': expected numbers, got {kind}")
    values: NDArray[np.float64] = column.to_numpy().astype(np.float64)
    if name == "latency_s":
        good, what = np.isfinite(values) & (values > 0), "seconds above 0"
    else:
        least = 0 if name == "window_tokens" else 1
        good = np.isfinite(values) & (values >= least) & (values == np.floor(values))
        what = f"an integer of at least {least}"
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise CaseFileError(
            f"{path}: row {row + 1}, column '{name}': expected {what}, got {values[row]:g}"
        )
    return values


def _whole_groups(path: Path, table: Table) -> None:
    uneven = np.flatnonzero(table["query_heads"] % table["kv_heads"])
    if len(uneven):
        row = int(uneven[0])
        raise CaseFileError(
            f"{path}: row {row + 1}, column 'query_heads': {table['query_heads'][row]:g} is no "
            f"multiple of kv_heads ({table['kv_heads'][row]:g})"
        )


def _check_unit(path: Path, ratio: float) -> None:
    if 1 / _OTHER_UNIT < ratio < _OTHER_UNIT:
        return
    raise CaseFileError(
        f"{path}: column 'latency_s': the median is {1 / ratio:.3g} times the prediction; "
        f"expected seconds"
    )


def _kernels() -> dict[tuple[str, str, str], Kernel]:
    """Every fitted kernel, by system, framework and kind."""
    found = {}
    for name in configs.preset_names("baselines"):
        platform = configs.load(Platform, name, "baselines")
        if platform.measured_kernel is not None:
            system = platform.measured_kernel.system
            for (framework, kind), kernel in kernels_of(platform).items():
                found[system, framework, kind] = kernel
    return found


def _kernel(
    kernels: dict[tuple[str, str, str], Kernel], key: tuple[str, ...], where: str
) -> Kernel:
    """Kernel of system, framework and kind, each checked in turn."""
    for place, name in enumerate(_NAMES):
        known = sorted({each[place] for each in kernels if each[:place] == key[:place]})
        if key[place] not in known:
            raise CaseFileError(
                f"{where}, column '{name}': unknown '{key[place][:40]}'"
                f"{did_you_mean(key[place], known)} (known: {', '.join(known)})"
            )
    return kernels[key[0], key[1], key[2]]
