"""Write block diagrams and the result of ``your-own.md``: ``python docs/accelerators/draw.py``.

A diagram is drawn from the machine's wiring and stands between ``<!-- diagram -->`` marks.
"""

from __future__ import annotations

import re
import runpy
import tempfile
from pathlib import Path

from accelsim.configs import load
from accelsim.hardware import accelerator_of, load_accelerator, register_accelerator
from accelsim.hardware.config import MemoryConfig

HERE = Path(__file__).parent
PAGES = {"spatten.md": "spatten-paper", "a3.md": "a3-conservative", "mnnfast.md": "mnnfast"}
"""Page to the preset that it shows."""
OWN = HERE / "your-own.md"
SOURCE = "traces/smollm2-64p-32d.safetensors"
POLICIES = ("dense", "static-8", "spatten-full")
_FILE = re.compile(r"^```(?:python|yaml|toml) (\S+)\n(.*?)^```", re.M | re.S)


def diagram(preset: str) -> str:
    """Return the block diagram of a preset as Mermaid; a queue's arrow tells its depth."""
    machine = load_accelerator(preset)
    wires = accelerator_of(machine.kind).wiring
    if wires is None:
        raise ValueError(f"{preset}: kind '{machine.kind}' tells no wiring")
    found = wires(machine, load(MemoryConfig, machine.memory, "memories"))
    blocks = dict.fromkeys(end for wire in found for end in (wire.source, wire.target))
    lines = ["```mermaid", "flowchart LR"]
    for block in blocks:
        label = f"[({block})]" if block == "DRAM" else f"[{block.replace('_', ' ')}]"
        lines.append(f"  {block}{label}")
    for wire in found:
        depth = "" if wire.depth is None else f", {wire.depth:g} deep"
        lines.append(f'  {wire.source} -->|"{wire.name}{depth}"| {wire.target}')
    return "\n".join([*lines, "```"])


def page_files(page: Path = OWN) -> dict[str, str]:
    """Return the files that a page shows: name after the language, and text."""
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


def own_result(source: str = SOURCE) -> str:
    """Run the machine of ``your-own.md``, from outside the package, under three policies."""
    from accelsim.exploration import replay

    files = page_files()
    lines = [
        "| policy | cycles | key bytes | value bytes | energy, uJ | vector unit busy |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        machine = runpy.run_path(f"{folder}/vector_unit.py")
        register_accelerator("vector-unit", machine["ACCELERATOR"])
        energy = f"{folder}/vector-unit-45nm.yaml"
        for policy in POLICIES:
            result = replay(
                source,
                f"{folder}/vector-unit.yaml",
                policy,
                overrides={"accelerator.energy": energy},
                baselines=[],
            )
            read = result.dram_read_bytes_by_tensor
            cycles = result.metrics["latency_cycles"]
            busy = result.modules["vector_unit"]["busy_cycles"] / cycles
            keys = read["key_msb"] + read["key_lsb"]
            lines.append(
                f"| `{policy}` | {cycles:,} | {keys:,} | {read['value']:,} "
                f"| {result.metrics['energy_j'] * 1e6:.1f} | {busy:.0%} |"
            )
    return "\n".join(lines)


def put(page: str, name: str, text: str) -> str:
    """Replace what stands between the marks ``name``."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no marks for '{name}'")
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    """Rewrite the pages."""
    for name, preset in PAGES.items():
        page = HERE / name
        text = put(page.read_text(encoding="utf-8"), "diagram", diagram(preset))
        page.write_text(text, encoding="utf-8")
    OWN.write_text(put(OWN.read_text(encoding="utf-8"), "result", own_result()), encoding="utf-8")
    print(f"wrote {', '.join(PAGES)}, {OWN.name}")


if __name__ == "__main__":
    main()
