"""Error messages for a recipe, or for another value that pydantic validates."""

import difflib
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

SHOWN_FAULTS = 20

# What is wanted in place of a value of another type, by pydantic's name of the fault
WORDS: Final = {
    "path_type": "write the path of a folder in quotes",
    "string_type": "write text in quotes",
    **dict.fromkeys(("dict_type", "model_type"), "write a table, which has keys of its own"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "write true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "write a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "write a number"),
    "tuple_type": "write a list",
    "invalid-json-value": "write a number, true, false, text in quotes, a list or a table",
}


def explained(error: ValidationError, known: Sequence[str], lists: str = "") -> str:
    """A line for each of `SHOWN_FAULTS` faults: key, value, what is allowed, nearest known key.

    Of a key that resembles none it names the command that `lists` all.
    """
    faults = _innermost(error.errors())
    lines = [f"  {_explain(fault, known, lists)}" for fault in faults[:SHOWN_FAULTS]]
    more = len(faults) - len(lines)
    return "\n".join([*lines, f"  and {more} more."] if more else lines)


def _innermost(faults: list[Any]) -> list[Any]:
    """Faults, without those of a list or table that follow from faults within it."""
    within = {fault["loc"][:end] for fault in faults for end in range(1, len(fault["loc"]))}
    return [fault for fault in faults if fault["loc"] not in within]


def shown(value: object) -> str:
    """An untrusted value for an error message: its repr, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _explain(fault: Any, known: Sequence[str], lists: str) -> str:
    key = shown(".".join(str(part) for part in fault["loc"]) or "recipe")[1:-1]
    if fault["type"] == "extra_forbidden":
        nearest = [other for other in known if other.endswith(f".{key}")]
        nearest += difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f" '{lists}' lists them." if lists else ""
        hint = f" Did you mean {nearest[0]}?" if nearest else hint
        return f"{key} is no key here.{hint}"
    if fault["type"] == "missing":
        return f"{key} is missing."
    allowed = fault["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    allowed = WORDS.get(fault["type"], allowed)
    if fault["type"] == "value_error" and not isinstance(fault["input"], (str, int, float)):
        return f"{key}: {allowed}." if fault["loc"] else f"{allowed}."
    return f"{key} = {shown(fault['input'])}: {allowed}."
