"""The manifest of a bundle: what is known of transfer, with where it comes from; and how one is made."""

from __future__ import annotations

import datetime
import hashlib
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors.torch import save
from torch import Tensor, nn

import crosstask
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, nearest, of_kind
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.model_files import save_model
from crosstask.options import option, record, structure, unstructure
from crosstask.points.distillation import Distilled
from crosstask.records import Curriculum, MetaKnowledge
from crosstask.showing import Shown
from crosstask_bundles.archive import check_name
from crosstask_bundles.errors import BundleError
from crosstask_bundles.strict import check_safetensors, check_text

SCHEMA = "crosstask/bundle/1"

MANIFEST, SUMS, SIGNATURE, LICENCE = "manifest.json", "SHA256SUMS", "manifest.json.sig", "LICENSE"
_OWN = {MANIFEST, SUMS, SIGNATURE}


@record
class Origin:
    """Where what is in a bundle was measured: the run, and what it ran on."""

    run_id: str = option("", help="of the run that measured it")
    name: str = option("", help="of that run, its recipe or portfolio")
    seed: int | None = option(None, help="of that run")
    started: str = option("", help="when it began, ISO 8601")
    made_by: str = option(f"crosstask {crosstask.__version__}", help="what wrote the bundle")


@record
class BundledTask:
    """A task as it was there. `content` (`Task.content`) says what its data are, whatever it is called; `fingerprint`
    (`Task.fingerprint`) that and all that its descriptor says. Both are None where the task had no data there, and
    nothing but a name says which it is.
    """

    descriptor: TaskDescriptor
    content: str | None = None
    fingerprint: str | None = None


@record
class BundledKnowledge:
    """Meta-knowledge, and the member that holds its tensors."""

    knowledge: MetaKnowledge
    member: str = ""


@record
class BundledWeights:
    """A member with weights: the model of a task, or an adapter under its name."""

    member: str
    task_id: str = ""
    name: str = ""


@record
class Member:
    """How long a member is, and its digest."""

    size: int = option(ge=0, help="in bytes")
    sha256: str = option(help="SHA-256 of its bytes, in hexadecimal")


@record
class TransferManifest(Shown):
    """All that a bundle says. Checked when it is made; `to_json` and `from_json` are the round trip.

    Tensors are members of the bundle beside it, named here with their digests: `payload` holds them where this was made
    by `create_transfer_manifest`, and is empty where it was read.
    """

    name: str = option("bundle", help="what it is called")
    licence: str = option("", help="under which it may be used, as an SPDX expression; empty: none is granted")
    created: str = option("", help="when, ISO 8601")
    origin: Origin = attrs.field(factory=Origin)
    tasks: tuple[BundledTask, ...] = ()
    edges: tuple[TransferEdge, ...] = ()
    knowledge: tuple[BundledKnowledge, ...] = ()
    curricula: tuple[Curriculum, ...] = ()
    weights: tuple[BundledWeights, ...] = ()
    adapters: tuple[BundledWeights, ...] = ()
    members: dict[str, Member] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if not self.name.strip():
            raise BundleError("the name of a bundle must not be empty")
        ids = [task.descriptor.task_id for task in self.tasks]
        if twice := _first_twice(ids):
            raise BundleError(f"task {twice!r} is in the bundle twice")
        seen = set()
        for number, edge in enumerate(self.edges):
            for end in (edge.source, edge.target):
                if end not in ids:
                    raise BundleError(f"edges[{number}]: no task {end!r} in the bundle{nearest(end, ids)}")
            key = (edge.source, edge.target, edge.evidence, edge.found_by)
            if key in seen:
                raise BundleError(f"edges[{number}]: {edge.source!r} -> {edge.target!r} by {edge.found_by!r} is twice")
            seen.add(key)
        self._check_members(ids)

    def _check_members(self, ids: list[str]) -> None:
        for name in self.members:
            if check_name(name) in _OWN:
                raise BundleError(f"members: {name!r} is the bundle's own")
        used = [each.member for each in (*self.weights, *self.adapters)]
        used += [each.member for each in self.knowledge if each.member]
        for name in used:
            if name not in self.members or name == LICENCE:
                raise BundleError(f"no member {name!r}{nearest(name, self.members)}")
        if unused := [name for name in self.members if name not in used and name != LICENCE]:
            raise BundleError(f"member {unused[0]!r} is nobody's")
        for each in self.weights:
            if each.task_id not in ids:
                raise BundleError(
                    f"weights of a task that is not in the bundle: {each.task_id!r}{nearest(each.task_id, ids)}"
                )
        for what, names in (("weights of task", [each.task_id for each in self.weights]),
                            ("adapter", [each.name for each in self.adapters])):  # fmt: skip
            if twice := _first_twice(names):
                raise BundleError(f"{what} {twice!r} is in the bundle twice")

    @property
    def payload(self) -> Mapping[str, bytes]:
        """The bytes of the members, where they are at hand."""
        found: Mapping[str, bytes] = self.__dict__.get("_payload", {})
        return found

    def with_payload(self, payload: Mapping[str, bytes]) -> TransferManifest:
        """The same with its members at hand."""
        made = attrs.evolve(self)
        made.__dict__["_payload"] = dict(payload)
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain data with a schema name; `from_json` reads it back."""
        return {"schema": SCHEMA, **unstructure(self)}

    @classmethod
    def from_json(cls, data: Any) -> TransferManifest:
        """Checked: BundleError says what is wrong, and where."""
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema != SCHEMA:
            raise BundleError(_other_schema(schema))
        plain = {name: value for name, value in data.items() if name != "schema"}
        try:
            made: TransferManifest = structure(plain, cls, "manifest")
        except BundleError:
            raise
        except CrosstaskError as error:
            raise BundleError(str(error)) from None
        return made

    def graph(self) -> TransferGraph:
        """Its tasks and edges as a graph."""
        graph = TransferGraph()
        for task in self.tasks:
            graph.add_task(task.descriptor, task.content)
        for edge in self.edges:
            graph.add(edge)
        return graph

    def evidence(self) -> dict[str, int]:
        """How many edges there are of each kind of evidence."""
        counts = {kind.value: sum(edge.evidence is kind for edge in self.edges) for kind in Evidence}
        return {kind: count for kind, count in counts.items() if count}

    def _rows(self) -> list[dict[str, Any]]:
        names = ("source", "target", "transfer_coefficient", "low", "high", "found_by", "origin")
        return [
            {**{name: getattr(edge, name) for name in names}, "evidence": edge.evidence.value} for edge in self.edges
        ]

    def _headline(self) -> str:
        return f"Bundle {self.name}: {len(self.tasks)} tasks, {len(self.edges)} edges"


def _other_schema(schema: object) -> str:
    prefix, _, number = str(schema).rpartition("/")
    ours, _, version = SCHEMA.rpartition("/")
    if prefix == ours and number.isascii() and number.isdigit() and len(number) < 10:
        how = "newer: upgrade crosstask-bundles" if int(number) > int(version) else "older: export it again"
        return f"a bundle of another schema, {schema!r}; this crosstask reads {SCHEMA!r}. It is {how}"
    return f"not a bundle's manifest: schema is {str(schema)[:60]!r}, expected {SCHEMA!r}"


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


Tensors = nn.Module | Mapping[str, Tensor] | Path


def create_transfer_manifest(
    transfer_edges: Iterable[TransferEdge] = (),
    meta_knowledge: Iterable[Distilled | MetaKnowledge] = (),
    *,
    tasks: Iterable[TaskDescriptor | BundledTask] = (),
    curricula: Iterable[Curriculum] = (),
    weights: Mapping[str, Tensors] | None = None,
    adapters: Mapping[str, Tensors] | None = None,
    name: str = "bundle",
    licence: str = "",
    licence_text: str = "",
    origin: Origin | None = None,
    created: str | None = None,
) -> TransferManifest:
    """A manifest of these parts, with the bytes of its tensors at hand: `write_bundle` makes it a file.

    `weights` are models by task id, `adapters` weights by a name of their own: modules, tensors by name, or paths of
    safetensors files. Tasks that only edges name get a descriptor that holds their id alone: say more with `tasks`, and
    with `BundledTask` how they are recognised. `created` is now. BundleError says what is wrong, or cannot be written.
    """
    found = structure(transfer_edges, tuple[Any, ...], "transfer_edges")
    edges = [of_kind(edge, TransferEdge, "each of transfer_edges") for edge in found]
    told = [t if isinstance(t, BundledTask) else BundledTask(descriptor=of_kind(t, TaskDescriptor, "each of tasks"))
            for t in structure(tasks, tuple[Any, ...], "tasks")]  # fmt: skip
    known = {task.descriptor.task_id for task in told}
    for end in [end for edge in edges for end in (edge.source, edge.target)] + list(weights or {}):
        if end not in known:
            known.add(end)
            told.append(BundledTask(descriptor=TaskDescriptor(task_id=end)))
    payload: dict[str, bytes] = {}

    def kept(member: str, value: Any, what: str) -> str:
        payload[member] = _packed(value, what)
        return member

    learned = []
    for number, each in enumerate(structure(meta_knowledge, tuple[Any, ...], "meta_knowledge")):
        tensors: Mapping[str, Tensor] = each.tensors if isinstance(each, Distilled) else {}
        own = each.knowledge if isinstance(each, Distilled) else of_kind(each, MetaKnowledge, "each of meta_knowledge")
        member = kept(f"knowledge/{number}.safetensors", tensors, f"meta_knowledge[{number}]") if tensors else ""
        learned.append(BundledKnowledge(knowledge=own, member=member))
    models = [
        BundledWeights(member=kept(f"weights/{n}.safetensors", value, f"weights[{key!r}]"), task_id=key)
        for n, (key, value) in enumerate((weights or {}).items())
    ]
    small = [
        BundledWeights(member=kept(f"adapters/{n}.safetensors", value, f"adapters[{key!r}]"), name=key)
        for n, (key, value) in enumerate((adapters or {}).items())
    ]
    if licence_text:
        payload[LICENCE] = licence_text.encode("utf-8")
    made = TransferManifest(
        name=name,
        licence=licence,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds") if created is None else created,
        origin=origin or Origin(),
        tasks=tuple(told),
        edges=tuple(edges),
        knowledge=tuple(learned),
        curricula=structure(curricula, tuple[Curriculum, ...], "curricula"),
        weights=tuple(models),
        adapters=tuple(small),
        members={name: Member(size=len(data), sha256=digest(data)) for name, data in payload.items()},
    )
    free = [each.knowledge.options for each in learned] + [each.knowledge.applicability_conditions for each in learned]
    for options in (*free, *(curriculum.options for curriculum in made.curricula)):
        _check_finite(options)  # JSON has no other numbers: they would become null
    plain = made.to_json()
    check_text(plain, "the manifest")
    try:
        return TransferManifest.from_json(plain).with_payload(payload)
    except BundleError as error:
        raise BundleError(f"this cannot be written as JSON and read again: {error}") from None


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BundleError(f"an option is {value}, which cannot be written as JSON")
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_finite(item)


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _packed(value: Any, what: str) -> bytes:
    """Weights as the bytes of a safetensors file."""
    if isinstance(value, nn.Module):
        with tempfile.TemporaryDirectory() as folder:
            return save_model(value, Path(folder) / "model.safetensors").read_bytes()
    if isinstance(value, Mapping):
        if not value or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in value.items()):
            raise BundleError(f"{what}: weights are tensors by name, at least one")
        return save({n: t.detach().cpu().contiguous().clone() for n, t in value.items()})
    if isinstance(value, str | Path):
        try:
            data = Path(value).read_bytes()
        except OSError as error:
            raise BundleError(f"{what}: {value} cannot be read: {error.strerror or error}") from None
        check_safetensors(data, len(data), what)
        return data
    raise BundleError(f"{what}: weights are a module, tensors by name or a path, got a {type(value).__name__}")
