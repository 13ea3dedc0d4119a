"""``accelsim ablate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelsim import replay

FROM, TO = "spatten-paper-serial", "spatten-paper"


def test_table_json_and_plot(
    tiny_workload: Path, tmp_path: Path, accelsim: Callable[..., Any]
) -> None:
    words = ["ablate", FROM, TO, tiny_workload, "--set", "reset_cycles=0"]
    files = ["--json", tmp_path / "a.json", "--plot", tmp_path / "a.png"]
    shown = accelsim(*words, *files).out
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["schema"] == "accelsim.ablation/1"
    assert set(document["units"]) < set(document["base"])
    assert "reset_cycles" not in {f["key"] for f in document["fields"]}
    for entry in document["fields"]:
        assert entry["key"] in shown
        for series in ("alone", "cumulative", "without"):
            assert (entry[series]["latency_cycles"] is None) == bool(entry[series]["refused"])
            assert f"{entry[series]['latency_cycles'] or 0:,}" in shown or entry[series]["refused"]
    assert "refused [1]: value_prefetch_depth (0) must not be below" in " ".join(shown.split())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    # The last of the cumulative series is TO itself.
    last = replay(tiny_workload, accelerator=TO, overrides={"reset_cycles": 0}, baselines=[])
    reached = document["fields"][-1]["cumulative"]["latency_cycles"]
    assert reached == last.metrics["latency_cycles"]


def test_refusals(tiny_workload: Path, accelsim: Callable[..., Any]) -> None:
    words = ["ablate", FROM, TO, tiny_workload]
    for bad in (["--plot", "a.jpg"], ["--order", "topk.row"], ["--json", "no/such/folder.json"]):
        accelsim(*words, *bad, status=2)
    assert "different kinds" in accelsim("ablate", FROM, "mnnfast", tiny_workload, status=2).err
