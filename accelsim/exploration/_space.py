"""Axes: which keys vary, over what, and the points that a grid or a sampler makes of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from accelsim.configs import Config
from accelsim.errors import AccelsimError, ConfigError

MAX_POINTS = 1_000_000
_STEP_GUARD = 1e-3
"""Part of a step that forgives the rounding of decimal steps: 0.1 to 0.9 has nine."""
MAX_ZIP = 10_000
"""Values of each axis of a zip."""
MAX_SEED = (1 << 32) - 1
"""Largest seed that every sampler takes."""
MAX_NUMBER = 1e18
"""Largest number of an axis, in either direction."""
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Settings = dict[str, Any]
"""Key to value: one point of the space."""


class Range(Config):
    """Numbers from ``from`` to ``to``, both included."""

    model_config = ConfigDict(populate_by_name=True)

    start: Annotated[Number, Field(alias="from")]
    stop: Annotated[Number, Field(alias="to")]
    step: Annotated[float, Field(gt=0, le=MAX_NUMBER)] | None = None
    """Distance of neighbours, which ends exactly at ``to``; not for a logarithmic range."""
    points: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None
    """Number of values, instead of ``step``."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Range:
        if self.start > self.stop:
            raise ValueError(f"'from' {self.start:g} is above 'to' {self.stop:g}")
        if self.step is not None and self.points is not None:
            raise ValueError("give 'step' or 'points', not both")
        if self.step is not None and (self.stop - self.start) / self.step > MAX_POINTS:
            raise ValueError(f"more than {MAX_POINTS} values")
        if self.step is not None:
            steps = (self.stop - self.start) / self.step
            if abs(steps - round(steps)) > _STEP_GUARD:
                below, above = (self.start + n * self.step for n in (int(steps), int(steps) + 1))
                raise ValueError(
                    f"steps of {self.step:g} from {self.start:g} do not end at 'to' {self.stop:g}, "
                    f"but at {below:g} or {above:g}"
                )
        return self

    @property
    def count(self) -> int | None:
        """Number of values of a range with a step or points."""
        if self.step is None:
            return self.points
        return round((self.stop - self.start) / self.step) + 1

    @property
    def is_whole(self) -> bool:
        """Whether every value is a whole number because both ends and the step are."""
        numbers = (self.start, self.stop, 1.0 if self.step is None else self.step)
        return self.points is None and all(number == int(number) for number in numbers)


class _Whole(Sequence[Settings]):
    """Levels of a range of whole numbers, of which a search looks at few."""

    def __init__(self, key: str, span: Range) -> None:
        assert span.step is not None
        self.key = key
        self.numbers = range(int(span.start), int(span.stop) + 1, int(span.step))

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Settings: ...
    @overload
    def __getitem__(self, place: slice) -> list[Settings]: ...
    def __getitem__(self, place: int | slice) -> Settings | list[Settings]:
        if isinstance(place, slice):
            return [{self.key: number} for number in self.numbers[place]]
        return {self.key: self.numbers[place]}


class Axis(Config):
    """One axis: a key with ``values``, a ``range`` or a ``log_range``; or a ``zip`` of several."""

    key: Annotated[str, Field(min_length=1)] | None = None
    """Dotted key (``accelerator.topk.parallelism``), or ``accelerator``, ``memory``, ``energy``,
    ``policy``, ``source``, ``engine``, ``dependencies`` for the name of a preset or file."""
    values: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """The values themselves."""
    range: Range | None = None
    """Evenly spaced numbers. Whole numbers if both ends and the step are whole."""
    log_range: Range | None = None
    """Numbers in equal ratios; ``points`` says how many."""
    integer: bool = False
    """Round the numbers of a range to whole ones."""
    zip: Annotated[tuple[Axis, ...], Field(min_length=1)] | None = None
    """Axes that move together, value by value; all of one length."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Axis:
        forms = [name for name in ("values", "range", "log_range") if getattr(self, name)]
        if self.zip is not None:
            if self.key is not None or forms:
                raise ValueError("'zip' stands alone, its members have keys")
            self._check_zip(self.zip)
        elif self.key is None:
            raise ValueError("expected a 'key', or a 'zip' of axes with keys")
        elif len(forms) != 1:
            raise ValueError(f"axis '{self.key}' needs one of 'values', 'range' and 'log_range'")
        if self.values is not None:
            check_numbers(f"axis '{self.key}'", list(self.values))
        if self.log_range is not None and self.log_range.start <= 0:
            raise ValueError(f"axis '{self.key}': 'log_range' needs 'from' above 0")
        if self.span is not None and self.is_integer and self.whole_ends[0] > self.whole_ends[1]:
            raise ValueError(
                f"axis '{self.key}': no whole number from {self.span.start:g} to {self.span.stop:g}"
            )
        if self.log_range is not None and self.log_range.step is not None:
            raise ValueError(f"axis '{self.key}': 'log_range' takes 'points', not 'step'")
        return self

    def _check_zip(self, members: tuple[Axis, ...]) -> None:
        if any(member.zip for member in members):
            raise ValueError("'zip' cannot hold another 'zip'")
        for member in members:
            if member.size > MAX_ZIP:
                raise ValueError(f"axis '{member.key}' of a 'zip' has more than {MAX_ZIP:,} values")
        sizes = {member.key: len(member.levels()) for member in members}
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{key} {size}" for key, size in sizes.items())
            raise ValueError(f"the axes of a 'zip' need equal lengths, got {shown}")

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that this axis sets."""
        return tuple(a.key or "" for a in self.zip) if self.zip else (self.key or "",)

    @property
    def span(self) -> Range | None:
        """The range of a numeric axis, linear or logarithmic."""
        return self.range or self.log_range

    @property
    def is_integer(self) -> bool:
        """Whether the numbers of a range are whole."""
        return self.integer or (self.range is not None and self.range.is_whole)

    @property
    def whole_ends(self) -> tuple[int, int]:
        """Smallest and largest whole number of a range."""
        assert self.span is not None
        return math.ceil(self.span.start), math.floor(self.span.stop)

    @property
    def size(self) -> int:
        """Number of levels, those that round to the same number counted apart; 0 if not known."""
        if self.zip is not None:
            return self.zip[0].size
        if self.values is not None:
            return len(self.values)
        return (self.span.count if self.span else None) or 0

    def levels(self) -> Sequence[Settings]:
        """Settings of each value on a grid; of a range of whole numbers, made when asked for.

        Raises:
            ValueError: a range that says neither ``step`` nor ``points``.
        """
        return self._levels

    @cached_property
    def _levels(self) -> Sequence[Settings]:
        if self.zip is not None:
            joined = zip(*(member.levels() for member in self.zip), strict=True)
            return [{k: v for part in parts for k, v in part.items()} for parts in joined]
        assert self.key is not None
        if self.values is not None:
            return [{self.key: value} for value in self.values]
        if self.range is not None and self.range.is_whole and self.range.step is not None:
            return _Whole(self.key, self.range)
        numbers = dict.fromkeys(self._number(value) for value in self._grid())
        return [{self.key: number} for number in numbers]

    def at(self, position: float) -> Settings:
        """Settings at ``position`` in [0, 1) of the axis; a list is cut into equal shares."""
        span = self.span
        if span is None or span.step is not None or span.points is not None:
            levels = self.levels()
            return levels[int(position * len(levels))]
        assert self.key is not None
        if self.log_range is not None:
            value = span.start * (span.stop / span.start) ** position
        elif self.is_integer:
            low, high = self.whole_ends
            value = low + math.floor(position * (high - low + 1))
        else:
            value = span.start + position * (span.stop - span.start)
        return {self.key: self._number(value)}

    def _grid(self) -> NDArray[np.float64]:
        span = self.span
        assert span is not None
        if self.log_range is not None and span.points is not None:
            return np.geomspace(span.start, span.stop, span.points, dtype=np.float64)
        if span.points is not None:
            return np.linspace(span.start, span.stop, span.points, dtype=np.float64)
        if span.step is None:
            need = "'points'" if self.log_range else "'step' or 'points'"
            raise ValueError(f"axis '{self.key}' needs {need} on a grid")
        return span.start + span.step * np.arange(span.count or 1, dtype=np.float64)

    def _number(self, value: float) -> int | float:
        if self.is_integer:
            low, high = self.whole_ends
            return min(max(round(value), low), high)
        # Twelve digits: 0.1 + 2 * 0.1 is to be 0.3 in a table, and in the hash of a point.
        return float(f"{value:.12g}")


def check_numbers(where: str, value: Any) -> None:
    """Refuse numbers that no configuration and no row of a table can hold.

    Raises:
        ValueError: begins with ``where``.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            check_numbers(where, item)
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{where}: expected numbers up to {MAX_NUMBER:g}, got {value:.3g}")


class Sampling(Config):
    """How points are drawn from the axes."""

    method: Literal["grid", "random", "sobol"] = "grid"
    """``grid``: every combination; ``random``: independent draws; ``sobol``: a scrambled
    low-discrepancy sequence, which covers the space more evenly (use a power of two)."""
    samples: Annotated[int, Field(ge=1, le=MAX_POINTS)] | None = None
    """Number of draws."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

    @model_validator(mode="after")
    def _samples_fit_method(self) -> Sampling:
        if (self.method == "grid") != (self.samples is None):
            text = "takes no" if self.method == "grid" else "needs"
            raise ValueError(f"method '{self.method}' {text} 'samples'")
        return self


def points(axes: tuple[Axis, ...], sampling: Sampling, where: str) -> Iterator[Settings]:
    """Yield the points of a space, in a fixed order; equal points may occur more than once.

    Raises:
        ConfigError: too many points, or a range without a step on a grid.
        AccelsimError: Sobol without SciPy.
    """
    if sampling.method == "grid":
        size = math.prod(max(axis.size, 1) for axis in axes)
        if size > MAX_POINTS:
            raise ConfigError(f"{where}: the grid has {size:,} points; at most {MAX_POINTS:,}")
        try:
            levels = [axis.levels() for axis in axes]
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        for parts in itertools.product(*levels):
            yield {key: value for part in parts for key, value in part.items()}
        return
    for row in _draws(len(axes), sampling):
        yield {
            key: value
            for axis, position in zip(axes, row, strict=True)
            for key, value in axis.at(float(position)).items()
        }


def _draws(dimensions: int, sampling: Sampling) -> NDArray[np.float64]:
    assert sampling.samples is not None
    if sampling.method == "random":
        return np.random.default_rng(sampling.seed).random((sampling.samples, dimensions))
    try:
        from scipy.stats import qmc
    except ImportError:
        raise AccelsimError(
            "sampling 'sobol' needs SciPy; install it with: pip install 'accelsim[explore]'"
        ) from None
    import warnings

    with warnings.catch_warnings():
        # SciPy warns where the number is no power of two; the field's docstring says it instead.
        warnings.simplefilter("ignore", UserWarning)
        sequence: NDArray[np.float64] = qmc.Sobol(
            dimensions, scramble=True, seed=sampling.seed
        ).random(sampling.samples)
    return sequence
