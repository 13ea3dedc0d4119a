"""``accelsim demo``: the first visit."""

from __future__ import annotations

import json

import click

from accelsim.cli._options import remark


@click.command("demo")
@click.option(
    "--out",
    metavar="DIR",
    default="runs/demo",
    show_default=True,
    help="Where report.html and demo.json are written.",
)
def command(out: str) -> None:
    """Show on a real trace what a tuned policy buys, what it loses, and why.

    Runs SmolLM2's attention over 512 tokens of prompt and 32 decoded ones: dense, under a policy
    that was tuned inside the model, and under the schedule of SpAtten's paper, beside measured
    GPUs; then a Llama 3 8B's shape with 32,768 tokens in the cache. Needs nothing but what ships
    with accelsim. Takes about a minute, and more the first time, when kernels are compiled.

    \b
    Examples:
      accelsim demo
      accelsim demo --out first
    """
    from accelsim.reports import DEMO_STEPS, demo, demo_to_text, prepare_folder, write_text

    folder = prepare_folder(out)
    done = 0

    def on_step(text: str) -> None:
        nonlocal done
        done += 1
        remark(f"{done}/{DEMO_STEPS} {text}")

    found = demo(on_step)
    document = json.dumps(found.to_dict(), indent=2, allow_nan=False)
    write_text(folder / "demo.json", document + "\n")
    write_text(folder / "report.html", found.to_html())
    demo_to_text(found)
    remark(f"wrote {folder / 'report.html'} and {folder / 'demo.json'}")
