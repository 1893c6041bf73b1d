"""One model in one safetensors file, with what is needed to rebuild it. Nothing is unpickled, and no code of a file's
choosing runs.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, StoreError, of_kind
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Head, head_found, head_of, know, origin_of, replace_head, without_values
from crosstask.options import structure, unstructure
from crosstask.writing import atomic

FORMAT = 1


def save_model(model: nn.Module, path: str | Path) -> Path:
    """Write a model's weights and how it is made: as a `ModelSpec` says, as a class of transformers from its config, by
    the factory that was given with it, or (where none of these is known) by a constructor that its owner must call.
    """
    target = Path(structure(path, Path, "where a model is written"))
    of_kind(model, nn.Module, "what is written as a model")
    if reason := without_values(model, lazy=False):
        raise DataError(f"{target}: {reason}")
    how = how_made(model)
    extra = {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}
    if extra:
        try:
            how["extra"] = json.loads(json.dumps(extra))
        except (TypeError, ValueError):
            name = next(iter(extra))
            raise StoreError(f"{target}: {name!r} (get_extra_state) is no plain data: it cannot be written") from None
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    with atomic(target, "model", needed=sum(tensor.nbytes for tensor in tensors.values())) as part:
        save_file(tensors, part, metadata={"crosstask": json.dumps({"format": FORMAT, **how})})
    return target


def load_model(path: str | Path, *, into: nn.Module | None = None, trust: bool = False) -> nn.Module:
    """What `save_model` wrote, as a module of its own class.

    `into` is a fresh module of the architecture, whose head may have another size; without one it is made as the file
    says. A factory or class outside torch, transformers and crosstask is imported only with `trust`, and a class called
    only where its constructor takes nothing: what it was made with is not in the file. StoreError if the file cannot be
    read or is no model, DataError if the module cannot be made or its weights do not fit.
    """
    path = Path(structure(path, Path, "where a model is read from"))
    if into is not None:
        of_kind(into, nn.Module, "into")
    told, tensors = _read(path)
    model = into if into is not None else _made(told, tensors, path, trust)
    if reason := without_values(model):
        raise DataError(f"{path}: {reason}")
    _with_its_head(model, told, tensors, path)
    own = model.state_dict()
    missing = [name for name, value in own.items() if isinstance(value, Tensor) and name not in tensors]
    other = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
    if missing or other:
        raise DataError(f"{path}: the weights are not those of this {type(model).__name__} ({(missing + other)[0]!r})")
    extra = told.get("extra")
    try:
        model.load_state_dict({**tensors, **(extra if isinstance(extra, dict) else {})}, strict=False)
    except Exception as error:  # of the module's own class
        raise DataError(f"{path}: {type(model).__name__} cannot take its weights: {error}") from error
    return model.eval()


def how_made(model: nn.Module) -> dict[str, Any]:
    """How a model is made, and where its head is, as plain data; `made_again` follows it."""
    origin = origin_of(model)
    told: dict[str, Any] = {"class": f"{type(model).__module__}:{type(model).__qualname__}", "outputs": _outputs(model)}
    try:
        head = head_found(model)
        told["head"] = head.module if head.module is not None else [list(each) for each in head.weights]
    except DataError:
        told["head"] = None
    config: Any = getattr(model, "config", None)
    if origin.made is not None:
        told["made"] = unstructure(origin.made)
    elif type(model).__module__.startswith("transformers.") and hasattr(config, "to_dict"):
        told["transformers"] = json.loads(json.dumps(config.to_dict(), default=str))
    elif origin.build is not None and "<" not in getattr(origin.build, "__qualname__", "<"):
        told["factory"] = f"{origin.build.__module__}:{origin.build.__qualname__}"
    if origin.into:
        told["into"] = origin.into
    return told


def needs_its_owner(model: nn.Module) -> bool:
    """Whether what `how_made` tells of a model is not enough to make one: its class stands in a function, or its
    constructor takes arguments, and no specification, config or factory is known.
    """
    told, kind = how_made(model), type(model)
    if told.keys() & {"made", "transformers", "factory"}:
        return False
    return "<" in kind.__qualname__ or bool(inspect.signature(kind).parameters)


def made_again(told: dict[str, Any], where: str) -> nn.Module:
    """A fresh module, made and with a head as `how_made` told. Code that it names is run. DataError, which begins with
    `where`, if it cannot be made.
    """
    model = _made(told, None, where, True)
    _with_its_head(model, told, None, where)
    return model


def _with_its_head(
    model: nn.Module, told: dict[str, Any], tensors: dict[str, Tensor] | None, where: str | Path
) -> None:
    """Keep on a model where its head is, and give it one of as many outputs as are told."""
    head, outputs = told.get("head"), told.get("outputs")
    if origin_of(model).head is None:
        if isinstance(head, str) and head in dict(model.named_modules()):
            know(model, head=Head(head))
        elif isinstance(head, list) and head:
            weights = structure(head, tuple[tuple[str, int], ...], f"{where}: head")
            shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
            if all(name in shapes and 0 <= dim < len(shapes[name]) for name, dim in weights):
                know(model, head=Head(None, weights))
    if type(outputs) is int and _outputs(model) not in (None, outputs):
        if tensors is not None and not any(outputs in tensor.shape for tensor in tensors.values()):
            raise DataError(f"{where}: a head of {outputs} outputs is told, no tensor of the file has that size")
        replace_head(model, outputs, 0)  # the model was given another head after it was made


def _outputs(model: nn.Module) -> int | None:
    """How many outputs the head of a model has, where it is a single layer or parameters."""
    try:
        found = head_found(model)
        if found.module is None:
            shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
            return next((int(shapes[name][dim]) for name, dim in found.weights if len(shapes[name]) > 1), None)
        head = head_of(model)
    except DataError:
        return None
    size = getattr(head, "out_features", None) or getattr(head, "out_channels", None) or getattr(head, "nf", None)
    return int(size) if isinstance(size, int) else None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("crosstask")
            if text is None:
                raise StoreError(f"{path} is a safetensors file, but no model that crosstask wrote")
            told = json.loads(text)
            if not isinstance(told, dict) or told.get("format") != FORMAT:
                raise StoreError(f"{path}: a model of another format; this crosstask reads {FORMAT}")
            return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read model {path}: {error}") from None


def _made(told: dict[str, Any], tensors: dict[str, Tensor] | None, path: str | Path, trust: bool) -> nn.Module:
    if "made" in told:
        made = told["made"]
        try:
            spec = structure(made["spec"], ModelSpec, "model")
            if ":" in spec.kind and not trust:
                raise DataError(f"{path}: made by {spec.kind}, whose code is imported only with trust=True")
            descriptor = TaskDescriptor.from_json(made["descriptor"])
            if ":" not in spec.kind and tensors is not None:
                return _of_spec(spec, descriptor, tensors, path)
            built: nn.Module = spec.build(descriptor, 0)
            return built
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path}: how its model is made cannot be read: {error}") from None
    if "transformers" in told:
        return _of_transformers(told, tensors, path)
    where = told.get("factory") or told.get("class")
    like = told["into"] if isinstance(told.get("into"), str) else f"{str(where).rpartition(':')[2]}(…)"
    into = f"give a fresh module, made as the saved one was, with into={like}"
    if not trust:
        raise DataError(f"{path}: made by {where}, whose code is imported only with trust=True; or {into}")
    module, _, name = str(where).partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if isinstance(found, type) and inspect.signature(found).parameters:
            raise TypeError("its constructor takes arguments, which are not in the file")
        model = found()
    except Exception as error:  # foreign code
        raise DataError(f"{path}: {where} cannot make its model ({error}): {into}") from None
    if not isinstance(model, nn.Module):
        raise DataError(f"{path}: {where} returned a {type(model).__name__}, not a torch module")
    return model


def _of_spec(spec: ModelSpec, told: TaskDescriptor, tensors: dict[str, Tensor], path: str | Path) -> nn.Module:
    """The network of a specification, once its shapes are known to be those of the file: a damaged file must not ask
    for memory that its tensors do not fill.
    """
    head = tensors.get("head.weight")
    if head is None or head.ndim != 2:
        raise DataError(f"{path}: the weights are not those of a {spec.kind}: it has no 'head.weight'")
    outputs = attrs.evolve(told, output_dim=len(head), classes=())
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in spec.build(outputs, 0).state_dict().items()}
    for name in (*shapes, *tensors):
        if name not in shapes or name not in tensors or shapes[name] != tensors[name].shape:
            raise DataError(f"{path}: the weights are not those of the {spec.kind} that it tells of ({name!r})")
    model = spec.build(outputs, 0)
    know(model, made={"spec": unstructure(spec), "descriptor": told.to_json()})
    return model


def _of_transformers(told: dict[str, Any], tensors: dict[str, Tensor] | None, path: str | Path) -> nn.Module:
    try:
        import transformers  # deferred: only its own models need it
    except ImportError:
        raise DataError(f"{path}: a model of transformers, which is not installed: pip install transformers") from None
    name = str(told.get("class", "")).rpartition(":")[2]
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise DataError(f"{path}: the installed transformers has no model {name!r}")
    config = told["transformers"]
    try:
        made = kind.config_class.from_dict(config)  # type: ignore[union-attr]
        with torch.device("meta"):
            asked = sum(p.numel() for p in kind._from_config(made).parameters())  # type: ignore[no-untyped-call]
    except Exception:  # some classes look at values when they are made
        asked = 0
    held = asked if tensors is None else sum(tensor.numel() for tensor in tensors.values())
    if asked > 2 * held + 10_000_000:  # a head that was replaced may be smaller
        raise DataError(f"{path}: its config asks for {asked} numbers, the file holds {held}")
    try:
        made = kind.config_class.from_dict(config)  # type: ignore[union-attr]
        return kind._from_config(made)  # type: ignore[no-any-return, no-untyped-call]
    except Exception as error:  # a config of another version
        raise DataError(f"{path}: transformers cannot make {name} from its config: {error}") from None
