"""What every configuration can do: be checked, go to JSON and back, be overridden by ``name=value``.

Works on any frozen dataclass whose fields are numbers, strings, booleans, literals, tuples of these, `None`, or
further dataclasses. Every wrong setting is a UsageError that names the setting, what was found and what was
expected; an unknown name is answered with the nearest known one.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import math
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from realm.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from typing_extensions import TypeIs

T = TypeVar("T", bound="DataclassInstance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Limits of a number, in ``Annotated[int, Range(low=1)]``. Closed unless said otherwise."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies within."""
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        below = self.high is None or value < self.high or (value == self.high and not self.open_high)
        return above and below

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}" if self.low is not None else ""
        high = f"{'below' if self.open_high else 'at most'} {self.high:g}" if self.high is not None else ""
        return " and ".join(part for part in (low, high) if part)


class Setting(NamedTuple):
    """One line of `explain`."""

    name: str
    """Dotted, as `override` takes it."""
    value: Any
    expected: str
    """What it may be, in words."""
    meaning: str
    """The field's docstring."""


class _Unfit(Exception):
    """A value that is not of the kind asked for."""


def check(config: DataclassInstance) -> None:
    """Check every field against its annotation; meant to be a dataclass's ``__post_init__``.

    Lists become tuples where a tuple is asked for. UsageError names the class and the field.
    """
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        fitted = _fit(value, kind, f"{type(config).__name__}.{name}")
        if fitted is not value:
            object.__setattr__(config, name, fitted)  # the instance is still being built


def to_json(config: DataclassInstance) -> dict[str, Any]:
    """The configuration as JSON values: nested objects, lists for tuples."""
    return {name: _jsonable(getattr(config, name)) for name in _kinds(type(config))}


def from_json(cls: type[T], value: Any) -> T:
    """Build a configuration from what `to_json` made, or from a part of it: what is absent keeps its default."""
    return _build(cls, value, "")


def override(config: T, assignments: Sequence[str]) -> T:
    """A copy of `config` with ``realm.batch_size=32`` and the like applied; the last one of a name wins.

    What several settings together must keep to is checked when all are applied, so their order is free. A class may
    name short forms in ``ALIASES``. Tuples are written ``1,5,20``, absence ``none``.
    """
    aliases: Mapping[str, tuple[str, ...]] = getattr(type(config), "ALIASES", {})
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not name:
            raise UsageError(f"found the setting {assignment!r}: expected name=value, such as {_example(config)}")
        for path in aliases.get(name, (name,)):
            value = _read(type(config), path.split("."), text, path, [*aliases, *_paths(type(config))])
            *groups, last = path.split(".")
            inner = changes
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = value
    return _replaced(config, changes)


def explain(config: DataclassInstance) -> list[Setting]:
    """Every setting with its value, what it may be and what it means, in the order they are declared."""
    return list(_explain(config, ""))


# ---------------------------------------------------------------- building


def _build(cls: type[T], value: Any, where: str) -> T:
    if not isinstance(value, Mapping):
        raise UsageError(f"found {_show(value)} for {where or cls.__name__}: expected an object of settings")
    kinds = _kinds(cls)
    arguments = {}
    for name, part in value.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in kinds:
            known = [f"{where}.{k}" if where else k for k in kinds]
            raise UsageError(_unknown(path, known))
        kind = kinds[name]
        arguments[name] = _build(kind, part, path) if _is_group(kind) else _fit(part, kind, path)
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in arguments and _required(f)]
    if missing:
        raise UsageError(f"found no {missing[0]!r} in {where or cls.__name__}: expected {_words(kinds[missing[0]])}")
    return cls(**arguments)


def _read(cls: type[DataclassInstance], path: list[str], text: str, whole: str, known: list[str]) -> Any:
    """The value that `text` is for the setting at `path`."""
    kinds = _kinds(cls)
    if path[0] not in kinds:
        raise UsageError(_unknown(whole, known))
    kind = kinds[path[0]]
    if _is_group(kind):
        inner = _kinds(kind)
        if len(path) == 1:
            raise UsageError(
                f"{whole!r} is a group of settings: expected one of {', '.join(f'{whole}.{n}' for n in inner)}"
            )
        return _read(kind, path[1:], text, whole, known)
    if len(path) > 1:
        raise UsageError(_unknown(whole, known))
    try:
        return _fitted(_parse(text, kind), kind)
    except _Unfit:
        raise UsageError(_wrong(whole, text, kind)) from None


def _replaced(config: T, changes: Mapping[str, Any]) -> T:
    """A copy with the changes, groups within groups; each group is built, and so checked, once."""
    values = {
        name: _replaced(getattr(config, name), change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return dataclasses.replace(config, **values)


def _explain(config: DataclassInstance, prefix: str) -> Iterator[Setting]:
    meanings = _meanings(type(config))
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        if _is_group(kind):
            yield from _explain(value, f"{prefix}{name}.")
        else:
            yield Setting(f"{prefix}{name}", value, _words(kind), meanings.get(name, ""))


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    return [_jsonable(item) for item in value] if isinstance(value, tuple) else value


# ---------------------------------------------------------------- one value


def _fit(value: Any, kind: Any, where: str) -> Any:
    try:
        return _fitted(value, kind)
    except _Unfit:
        raise UsageError(_wrong(where, value, kind)) from None


def _fitted(value: Any, kind: Any) -> Any:
    """`value` as the annotation `kind` wants it; _Unfit when it is something else."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = _fitted(value, arguments[0])
        if any(isinstance(limit, Range) and not limit.holds(value) for limit in arguments[1:]):
            raise _Unfit
        return value
    if origin in (Union, types.UnionType):
        for member in arguments:
            try:
                return _fitted(value, member)
            except _Unfit:
                continue
        raise _Unfit
    if origin is Literal:
        # The type is compared, too: True == 1 in Python, and not in a configuration.
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise _Unfit
    if origin is tuple:
        if not isinstance(value, tuple | list) or not value:
            raise _Unfit
        members = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(members) != len(value):
            raise _Unfit
        fitted = tuple(_fitted(item, member) for item, member in zip(value, members, strict=True))
        return value if isinstance(value, tuple) and fitted == value else fitted
    if kind is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise _Unfit
        return value if isinstance(value, float) else float(value)
    if type(value) is not kind or value == "":  # the exact type, so that True is no int
        raise _Unfit
    return value


def _parse(text: str, kind: Any) -> Any:
    """The text of a command line as a value of the annotation `kind`; _Unfit when it is none."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _parse(text, arguments[0])
    if origin in (Union, types.UnionType):
        # `none` is absence even where any text would do.
        for member in sorted(arguments, key=lambda member: member is not types.NoneType):
            try:
                return _fitted(_parse(text, member), member)
            except _Unfit:
                continue
        raise _Unfit
    if origin is Literal:
        return next((choice for choice in arguments if str(choice) == text), text)
    if origin is tuple:
        parts = [part.strip() for part in text.strip("[]()").split(",") if part.strip()]
        members = [arguments[0]] * len(parts) if arguments[-1] is Ellipsis else list(arguments)
        if len(members) != len(parts):
            raise _Unfit
        return tuple(_parse(part, member) for part, member in zip(parts, members, strict=True))
    if kind is types.NoneType:
        if text.lower() not in ("none", "null"):
            raise _Unfit
        return None
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise _Unfit
        return _BOOLEANS[text.lower()]
    try:
        return kind(text)
    except (TypeError, ValueError):
        raise _Unfit from None


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


# ---------------------------------------------------------------- words


def _words(kind: Any) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = " ".join(str(limit) for limit in arguments[1:] if isinstance(limit, Range))
        return f"{_words(arguments[0])} {limits}".strip()
    if origin in (Union, types.UnionType):
        return " or ".join(_words(member) for member in arguments)
    if origin is Literal:
        names = [str(choice) for choice in arguments]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"values separated by commas, each {_words(arguments[0])}"
        return f"{len(arguments)} values separated by commas, each {_words(arguments[0])}"
    names_of = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "none"}
    return names_of.get(kind, getattr(kind, "__name__", str(kind)))


def _wrong(where: str, value: Any, kind: Any) -> str:
    message = f"found {where}={_show(value)}: expected {_words(kind)}"
    choices = [str(c) for c in get_args(kind)] if get_origin(kind) is Literal else []
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f"{message}; did you mean {near[0]}?" if near else message


def _unknown(name: str, known: Sequence[str]) -> str:
    """Nearest by the last part first: people forget the group more often than they misspell the setting."""
    leaf = name.rpartition(".")[2]
    near = [path for path in known if path.rpartition(".")[2] == leaf]
    near = near or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if not near:
        leaves = {path.rpartition(".")[2]: path for path in known}
        near = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=2, cutoff=0.6)]
    groups = dict.fromkeys(path.rpartition(".")[0] or path for path in known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(groups)}"
    return f"there is no setting {name!r}: {hint}"


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value if value and value == value.strip() else repr(value)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _example(config: DataclassInstance) -> str:
    first = next(iter(_explain(config, "")), None)
    return f"{first.name}={first.value}" if first else "name=value"


# ---------------------------------------------------------------- looking at a class


@functools.cache
def _kinds(cls: type[DataclassInstance]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _paths(cls: type[DataclassInstance], prefix: str = "") -> list[str]:
    paths = []
    for name, kind in _kinds(cls).items():
        paths += _paths(kind, f"{prefix}{name}.") if _is_group(kind) else [f"{prefix}{name}"]
    return paths


def _is_group(kind: Any) -> TypeIs[type[DataclassInstance]]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


@functools.cache
def _meanings(cls: type[DataclassInstance]) -> dict[str, str]:
    """The docstring under each field. Python does not keep these, so the source is read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    meanings = {}
    for field, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            meanings[field.target.id] = inspect.cleandoc(str(below.value.value))  # type: ignore[attr-defined]
    return meanings
