"""Arguments of the Python API: what is not of the expected kind is said in one line."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pydantic

from accelsim.configs import shown
from accelsim.errors import AccelsimError

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the kinds of a function's arguments against its annotations.

    Raises:
        AccelsimError: names function and argument, what was expected and what was given.
    """
    signature = inspect.signature(function)

    @functools.cache
    def adapters() -> dict[str, pydantic.TypeAdapter[Any]]:
        config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        found = {}
        for name, parameter in signature.parameters.items():
            # A type that is imported for type checkers only is checked by the function itself.
            with contextlib.suppress(NameError):
                kind = eval(parameter.annotation, function.__globals__)
                found[name] = pydantic.TypeAdapter(kind, config=config)
        return found

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # Python says itself what is missing or unknown
        for name, value in given.items():
            if name not in adapters():
                continue
            try:
                adapters()[name].validate_python(value)
            except pydantic.ValidationError:
                expected = signature.parameters[name].annotation
                raise AccelsimError(
                    f"{function.__name__}: argument '{name}': expected {expected}, "
                    f"got {shown(value)}"
                ) from None
        return function(*args, **kwargs)

    return call
