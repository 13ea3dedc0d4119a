"""Fit the kernels of ``accelsim.baselines`` to measured attention calls, and say how well they do.

    python benchmarks/fit_gpu_kernels.py calibration.parquet --out hw_configs/baselines/kernels

The file has the columns of ``accelsim validate gpu``. For each device, framework and kind the model
is fitted to a part of the points, for the errors and intervals of the rest (one point in five, and
one in eight of the groups of head size, window and heads as a whole), and then further to all of
them, which is what is written; but for a sample of some eighty points each, which is fitted nowhere
and written for ``accelsim validate gpu``. Needs torch and SciPy; a quarter of a minute a fit.

Beside the measured times the fit is held to what must be true of any call, at drawn sizes that were
not measured: a larger batch, more tokens or more key/value heads take no less time, and not more
than in proportion, unless a call leaves L2 with them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from accelsim.baselines._kernels import (
    REGIONS,
    Calls,
    Device,
    Floats,
    Kernel,
    coordinates,
    physical_s,
)

DEVICES = {
    "a100_sxm": Device(108, 40e6, 2039e9, 312e12),
    "h100_sxm": Device(132, 50e6, 3352e9, 989.4e12),
    "h200_sxm": Device(132, 50e6, 4800e9, 989.4e12),
    "b200_sxm": Device(148, 126e6, 8000e9, 2250e12),
    "l40s": Device(142, 96e6, 864e9, 362e12),
    "rtx_pro_6000_server": Device(188, 128e6, 1597e9, 503.8e12),
}
"""NVIDIA's data sheets; the same numbers as in the platforms' YAML, which a test compares."""
FIELDS = ("batch", "tokens", "query_heads", "kv_heads", "head_dim", "window_tokens")
HIDDEN = 32
STEPS = 4000
BATCH = 1024
DRAWN = 30_000
SAMPLE = 80
"""Points of each device, framework and kind that are kept for validation."""


def subset(calls: Calls, chosen: NDArray[np.bool_]) -> Calls:
    return Calls(calls.kind, *(getattr(calls, name)[chosen] for name in FIELDS))


def split(calls: Calls, random: np.random.Generator) -> tuple[NDArray[np.bool_], ...]:
    """Masks: fitted, held out at random, held out as groups."""
    groups = np.stack([getattr(calls, name) for name in FIELDS[2:]], axis=1)
    unique, group = np.unique(groups, axis=0, return_inverse=True)
    held = random.permutation(len(unique))[: max(1, len(unique) // 8)]
    apart = np.isin(group.ravel(), held)
    lone = ~apart & (random.random(len(apart)) < 0.2)
    return ~apart & ~lone, lone, apart


def drawn(calls: Calls, random: np.random.Generator) -> Calls:
    """Calls of any size up to twice the largest measured one."""

    def log_uniform(largest: float) -> Floats:
        return np.round(2 ** random.uniform(0, np.log2(largest), DRAWN))

    kv_heads = log_uniform(calls.kv_heads.max())
    group = log_uniform((calls.query_heads / calls.kv_heads).max())
    return Calls(
        calls.kind,
        log_uniform(2 * calls.batch.max()),
        log_uniform(2 * calls.tokens.max()),
        kv_heads * group,
        kv_heads,
        random.choice(np.unique(calls.head_dim), DRAWN),
        random.choice(np.unique(calls.window_tokens), DRAWN),
    )


def fit_constants(device: Device, calls: Calls, seconds: Floats) -> Floats:
    """Constants of the physical form; the floor is just below the fastest calls."""
    floor = 0.97 * np.quantile(seconds, 0.005)

    def constants(free: Floats) -> Floats:
        share = 1 / (1 + np.exp(-free[1:]))
        return np.array(
            [
                floor,
                np.exp(free[0]),
                share[0],
                share[1],
                0.5 + 0.7 * share[2],
                1 + 7 * share[3],
            ]
        )

    def error(free: Floats) -> Floats:
        return np.log(physical_s(device, calls, constants(free)) / seconds)

    fits = [
        least_squares(error, [np.log(wave), 1.0, peak, 1.6, cache], loss="soft_l1", f_scale=0.1)
        for wave, peak, cache in ((1e-6, 1.0, 1.0), (3e-6, 0.0, 0.0))
    ]
    return constants(min(fits, key=lambda fit: fit.cost).x)


def fit(device: Device, calls: Calls, seconds: Floats, seed: int) -> Kernel:
    """Fit constants and correction."""
    constants = fit_constants(device, calls, seconds)
    where = coordinates(device, calls, constants[0])
    target = np.log(seconds / physical_s(device, calls, constants))
    kernel = Kernel(
        device,
        constants,
        where.min(axis=0),
        where.max(axis=0),
        (),
        (float(target.min()) - 0.05, float(target.max()) + 0.05),
        np.zeros((len(REGIONS) + 1, 2)),
    )
    torch.manual_seed(seed)
    return train(kernel, network(where.shape[1]), calls, seconds, 1.5e-2, STEPS)


def network(inputs: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, HIDDEN),
        torch.nn.SiLU(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.SiLU(),
        torch.nn.Linear(HIDDEN, 1),
    )


def refit(kernel: Kernel, calls: Calls, seconds: Floats, seed: int) -> Kernel:
    """Go on training the correction, with more points."""
    net = network(len(kernel.low))
    torch.manual_seed(seed)
    with torch.no_grad():
        for index, (weight, bias) in zip((0, 2, 4), kernel.layers, strict=True):
            net[index].weight.copy_(_tensor(weight))
            net[index].bias.copy_(_tensor(bias))
    return train(kernel, net, calls, seconds, 4e-3, STEPS // 2)


def train(
    kernel: Kernel,
    net: torch.nn.Sequential,
    calls: Calls,
    seconds: Floats,
    rate: float,
    steps: int,
) -> Kernel:
    target = np.log(seconds / physical_s(kernel.device, calls, kernel.constants))
    inputs, targets = _tensor(kernel.scaled(calls)), _tensor(target)
    base, pairs = growth(kernel, calls, np.random.default_rng(0))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (BATCH,))
        # The error is that of the time, not of its logarithm: of two results for one call, as some
        # calls have (two kernels behind one name), the faster is fitted and not their middle.
        error = torch.expm1((net(inputs[rows])[:, 0] - targets[rows]).clamp(max=3.0))
        loss = torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.03)
        rows = torch.randint(DRAWN, (BATCH // 4,))
        points = torch.cat([base[rows], *(larger[rows] for larger, _, _ in pairs)])
        values = net(points)[:, 0].reshape(1 + len(pairs), -1)
        for value, (_, physical, most) in zip(values[1:], pairs, strict=True):
            grown = value - values[0] + physical[rows]
            loss = loss + 3 * torch.relu(-grown).mean()
            loss = loss + 0.3 * torch.relu(grown - most[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    layers = tuple(
        (
            net[i].weight.detach().numpy().astype(np.float64),
            net[i].bias.detach().numpy().astype(np.float64),
        )
        for i in (0, 2, 4)
    )
    return replace(kernel, layers=layers)


Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def growth(kernel: Kernel, calls: Calls, random: np.random.Generator) -> tuple[torch.Tensor, list]:
    """Drawn calls, and for each larger one: coordinates, growth of the physical form, its limit."""
    base = drawn(calls, random)
    physical = np.log(physical_s(kernel.device, base, kernel.constants))
    factor = 2 ** random.uniform(0.3, 1, DRAWN)
    pairs: list[Pair] = []
    powers = {"batch": 1.0, "tokens": 1.0 if calls.kind == "decode" else 2.0, "kv_heads": 1.0}
    for name, power in powers.items():
        old = getattr(base, name)
        new = np.ceil(old * factor)
        larger = replace(base, **{name: new})
        if name == "kv_heads":
            larger = replace(larger, query_heads=base.query_heads / old * new)
        grown = np.log(physical_s(kernel.device, larger, kernel.constants)) - physical
        slack = 0.1 if name == "tokens" else 0.05
        most = np.maximum(power * np.log(new / old) + slack, grown + 0.3)
        pairs.append((_tensor(kernel.scaled(larger)), _tensor(grown), _tensor(most)))
    return _tensor(kernel.scaled(base)), pairs


def _tensor(values: Floats) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def quantiles(kernel: Kernel, calls: Calls, seconds: Floats) -> Floats:
    """5 and 95 % of log(measured / predicted), by region of the predicted time."""
    predicted = kernel.seconds(calls)
    region = np.searchsorted(np.array(REGIONS) * kernel.constants[0], predicted)
    error = np.log(seconds / predicted)
    rows = []
    for each in range(len(REGIONS) + 1):
        inside = error[region == each] if (region == each).sum() >= 20 else error
        rows.append(np.quantile(inside, [0.05, 0.95]))
    return np.array(rows)


def mape(kernel: Kernel, calls: Calls, seconds: Floats) -> float:
    return float(np.abs(kernel.seconds(calls) / seconds - 1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for SYSTEM.npz, errors.json"
    )
    parser.add_argument("--only", nargs="*", default=list(DEVICES), help="systems")
    parser.add_argument("--framework", help="of it only; the file keeps the others")
    parser.add_argument("--kinds", nargs="*", help="of them only; the file keeps the others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for system in options.only:
        device = DEVICES[system]
        frame = pq.read_table(options.data, filters=[("system", "==", system)]).to_pandas()
        arrays: dict[str, NDArray[np.float32]] = {}
        errors, sample = [], []
        if options.framework:
            frame = frame[frame["framework"] == options.framework]
        if options.kinds:
            frame = frame[frame["kind"].isin(options.kinds)]
        if options.framework or options.kinds:
            with np.load(options.out / f"{system}.npz") as old:
                arrays |= dict(old)
        for (framework, kind), part in frame.groupby(["framework", "kind"], observed=True):
            start = time.perf_counter()
            kept = np.random.default_rng(2).permutation(len(part)) < SAMPLE
            sample.append(part[kept])
            part = part[~kept]
            calls = Calls(kind, *(part[name].to_numpy(np.float64) for name in FIELDS))
            seconds = part["latency_s"].to_numpy(np.float64)
            fitted, lone, apart = split(calls, np.random.default_rng(0))
            trial = fit(device, subset(calls, fitted), seconds[fitted], seed=0)
            held = ~fitted
            final = refit(trial, calls, seconds, seed=1)
            final = replace(final, quantiles=quantiles(trial, subset(calls, held), seconds[held]))
            for name, value in final.to_arrays().items():
                arrays[f"{framework}.{kind}.{name}"] = value
            physical = physical_s(device, calls, trial.constants)
            errors.append(
                {
                    "system": system,
                    "framework": framework,
                    "kind": kind,
                    "points": len(seconds),
                    "physical_form": float(np.abs(physical / seconds - 1)[held].mean()),
                    "held_out_points": mape(trial, subset(calls, lone), seconds[lone]),
                    "held_out_groups": mape(trial, subset(calls, apart), seconds[apart]),
                    "fitted": mape(final, calls, seconds),
                }
            )
            print(errors[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
            np.savez_compressed(options.out / f"{system}.npz", **arrays)
            (options.out / f"errors-{system}.json").write_text(json.dumps(errors, indent=1) + "\n")
        table = pa.Table.from_pandas(pd.concat(sample), preserve_index=False)
        pq.write_table(table, options.out / f"sample-{system}.parquet", compression="zstd")


if __name__ == "__main__":
    main()
