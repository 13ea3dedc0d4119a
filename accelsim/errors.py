"""The one kind of exception that reaches a user: what is wrong, where, and what was expected.

Every room raises :class:`AccelsimError` for bad input. The command line prints its text on one
line and exits with status 2; a traceback therefore always means a defect in accelsim itself.
"""

from __future__ import annotations

import difflib
import re
import urllib.parse
from collections.abc import Iterable

MAX_MESSAGE = 300
"""Characters of a message; a longer one loses its middle."""


class AccelsimError(Exception):
    """Bad input, explained.

    The message names the file, the key or tensor, and what was expected, in one line.
    """

    def __str__(self) -> str:
        """Return the message on one printable line of at most :data:`MAX_MESSAGE` characters."""
        return shorten(super().__str__())


class TraceError(AccelsimError):
    """An attention trace that cannot be read, or does not follow its schema."""


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


def shorten(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return ``text`` on one printable line of at most ``limit`` characters, cut in the middle."""
    # Long before it is known what is printable, so that a text of a gigabyte costs nothing.
    if len(text) > 16 * limit:
        text = f"{text[: 8 * limit]}{text[-8 * limit :]}"
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= limit:
        return line
    end = (limit - 3) // 3
    return f"{line[: limit - 3 - end]} … {line[len(line) - end :]}"


_USER = re.compile(r"([A-Za-z][\w+.-]*://[^:/@\s]*:)(\S*)@")
_SECRET = re.compile(
    r"(?i)\b([\w-]*(?:password|passwd|passphrase|pwd|secret|token|api_?key)=)([^&;\s'\"]+)"
)
_LEAST_SECRET = 4


def redacted(text: str, url: str = "") -> str:
    """Return ``text`` without the passwords of addresses in it, and without those of ``url``.

    Args:
        text: message that may quote an address; ``//user:password@`` and ``?password=`` are hidden.
        url: address whose passwords a library may have put into the message in any form.
    """
    secrets = [match[1] for pattern in (_USER, _SECRET) for match in pattern.findall(url)]
    for secret in sorted(secrets, key=len, reverse=True):
        for form in {secret, urllib.parse.unquote(secret), urllib.parse.unquote_plus(secret)}:
            if form in text and len(form) < _LEAST_SECRET:
                return "details hidden"
            text = text.replace(form, "***")
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``known``, or an empty string.

    Args:
        word: what was given.
        known: what was expected.
        prefix: in front of all of them, and not compared.
    """
    # Comparing takes the product of the lengths, and nobody mistypes a name of a hundred letters.
    names = [name.removeprefix(prefix) for name in known]
    matches = difflib.get_close_matches(word.removeprefix(prefix)[:100], names, n=1, cutoff=0.5)
    return f"; did you mean '{prefix}{matches[0]}'?" if matches else ""
