"""Reading what strangers wrote: JSON without surprises, and the headers of safetensors files. Nothing is unpickled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from crosstask_bundles.errors import BundleError

MOST_DEPTH = 32
MOST_DIGITS = 18
MOST_HEADER = 100_000_000  # of a safetensors file, as in the library
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_HALF = re.compile("[\ud800-\udfff]")
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
         "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}  # fmt: skip


def read_json(data: bytes, what: str) -> Any:
    """JSON in UTF-8, of numbers that are finite and not huge, tables without a key twice, nested at most 32 deep, and
    text that is text. BundleError, which begins with `what`, for anything else.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{what} is not UTF-8 (byte {error.start})") from None
    depth = deepest = 0
    for found in _BRACKET.finditer(_TEXT.sub("", text)):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MOST_DEPTH:
        raise BundleError(f"{what} is nested {deepest} deep; {MOST_DEPTH} are allowed")

    def constant(name: str) -> NoReturn:
        raise BundleError(f"{what} holds the number {name}; numbers must be finite")

    def integer(digits: str) -> int:
        if len(digits) > MOST_DIGITS + 1:
            raise BundleError(f"{what} holds an integer of {len(digits)} digits; {MOST_DIGITS} are allowed")
        return int(digits)

    def real(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise BundleError(f"{what} holds the number {digits[:40]}, which is not finite")
        return number

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) < len(items):
            names = [name for name, _ in items]
            raise BundleError(
                f"{what} has {next(name for name in names if names.count(name) > 1)!r} twice in one table"
            )
        return made

    try:
        made = json.loads(text, parse_constant=constant, parse_int=integer, parse_float=real, object_pairs_hook=pairs)
    except ValueError as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{what} is not JSON: {error}") from None
    check_text(made, what)
    return made


def check_text(plain: Any, what: str) -> None:
    """BundleError for text with halves of surrogate pairs, which no file can hold as it is."""
    if isinstance(plain, str):
        if _HALF.search(plain):
            raise BundleError(f"{what} holds text that is none: {plain[:60]!r}")
    elif isinstance(plain, Mapping):
        for key, value in plain.items():
            check_text(key, what)
            check_text(value, what)
    elif isinstance(plain, list | tuple):
        for value in plain:
            check_text(value, what)


def check_safetensors(head: bytes, size: int, what: str) -> None:
    """That a file of `size` bytes that begins with `head` (its whole header at least) is one of safetensors: tensors of
    known kinds, side by side from the first byte after the header to the last of the file.
    """
    length = header_length(head, size, what)
    told = read_json(head[8 : 8 + length], f"{what}: the header")
    if not isinstance(told, dict):
        raise BundleError(f"{what}: the header is no table")
    notes = told.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise BundleError(f"{what}: the header's __metadata__ is no table of texts")
    for name in ("crosstask", "state"):  # what our own readers take for JSON
        if name in notes:
            read_json(notes[name].encode("utf-8"), f"{what}: {name} of the header")
    places = sorted((_place(name, tensor, what) for name, tensor in told.items()))
    end = 0
    for first, last, name in places:
        if first != end:
            raise BundleError(f"{what}: tensor {name!r} does not begin where the one before it ends")
        end = last
    if end != size - 8 - length:
        raise BundleError(f"{what}: its tensors have {end} bytes, the file has room for {size - 8 - length}")


def header_length(head: bytes, size: int, what: str) -> int:
    """The length of the header, from the first 8 bytes."""
    length = int.from_bytes(head[:8], "little")
    if size < 10 or length > min(MOST_HEADER, size - 8):
        raise BundleError(f"{what} is no safetensors file: its header would have {length} bytes, of {size} in all")
    return length


def _place(name: str, tensor: Any, what: str) -> tuple[int, int, str]:
    """(first byte, byte after the last, name) of a tensor whose shape and kind say the same length."""
    try:
        kind, shape, (first, last) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        whole = [first, last, *shape]
        if set(tensor) != {"dtype", "shape", "data_offsets"} or not all(type(n) is int and n >= 0 for n in whole):
            raise ValueError
        if _BITS[kind] * math.prod(shape) != 8 * (last - first):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise BundleError(f"{what}: the header tells nothing that can be of tensor {name!r}") from None
    return first, last, name
