"""Files of transfer graphs: plain data as text, written and read piece by piece, so that a graph of a million edges is
never there twice.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import attrs

from crosstask.errors import GraphError
from crosstask.options import unstructure
from crosstask.writing import atomic

_NUMBER = "$number"  # no field is called so: {"$number": "nan"} stands for what JSON has no number for
_NOT_XML = re.compile("[^ -\\[\\]-~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_ENCODER = json.JSONEncoder(allow_nan=False)
_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_GEXF = "http://www.gexf.net/1.2draft"
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
    """As a whole: while it is written, and if that fails, what was there before stays. GraphError then."""
    with atomic(path, "graph", kind=GraphError) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def json_lines(schema: str, parts: Mapping[str, Iterable[Any]], whole: Mapping[str, Any]) -> Iterator[str]:
    """An object with the schema, lists of which each item has a line, and values as they are."""
    yield _begin(schema)
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


def _begin(schema: str) -> str:
    return f'{{\n "schema": {_ENCODER.encode(schema)}'


def json_pieces(path: Path, schema: str, lists: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """What `json_lines` wrote, one piece after another: (name of the list, item) or (name, whole value). ValueError as
    soon as a line is not as it writes them, or a name comes again (in JSON the last one counts): the file may be right
    all the same, but has to be read as a whole.
    """
    wanted, known, otherwise = set(lists), {"schema"}, ValueError(f"{path}: laid out otherwise")
    with path.open(encoding="utf-8") as file:
        if file.read(len(begin := _begin(schema))) != begin or file.readline() != ",\n":
            raise otherwise
        name, due = "", "name"  # or an item, the end of a list, the end of the file, nothing
        for line in file:
            told = line.removesuffix("\n")
            more, told = told.endswith(","), told.removesuffix(",")
            key, _, value = told.partition(": ")
            if due == "item" and told.startswith("  "):
                yield name, json.loads(told)
                due = "item" if more else "]"
            elif due == "name" and told.startswith(' "'):
                name = json.loads(key)
                if name in known or (name in wanted) != (value in ("[", "[]")) or (value == "[" and more):
                    raise otherwise
                known.add(name)
                due = "name" if more else "item" if value == "[" else "}"
                if name not in wanted:
                    yield name, json.loads(value)
            elif due == "]" and told == " ]":
                due = "name" if more else "}"
            elif due == "}" and line == "}\n":
                due = ""
            else:
                raise otherwise
    if due or wanted - known:
        raise otherwise


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


def gexf_lines(
    nodes: Iterable[tuple[str, Mapping[str, Any]]],
    edges: Iterable[tuple[str, str, Mapping[str, Any]]],
    kinds: Mapping[str, Mapping[str, type]],
) -> Iterator[str]:
    """What `networkx.write_gexf` would write, in version 1.2draft, likewise: `label` of a node and `weight` of an edge
    are told where the format has them, the number of an edge is its key, too.
    """
    schema = f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="{_GEXF} {_GEXF}/gexf.xsd"'
    yield f'<?xml version="1.0" encoding="utf-8"?>\n<gexf xmlns="{_GEXF}" {schema} version="1.2">\n'
    yield "<meta><creator>crosstask</creator></meta>\n"
    yield '<graph defaultedgetype="directed" mode="static">\n'
    opened: dict[str, dict[str, str]] = {}
    for scope, own in (("node", "label"), ("edge", "weight")):
        opened[scope] = {}
        yield f'<attributes class="{scope}" mode="static">\n'
        for name, kind in {**kinds[scope], **({"networkx_key": int} if scope == "edge" else {})}.items():
            if name != own:
                key = str(sum(map(len, opened.values())))
                opened[scope][name] = f'<attvalue for="{key}" value='
                yield f'<attribute id="{key}" title={quoteattr(name)} type="{_TYPES[kind]}"/>\n'
        yield "</attributes>\n"
    yield "<nodes>\n"
    for name, told in nodes:
        yield f"<node id={quoteattr(name)} label={quoteattr(told['label'])}>{_values(opened['node'], told)}</node>\n"
    yield "</nodes>\n<edges>\n"
    key = opened["edge"]["networkx_key"]
    for number, (source, target, told) in enumerate(edges):
        ends = f'source={quoteattr(source)} target={quoteattr(target)} id="{number}" weight="{told["weight"]}"'
        also = f'{key}"{number}"/>'
        yield f"<edge {ends}>{_values(opened['edge'], told, also)}</edge>\n"
    yield "</edges>\n</graph>\n</gexf>\n"


def _values(opened: Mapping[str, str], told: Mapping[str, Any], also: str = "") -> str:
    made = [
        f"{opened[name]}{quoteattr(value) if isinstance(value, str) else _quoted(value)}/>"
        for name, value in told.items()
        if name in opened
    ]
    return f"<attvalues>{''.join(made)}{also}</attvalues>"


def _quoted(value: Any) -> str:
    return f'"{str(value).lower() if isinstance(value, bool) else value}"'


def read_xml(path: Path, wanted: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """The nodes and edges of a file, GraphML or GEXF, one after another: (`node` or `edge`, those of its `wanted`
    attributes it has).
    """
    names: dict[str, dict[str, str]] = {scope: {} for scope in wanted}  # of what is wanted, by the file's own keys
    whose, holders = "", list[Any]()

    def known(scopes: str | None, key: str, name: str) -> None:
        for scope in wanted if scopes in (None, "", "all") else {str(scopes)} & set(wanted):
            if name in wanted[scope]:
                names[scope][key] = name

    # expat reads no entity from outside, and ends one that grows without bound
    for event, element in ElementTree.iterparse(path, events=("start", "end")):  # noqa: S314
        what = element.tag.rpartition("}")[2]
        if event == "start":
            if what == "attributes":
                whose = element.attrib["class"]
            elif what in ("graph", "nodes", "edges"):
                holders.append(element)
        elif what in names:
            yield what, _told(element, names[what])
            holders[-1].clear()
        elif what == "key":
            known(element.get("for"), element.attrib["id"], element.attrib["attr.name"])
        elif what == "attribute":
            known(whose, element.attrib["id"], element.attrib["title"])
        elif holders and element is holders[-1]:
            holders.pop()


def _told(element: Any, names: Mapping[str, str]) -> dict[str, str]:
    """The attributes of a node or an edge that have a name: `data` of GraphML, `attvalues` of GEXF."""
    found = {}
    for each in element:
        if (name := names.get(each.get("key"))) is not None:
            found[name] = each.text or ""
        for inner in each:
            if (name := names.get(inner.get("for"))) is not None:
                found[name] = inner.attrib["value"]
    return found
