"""Whatever a file holds, a parser gives a result or an AccelsimError: soon, in one line, in 2 GB.

Real files are mutated (bits, bytes, slices, words and numbers), with fixed seeds, beside files that
hypothesis makes up. ``INPUTS`` counts 10,000 and more over the whole module.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accelsim import configs
from accelsim.baselines._platform import Platform
from accelsim.energy import EnergyTable
from accelsim.errors import AccelsimError
from accelsim.exploration._search import SearchConfig
from accelsim.exploration.sweep_file import Plan, SweepConfig, load_file
from accelsim.hardware import load_accelerator
from accelsim.hardware.config import MemoryConfig
from accelsim.policies import load_policy
from accelsim.traces import (
    Bias,
    Decisions,
    Indexer,
    LayerEntry,
    Mask,
    MemoryTensors,
    SelectionCost,
    batch_of,
    layer_decisions,
    load_decisions,
    load_trace,
    save_decisions,
    save_trace,
    synthetic_trace,
    validate_trace,
)
from accelsim.workloads import read_csv, read_parquet, write_parquet
from accelsim.workloads.models import load_model

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 2 << 30
LIMIT_S = 2.0
INPUTS = {
    "trace": 4200,
    "header": 150,
    "decisions": 1500,
    "csv": 3200,
    "parquet": 1500,
    "yaml": 1400,
}
"""Mutated files; hypothesis adds 450."""

WORDS = [
    b"-1", b"0", b"1", b"1e999", b"nan", b"99999999999999999999", b"0x10", b"null", b"true", b"~",
    b"''", b"[]", b"{}", b"&a [*a]", b"*a", b"!!python/object:os.system {}", b"\xff\xfe", b"\x00",
    b"\xe2\x80\xae", b"\n", b"\t", b",", b":", b"- ", b'"', b"9" * 5000, b"2024-01-01", b"1:2:3",
    b"../../etc/passwd", b"<script>",
]  # fmt: skip


def mutate(payload: bytes, source: random.Random) -> bytes:
    """Change one to four places of a file."""
    data = bytearray(payload)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data) + 1)
        kind = source.randrange(7)
        length = min(source.choice([1, 2, 8, 64]), len(data) - at)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length] * source.choice([1, 2, 50])
        elif kind == 3:
            data[at : at + length] = source.choice(WORDS)
        elif kind == 4 and source.random() < 0.3:
            del data[at:]
        else:
            # A word or number of the file, elsewhere or as something else.
            words = list(re.finditer(rb"[\w.+-]+", bytes(data[:4096])))
            if words:
                old, new = source.choice(words), source.choice(words)
                data[old.start() : old.end()] = source.choice([new.group(), *WORDS])
    return bytes(data)


class TooSlowError(Exception):
    """A parser did not come back."""


def _too_slow(*_: object) -> None:
    raise TooSlowError(f"more than {LIMIT_S} s")


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    """Stop an input at two seconds of processor time, and an allocation at 2 GB more than now."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    previous = signal.signal(signal.SIGPROF, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.signal(signal.SIGPROF, previous)


def check(path: Path, payload: bytes, parse: Callable[[Path], object]) -> None:
    """Write a file and parse it; anything but success or one explained line fails."""
    path.write_bytes(payload)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        parse(path)
    except AccelsimError as error:
        message = str(error)
        assert "\n" not in message, payload[:400]
        assert len(message) < 2000, payload[:400]
    except Exception as error:
        raise AssertionError(
            f"{type(error).__name__}: {error} from {len(payload)} bytes: {payload[:3000]!r}"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def fuzz(path: Path, seeds: list[bytes], count: int, parse: Callable[[Path], object]) -> None:
    source = random.Random(path.suffix)
    for payload in seeds:
        check(path, payload, parse)
    for number in range(count - len(seeds)):
        check(path, mutate(seeds[number % len(seeds)], source), parse)


def parse_trace(path: Path) -> None:
    validate_trace(load_trace(path))


def join(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def split(payload: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


@pytest.mark.slow
def test_traces(tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    one = tmp_path / "one.safetensors"
    save_trace(synthetic_trace(num_layers=1, head_dim=4, prefill_tokens=3, decode_tokens=2), one)
    header, data = split(one.read_bytes())
    # With the metadata of a real trace, the words that mutations swap are those of real files.
    real, _ = split((ROOT / "traces/minilm-128.safetensors").read_bytes())
    mixed = join(
        {**header, "__metadata__": {**real["__metadata__"], **header["__metadata__"]}}, data
    )
    own = [
        LayerEntry(mask=Mask(kind="window", size=3, side="left"), softcap=2.0, scale=0.5),
        LayerEntry(
            sinks=(0.5, 1.0, -1.0, 0.0), bias=Bias(kind="alibi", slopes=(1.0, 0.5, 0.2, 0.1))
        ),
        LayerEntry(
            mask=Mask(kind="stored"), model_layer=7, indexer=Indexer(top_k=2, heads=2, dim=3)
        ),
        LayerEntry(indexer=Indexer(top_k=2, shared=True)),
        LayerEntry(group="encoder", query_tokens=2, bias=Bias(kind="stored")),
        LayerEntry(
            group="decoder", bias=Bias(kind="relative", first=-2, buckets=(1, 0, 0)), scale=1.0
        ),
        LayerEntry(group="decoder", kind="cross", key_tokens=2),
    ]
    plain = synthetic_trace(num_layers=7, head_dim=4, prefill_tokens=3, decode_tokens=2)
    trace = replace(plain, layers=tuple(own))
    bits = np.packbits(np.tri(5, dtype=bool), axis=1, bitorder="little")
    tensors = {name: plain.tensors.read(name) for name in plain.tensors.names()}
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in trace.expected_shapes()}
    tensors["layer.2.mask"] = bits
    tensors["token_type"] = np.array([0, 1, 2, 3, 1], dtype=np.int8)
    tensors["frame"] = np.array([-1, -1, 0, 1, -1], dtype=np.int16)
    tensors["embedding"] = tensors["layer.3.hidden"] = np.ones((5, 3), dtype=np.float32)
    tensors["layer.3.transition"] = np.ones((2, 5, 2), dtype=np.float32)
    tensors["vision.layer.0.cls"] = np.ones((2, 1), dtype=np.float32)
    save_trace(replace(trace, tensors=MemoryTensors(tensors)), small)
    parse_trace(small)
    batch = tmp_path / "batch.safetensors"
    sizes = {"num_layers": 2, "head_dim": 4, "decode_tokens": 1}
    save_trace(batch_of([synthetic_trace(prefill_tokens=n, **sizes) for n in (3, 2, 4)]), batch)
    seeds = [path.read_bytes() for path in (tmp_path / "one.safetensors", small, batch)]
    seeds.insert(1, mixed)
    fuzz(tmp_path / "t.safetensors", seeds, INPUTS["trace"], parse_trace)


@pytest.mark.slow
def test_headers_of_a_real_trace(tmp_path: Path) -> None:
    payload = (ROOT / "traces/minilm-128.safetensors").read_bytes()
    length = int.from_bytes(payload[:8], "little")
    source = random.Random(0)
    for _ in range(INPUTS["header"]):
        header = mutate(payload[8 : 8 + length], source)
        changed = len(header).to_bytes(8, "little") + header + payload[8 + length :]
        check(tmp_path / "t.safetensors", changed, parse_trace)


@pytest.mark.slow
def test_decisions(tmp_path: Path) -> None:
    seed = tmp_path / "seed.safetensors"
    sets = [(0, [np.arange(5), np.array([0, 3])]), (2, [np.array([1, 6]), np.array([], dtype=int)])]
    layers = (layer_decisions([]), layer_decisions(sets), layer_decisions(sets[:1]))
    save_decisions(
        Decisions(
            "snapkv:0.5", "by hand", "synthetic", "0" * 64, "1" * 64, 2, 6, 3, layers, ratio=0.5,
            cost=SelectionCost(24, 384, 12),
        ),
        seed,
    )  # fmt: skip
    fuzz(
        tmp_path / "d.safetensors", [seed.read_bytes()], INPUTS["decisions"],
        lambda path: load_decisions(path).kept_fraction(),
    )  # fmt: skip


@pytest.mark.slow
def test_csv_workloads(tmp_path: Path) -> None:
    folder = ROOT / "traces/spatten-gpt2"
    files = sorted(folder.glob("*.csv"))
    heads = [b"\n".join(path.read_bytes().split(b"\n")[:12]) for path in files]
    fuzz(tmp_path / "w.csv", heads, INPUTS["csv"], read_csv)


@pytest.mark.slow
def test_parquet_workloads(tmp_path: Path) -> None:
    path = tmp_path / "seed.parquet"
    text = (ROOT / "traces/spatten-gpt2/small.csv").read_text().splitlines()[:12]
    (tmp_path / "seed.csv").write_text("\n".join(text))
    write_parquet(read_csv(tmp_path / "seed.csv"), path)
    fuzz(tmp_path / "w.parquet", [path.read_bytes()], INPUTS["parquet"], read_parquet)


def parse_sweep(path: Path) -> None:
    search = b"search" in path.read_bytes()
    config, where = load_file(SearchConfig if search else SweepConfig, str(path))
    plan = Plan(config, where)
    sampling = (
        config.sampling
        if isinstance(config, SweepConfig)
        else SweepConfig.model_fields["sampling"].default
    )
    for chosen in islice(plan.settings(sampling), 1):
        if plan.allowed(chosen):
            plan.resolve(chosen)


FAMILIES: dict[str, Callable[[Path], object]] = {
    "accelerators": lambda path: load_accelerator(str(path)),
    "memories": lambda path: configs.load(MemoryConfig, str(path), "memories"),
    "energy": lambda path: configs.load(EnergyTable, str(path), "energy"),
    "baselines": lambda path: configs.load(Platform, str(path), "baselines"),
    "policies": lambda path: load_policy(str(path)),
    "models": lambda path: load_model(str(path)),
    "sweeps": parse_sweep,
}


def test_every_family_is_fuzzed() -> None:
    assert sorted(FAMILIES) == sorted(configs.FAMILIES)
    assert sum(INPUTS.values()) >= 10_000


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_yaml(tmp_path: Path, family: str) -> None:
    seeds = [path.read_bytes() for path in sorted((ROOT / "hw_configs" / family).glob("*.yaml"))]
    count = INPUTS["yaml"] // len(FAMILIES) + 1
    fuzz(tmp_path / "f.yaml", seeds, max(count, len(seeds)), FAMILIES[family])


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)
CASES = {
    "aliases": BOMB,
    "alias in itself": "description: &a [*a]",
    "mapping in itself": "description: &a {b: *a}\nset: *a",
    "deep lists": "description: " + "[" * 5000,
    "deep mappings": "description: " + "{a: " * 2000 + "1" + "}" * 2000,
    "number of a million digits": "description: " + "9" * 1_000_000,
    "merge keys": "<<: [{a: 1}, {b: 2}]",
    "dates": "description: 2024-99-99",
    "a tag": "description: !!python/object/apply:os.system [true]",
    "binary": "description: !!binary AAAA",
    "a set": "description: !!set {a, b}",
    "pairs": "description: !!omap [a: 1]",
    "empty": "",
    "null byte": "a: \0",
    "two documents": "a: 1\n---\nb: 2",
    "extends itself": "extends: ./f.yaml",
    "many axes": "sources: [small]\naxes:\n"
    + "".join(
        f"  - {{key: memory.clock_hz, range: {{from: 0, to: 1, points: {n}}}}}\n"
        for n in (1000, 1000, 1000)
    ),
    "huge range": "sources: [bert-base-cola]\naxes:\n"
    "  - {key: memory.clock_hz, range: {from: 0, to: 1e308, step: 1e-300}}",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_yaml_that_means_harm(tmp_path: Path, family: str, name: str) -> None:
    check(tmp_path / "f.yaml", CASES[name].encode(), FAMILIES[family])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_yaml_of_any_shape_under_known_keys(tmp_path: Path, data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    file = data.draw(st.sampled_from(sorted((ROOT / "hw_configs" / family).glob("*.yaml"))))
    document = yaml.safe_load(file.read_text())
    key = data.draw(st.sampled_from(sorted(document)))
    document[key] = data.draw(VALUES)
    with contextlib.suppress(yaml.YAMLError):
        text = yaml.safe_dump(document, allow_unicode=True)
        check(tmp_path / "f.yaml", text.encode("utf-8", "surrogatepass"), FAMILIES[family])


@pytest.mark.slow
@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    payload=st.binary(max_size=300), suffix=st.sampled_from([".safetensors", ".csv", ".parquet"])
)
def test_any_bytes(tmp_path: Path, payload: bytes, suffix: str) -> None:
    parse: dict[str, Callable[[Path], object]] = {
        ".safetensors": parse_trace, ".csv": read_csv, ".parquet": read_parquet
    }  # fmt: skip
    check(tmp_path / f"any{suffix}", payload, parse[suffix])
