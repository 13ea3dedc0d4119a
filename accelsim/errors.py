"""The one kind of exception that reaches a user: what is wrong, where, and what was expected.

Every room raises :class:`AccelsimError` for bad input. The command line prints its text on one
line and exits with status 2; a traceback therefore always means a defect in accelsim itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AccelsimError(Exception):
    """Bad input, explained.

    The message names the file, the key or tensor, and what was expected, in one line.
    """


class TraceError(AccelsimError):
    """An attention trace that cannot be read, or does not follow ``attention-trace/1``."""


class ConfigError(AccelsimError):
    """A YAML configuration, preset name or override that is not valid."""


class WorkloadError(AccelsimError):
    """A workload table that is malformed, or that the chosen hardware refuses."""


class SimulationError(AccelsimError):
    """The simulated machine cannot make progress, or refuses its parameters."""


class MachineError(AccelsimError):
    """The machine that simulates has failed (its disk, a library), and not the input."""


class InvariantError(AccelsimError):
    """A result that cannot be: the model, and not its input, is wrong."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``known``, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""
