"""From what a user wrote, in YAML or on the command line, to the type that a key has."""
import dataclasses
import math
import os
import types
from typing import Any, Literal, Union, get_args, get_origin

from common.errors import UserError, nearest

_TRUE = ("true", "1", "yes", "on", "y", "t")
_FALSE = ("false", "0", "no", "off", "n", "f")
_EMPTY = ("", "none", "null")
LARGEST = 2**32 - 1  # the framework takes no larger numbers, and nobody means them
_KINDS = {int: "a whole number", float: "a number", str: "a text"}


def _to_bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if isinstance(value, (bool, int, str)) and text in _TRUE + _FALSE:
        return text in _TRUE
    raise ValueError


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _to_int(value: Any) -> int:
    if not _to_float(value).is_integer():
        raise ValueError
    return int(value) if isinstance(value, int) else int(float(value))


def _to_str(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    return "" if str(value).lower() in _EMPTY else str(value)


def _to_tuple(value: Any, kind: type) -> tuple:
    """Accept a list, ``[0.08, 1.0]``, ``0.08,1.0``, ``(1, 2)`` and a single number."""
    if isinstance(value, str):
        value = [part for part in value.strip("[]() ").split(",") if part.strip()]
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not items:
        raise ValueError
    return tuple(_CONVERSIONS[kind](item) for item in items)


_CONVERSIONS = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}


def kinds_of(field: dataclasses.Field) -> list[type]:
    """Return the types that a field may have, in the order in which they are tried; ``type(None)`` among them."""
    return list(get_args(field.type)) if get_origin(field.type) in (types.UnionType, Union) else [field.type]


def describe_kind(field: dataclasses.Field) -> str:
    """Say in words what a field accepts, for messages and for the help."""
    kinds = [kind for kind in kinds_of(field) if kind is not type(None) and get_origin(kind) is not Literal]
    if field.metadata["choices"]:
        words = list(field.metadata["choices"])
    elif field.metadata["path"]:
        words = ["a path"]
    elif kinds == [bool]:
        words = ["true", "false"]
    else:
        if int in kinds and float in kinds:
            kinds.remove(int)
        words = [f"a list of {'whole ' if get_args(kind)[0] is int else ''}numbers" if get_origin(kind) is tuple
                 else _KINDS[kind] for kind in kinds]
    limits = [f"{sign} {limit:g}" for sign, limit in field.metadata["limits"].items() if limit is not None]
    if limits:
        words[-1] += " " + " and ".join(limits)
    words += [word for kind in kinds_of(field) if get_origin(kind) is Literal for word in get_args(kind)]
    if type(None) in kinds_of(field):
        words.append("none")
    return " or ".join(([", ".join(words[:-1])] if words[:-1] else []) + words[-1:])


def _within_limits(field: dataclasses.Field, value: Any) -> bool:
    """Tell whether a number, or every number of a list, lies within the limits of its field."""
    limits = field.metadata["limits"]
    numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, (int, float))]
    return all((limits[">="] is None or v >= limits[">="]) and (limits[">"] is None or v > limits[">"])
               and (limits["<="] is None or v <= limits["<="]) and (limits["<"] is None or v < limits["<"])
               for v in numbers)


def _choose(field: dataclasses.Field, value: Any) -> str:
    spellings = {other.lower(): name for name, others in field.metadata["choices"].items() for other in (name, *others)}
    if isinstance(value, (bool, list, tuple)) or str(value).lower() not in spellings:
        raise ValueError(nearest(str(value), field.metadata["choices"]))
    return spellings[str(value).lower()]


def _convert(field: dataclasses.Field, value: Any) -> Any:
    """Return ``value`` in the first type of the field that it fits."""
    kinds = kinds_of(field)
    if type(None) in kinds and (value is None or str(value).strip().lower() in _EMPTY):
        return None
    if kinds == [str] and value is None:
        value = ""
    if field.metadata["choices"]:
        return _choose(field, value)
    for kind in kinds:
        try:
            if get_origin(kind) is tuple:
                return _to_tuple(value, get_args(kind)[0])
            if get_origin(kind) is Literal:
                return get_args(kind)[get_args(kind).index(str(value).lower())]
            if kind is not type(None):
                return _CONVERSIONS[kind](value)
        except (ValueError, OverflowError):
            continue
    raise ValueError("")


def coerce(field: dataclasses.Field, value: Any, name: str, source: str) -> Any:
    """Return the value of a key in its type.

    Args:
        field: the field of ``Config``.
        value: what YAML or the command line gave.
        name: the name that the user wrote, an alias perhaps.
        source: where it was written (a file, or ``command line``), for messages.

    Raises:
        UserError: if the value has not the type, or is not one of the choices, or lies outside the limits.
    """
    where = f"{name}: {value!r} ({source})"
    convert = field.metadata["converted_aliases"].get(name, field.metadata["convert"])
    try:
        result = _convert(field, convert(value) if convert is not None and value is not None else value)
    except UserError as error:
        raise UserError(f"{where}: {error}.") from error
    except ValueError as error:
        raise UserError(f"{where} is not {describe_kind(field)}.{error}") from error
    if not _within_limits(field, result):
        raise UserError(f"{where} is not {describe_kind(field)}.")
    if isinstance(result, int) and abs(result) > LARGEST:
        raise UserError(f"{where} is beyond {LARGEST}, the largest whole number of any key.")
    if field.metadata["path"] and result:
        result = os.path.expanduser(os.path.expandvars(result))
        if "\0" in result or any(len(os.fsencode(part)) > 255 for part in result.split(os.sep)) or len(result) > 4000:
            raise UserError(f"{name} ({source}) is no path: '{result[:40]!a}...' is too long, or holds a zero byte.")
    return result
