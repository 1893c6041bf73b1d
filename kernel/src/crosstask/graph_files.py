"""Files of transfer graphs: plain data as text, written and read piece by piece, so that a graph of a million edges is
never there twice.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import attrs

from crosstask.errors import GraphError
from crosstask.options import unstructure

_NUMBER = "$number"  # no field is called so: {"$number": "nan"} stands for what JSON has no number for
_NOT_XML = re.compile("[^ -\\[\\]-~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_ENCODER = json.JSONEncoder(allow_nan=False)
_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}


def plain(value: Any) -> Any:
    """As `unstructure`, but numbers that are not finite can be read back (`numbers`)."""
    if attrs.has(type(value)):
        return {f.name: plain(getattr(value, f.name)) for f in attrs.fields(type(value)) if f.init}
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: repr(value)}
    if isinstance(value, Mapping):
        return {str(unstructure(key)): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return unstructure(value)


def numbers(value: Any) -> Any:
    """What `plain` made, with its numbers; everything else unchanged."""
    if isinstance(value, dict):
        if set(value) == {_NUMBER} and value[_NUMBER] in ("nan", "inf", "-inf"):
            return float(value[_NUMBER])
        return {key: numbers(item) for key, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def text(given: Any) -> str:
    """JSON. GraphError for the two halves of a surrogate pair as characters: JSON would make them one."""
    written = _ENCODER.encode(given)
    if "\\ud" in written:  # a character beyond the first plane, half of one, or a backslash
        for each in _strings(given):
            if _PAIR.search(each):
                told = "two surrogates in a row, which no file can tell from the character that they encode"
                raise GraphError(f"{each!r} cannot be written: it holds {told}")
    return written


def _strings(given: Any) -> Iterator[str]:
    if isinstance(given, str):
        yield given
    elif isinstance(given, dict):
        for key, item in given.items():
            yield key
            yield from _strings(item)
    elif isinstance(given, list):
        for item in given:
            yield from _strings(item)


def escaped(name: str) -> str:
    """For XML; different texts stay different."""
    return _NOT_XML.sub(lambda found: "\\\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", name)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """As a whole: while it is written, and if that fails, what was there before stays."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # others may write it at the same time
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def json_lines(schema: str, parts: Mapping[str, Iterable[Any]], whole: Mapping[str, Any]) -> Iterator[str]:
    """An object with the schema, lists of which each item has a line, and values as they are."""
    yield f'{{\n "schema": {_ENCODER.encode(schema)}'
    for name, items in parts.items():
        yield f',\n "{name}": ['
        before = "\n  "
        for item in items:
            yield before + text(item)
            before = ",\n  "
        yield "]" if before == "\n  " else "\n ]"
    for name, value in whole.items():
        yield f',\n "{name}": {text(value)}'
    yield "\n}\n"


def graphml_lines(
    nodes: Iterable[tuple[str, Mapping[str, Any]]],
    edges: Iterable[tuple[str, str, Mapping[str, Any]]],
    kinds: Mapping[str, Mapping[str, type]],
) -> Iterator[str]:
    """What `networkx.write_graphml` would write of nodes and edges with their attributes, without holding them.

    `kinds` are the types of all attributes that may occur, of `node` and `edge`. Ids and texts hold what XML can hold.
    """
    yield f'<?xml version="1.0" encoding="utf-8"?>\n<graphml xmlns="{_GRAPHML}">\n'
    opened: dict[str, dict[str, str]] = {}
    for scope, told in kinds.items():
        opened[scope] = {}
        for name, kind in told.items():
            key = f"d{sum(map(len, opened.values()))}"
            opened[scope][name] = f'<data key="{key}">'
            yield f'<key id="{key}" for="{scope}" attr.name={quoteattr(name)} attr.type="{_TYPES[kind]}"/>\n'
    yield '<graph edgedefault="directed">\n'
    for name, told in nodes:
        yield f"<node id={quoteattr(name)}>{_data(opened['node'], told)}</node>\n"
    for number, (source, target, told) in enumerate(edges):
        ends = f'source={quoteattr(source)} target={quoteattr(target)} id="{number}"'
        yield f"<edge {ends}>{_data(opened['edge'], told)}</edge>\n"
    yield "</graph>\n</graphml>\n"


def _data(opened: Mapping[str, str], told: Mapping[str, Any]) -> str:
    return "".join(
        [f"{opened[name]}{escape(value) if isinstance(value, str) else value}</data>" for name, value in told.items()]
    )


def read_graphml(path: Path, wanted: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """The nodes and edges of a file one after another: (`node` or `edge`, those of its `wanted` attributes it has)."""
    names: dict[str, str] = {}
    kept = {scope: frozenset(each) for scope, each in wanted.items()}
    whole = None
    # expat reads no entity from outside, and ends one that grows without bound
    for event, element in ElementTree.iterparse(path, events=("start", "end")):  # noqa: S314
        scope = element.tag.rpartition("}")[2]
        if event == "start":
            whole = element if scope == "graph" else whole
        elif scope == "key":
            names[element.attrib["id"]] = element.attrib["attr.name"]
        elif scope in kept:
            data = ((names[each.attrib["key"]], each.text or "") for each in element)
            yield scope, {name: value for name, value in data if name in kept[scope]}
            if whole is not None:
                whole.clear()
