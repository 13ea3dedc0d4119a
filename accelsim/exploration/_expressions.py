"""Arithmetic and comparisons over keys and metrics, read from a file and never executed as code.

The text is parsed by Python's own parser and walked node by node; anything but the few node types
below is refused, so an expression can neither call, import, index nor loop.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from accelsim.errors import ConfigError, did_you_mean, shorten

_MAX_LENGTH = 1000
MAX_NUMBER = 1e300
"""Largest number of an expression and of its result, in either direction."""
Lookup = Callable[[str], Any]
"""Name to value; ``None`` for a value that this point does not have."""

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    # Floats only: 9**9**9 over integers would run for hours.
    ast.Pow: lambda a, b: math.pow(a, b),
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}


class Expression:
    """A checked expression.

    Names are dotted keys (``accelerator.topk.parallelism``), metrics (``latency_s``,
    ``accuracy.mean_kl``) or axes. Operators: ``+ - * / // % **``, comparisons, ``and or not``;
    functions: abs, ceil, floor, log2, max, min, round, sqrt; text in quotes for names of presets.

    Args:
        text: what the file says.
        where: file and key, for errors.

    Raises:
        ConfigError: it is not such an expression.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        if len(text) > _MAX_LENGTH:
            raise self._error(f"longer than {_MAX_LENGTH} characters")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self._check(self._tree)
            # A tree too deep to walk must be found here, where the file can be named.
            self.names  # noqa: B018
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._error("expected arithmetic and comparisons, such as 'a * b <= 4'") from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    @cached_property
    def names(self) -> frozenset[str]:
        """Every dotted name that it reads."""
        return frozenset(_names(self._tree))

    def evaluate(self, lookup: Lookup) -> Any:
        """Return the value, or ``None`` where a name has none.

        Raises:
            ConfigError: an operation that is not possible with these values.
        """
        try:
            value = self._value(self._tree, lookup)
        except (ArithmeticError, TypeError, ValueError) as error:
            if isinstance(error, _MissingValueError):
                return None
            raise self._error(f"cannot be computed ({error})") from None
        if isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
            raise self._error(f"expected a number up to {MAX_NUMBER:g}")
        return value

    def violation(self, lookup: Lookup) -> float:
        """Return how far a comparison is from holding: 0 or less if it holds, in its own unit.

        ``a <= b`` gives a - b, a conjunction the largest of its parts; anything else 0 or 1. A
        value that is missing counts as a violation of 1.
        """
        if self.evaluate(lookup) is None:
            return 1.0
        try:
            return self._violation(self._tree, lookup)
        except _MissingValueError:
            return 1.0
        except (ArithmeticError, TypeError, ValueError) as error:
            raise self._error(f"cannot be computed ({error})") from None

    def _violation(self, node: ast.expr, lookup: Lookup) -> float:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            return max(self._violation(part, lookup) for part in node.values)
        holds = bool(self._value(node, lookup))
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left = self._value(node.left, lookup)
            right = self._value(node.comparators[0], lookup)
            gap = None
            if isinstance(left, str) or isinstance(right, str):
                pass
            elif isinstance(node.ops[0], (ast.Lt, ast.LtE)):
                gap = float(left - right)
            elif isinstance(node.ops[0], (ast.Gt, ast.GtE)):
                gap = float(right - left)
            if gap is not None and (gap > 0) != holds:
                return gap
        return 0.0 if holds else 1.0

    def _value(self, node: ast.expr, lookup: Lookup) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name() | ast.Attribute():
                value = lookup(_dotted(node))
                if value is None:
                    raise _MissingValueError
                return value
            case ast.BoolOp():
                results = (bool(self._value(part, lookup)) for part in node.values)
                return all(results) if isinstance(node.op, ast.And) else any(results)
            case ast.UnaryOp():
                operand = self._value(node.operand, lookup)
                return not operand if isinstance(node.op, ast.Not) else -_number(operand)
            case ast.BinOp():
                left = _number(self._value(node.left, lookup))
                right = _number(self._value(node.right, lookup))
                value = _BINARY[type(node.op)](left, right)
                if isinstance(value, int) and abs(value) > MAX_NUMBER:
                    raise OverflowError(f"above {MAX_NUMBER:g}")
                return value
            case ast.Compare():
                return self._compare(node, lookup)
            case ast.Call(func=ast.Name(id=name)):
                arguments = [_number(self._value(part, lookup)) for part in node.args]
                return _FUNCTIONS[name](*arguments)
        raise TypeError(type(node).__name__)  # pragma: no cover - refused by _check

    def _compare(self, node: ast.Compare, lookup: Lookup) -> bool:
        left = self._value(node.left, lookup)
        for operation, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._value(comparator, lookup)
            if not _COMPARE[type(operation)](left, right):
                return False
            left = right
        return True

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                if not isinstance(constant, str) and not abs(constant) <= MAX_NUMBER:
                    raise self._error(f"expected numbers up to {MAX_NUMBER:g}")
                return
            case ast.Name() | ast.Attribute():
                _dotted(node)
                return
            case ast.BoolOp(values=parts):
                children = parts
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
                children = [operand]
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
                children = [left, right]
            case ast.Compare(ops=ops) if all(type(op) in _COMPARE for op in ops):
                children = [node.left, *node.comparators]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                if name not in _FUNCTIONS:
                    raise self._error(f"unknown function '{name}'{did_you_mean(name, _FUNCTIONS)}")
                children = arguments
            case _:
                raise ValueError(type(node).__name__)
        for child in children:
            self._check(child)

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.where}: expression '{shorten(self.text, 80)}': {message}")


class _MissingValueError(ValueError):
    """A name has no value at this point."""


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("not a name")


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        yield _dotted(node)  # type: ignore[arg-type]
        return
    # The name of a function is no key.
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for child in children:
        yield from _names(child)


def _number(value: Any) -> float:
    if isinstance(value, (int, float)):
        return value
    raise TypeError(f"'{value}' is not a number")
