"""A frozen model with adapters of any plugin on it, by name: switched, merged, mixed in a batch, saved and loaded."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstask.context import Context, LocalContext
from crosstask.errors import DataError, OptionError, StoreError, nearest
from crosstask.learning.adapted_layers import (
    LayerAdapter,
    LayersHandle,
    NotPerSampleError,
    base_modules,
    base_state,
    match_targets,
)
from crosstask.options import option, options_of, record, structure
from crosstask.points.adapter import Adapter, AdapterHandle

FORMAT = 1


@record
class AdapterConfig:
    """Which adapter, how large, and where. What is None is the adapter's own default."""

    adapter_type: str = option("lora", help="component of point `adapter`")
    input_dim: int | None = option(None, ge=1, help="adapt only layers that take this many features or channels")
    hidden_dim: int | None = option(None, ge=1, help="width of adapters that have one")
    lora_r: int | None = option(None, ge=1, help="rank of low-rank adapters")
    lora_alpha: float | None = option(None, gt=0, help="strength of low-rank adapters")
    target_modules: tuple[str, ...] = option(
        (), help="modules to adapt: names, their ends, patterns; `!name`: not this"
    )
    modules_to_save: tuple[str, ...] = option((), help="modules, such as a head, of which the adapter has its own copy")
    options: dict[str, Any] = option(factory=dict, help="the component's other options")

    def component_options(self) -> dict[str, Any]:
        """The options of the component that these fields mean."""
        named = {"hidden_dim": self.hidden_dim, "r": self.lora_r, "alpha": self.lora_alpha}
        return dict(self.options) | {name: value for name, value in named.items() if value is not None}


class OwnWeights(LayerAdapter):
    """An adapter that replaces a layer's parameters by its own copies: for heads, which each adapter has its own of."""

    weight_space = True
    replaces = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.own = nn.ParameterDict(
            {name: nn.Parameter(p.detach().clone()) for name, p in layer._parameters.items() if p is not None}
        )

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return cast(Tensor, self.own.get(name, value))

    def around(self, layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        own = {name: self.own.get(name) for name in layer._parameters}
        return layer._direct(layer, own, *args, **kwargs)


@attrs.define
class _Entry:
    config: AdapterConfig
    handle: AdapterHandle
    saved: LayersHandle | None
    """The adapter's own heads."""
    enabled: bool = True
    merged: bool = False

    def enable(self, on: bool) -> None:
        for handle in self.handles:
            if on:
                handle.enable()
            else:
                handle.disable()
        self.enabled, self.merged = on, self.merged and on

    @property
    def handles(self) -> list[AdapterHandle]:
        return [self.handle] if self.saved is None else [self.handle, self.saved]


class AdapterModel(nn.Module):
    """`base`, frozen, with adapters on it.

    `configs`: one `AdapterConfig` (named by its type), or several by name. All are enabled at first, and act together
    in their order. `context` finds components and seeds what they draw: each adapter by its name.
    """

    def __init__(
        self,
        base: nn.Module,
        configs: AdapterConfig | Mapping[str, AdapterConfig] = {},  # noqa: B006 (never written)
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self._context = context or LocalContext()
        self._entries: dict[str, _Entry] = {}
        for name, config in (
            {configs.adapter_type: configs} if isinstance(configs, AdapterConfig) else configs
        ).items():
            self.add_adapter(name, config)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or a model sent to another process, leaves the run behind."""
        return self.__dict__ | {"_context": LocalContext(self._context.seed)}

    # --- which adapters there are

    @property
    def adapters(self) -> dict[str, AdapterConfig]:
        """The adapters by name, in the order in which they act."""
        return {name: entry.config for name, entry in self._entries.items()}

    def add_adapter(self, name: str, config: AdapterConfig) -> None:
        """Put another adapter on, enabled. DataError for a name that is taken or cannot be a file's."""
        self._check_name(name)
        component = cast(Adapter, self._context.component("adapter", config.adapter_type, config.component_options()))
        targets = [*config.target_modules, *(f"!{module}" for module in config.modules_to_save)]
        if config.input_dim is not None:
            modules = base_modules(self.base)
            targets += [f"!{n}" for n, m in modules if n and (w := _width(m)) is not None and w != config.input_dim]
        generator = self._context.generator("adapter", name)
        handle: AdapterHandle = self._context.call(
            component, "attach", model=self.base, targets=targets, generator=generator
        )
        self._take(name, config, handle)

    def _check_name(self, name: str) -> None:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise DataError(f"an adapter cannot be called {name!r}: letters, digits, '_', '-' and '.' only")
        if name in self._entries:
            raise DataError(f"there is an adapter {name!r} already")

    def _take(self, name: str, config: AdapterConfig, handle: AdapterHandle) -> None:
        saved = None
        if config.modules_to_save:

            def holds(_: str, module: nn.Module) -> bool:
                return any(p is not None for p in module._parameters.values())

            try:
                layers = match_targets(self.base, config.modules_to_save, holds, "layers with weights")
            except DataError:
                handle.detach()
                raise
            saved = LayersHandle(self.base, {n: OwnWeights(self.base.get_submodule(n)) for n in layers})
        self._entries[name] = _Entry(config, handle, saved)

    def remove_adapter(self, name: str) -> None:
        """Take an adapter off."""
        for handle in self._entry(name).handles:
            handle.detach()
        del self._entries[name]

    def handle(self, name: str) -> AdapterHandle:
        """What an adapter's component gave."""
        return self._entry(name).handle

    def saved(self, name: str) -> LayersHandle | None:
        """The adapter's own copies of its `modules_to_save`, if any."""
        return self._entry(name).saved

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise DataError(f"no adapter {name!r}{nearest(name, self._entries)}")
        return self._entries[name]

    def _chosen(self, names: Sequence[str]) -> list[_Entry]:
        return [self._entry(name) for name in names] if names else list(self._entries.values())

    # --- training

    def adapter_parameters(self, *names: str) -> list[nn.Parameter]:
        """What training these adapters (default: all) trains, their own heads included."""
        return [p for entry in self._chosen(names) for handle in entry.handles for p in handle.parameters()]

    def check_gradients(self, *names: str) -> None:
        """After a backward pass: DataError naming each part of these adapters (default: all) that got no gradient."""
        for name in names or self._entries:
            silent = [part for handle in self._entry(name).handles for part in handle.without_gradient()]
            if silent:
                shown = ", ".join(silent[:4]) + (", …" if len(silent) > 4 else "")
                raise DataError(
                    f"adapter {name!r} gets no gradient at {shown}: it is disabled or merged, the forward pass does "
                    "not go through it, or the loss does not depend on it"
                )

    # --- switching

    def enable_adapters(self, *names: str) -> None:
        """These take part in the forward pass, besides those that do already (default: all)."""
        for entry in self._chosen(names):
            entry.enable(True)

    def disable_adapters(self, *names: str) -> None:
        """These take no part (default: none does, and the model answers exactly as the base)."""
        for entry in self._chosen(names):
            entry.enable(False)

    def use(self, *names: str) -> None:
        """These take part, and no other; none at all without names."""
        wanted = [self._entry(name) for name in names]
        for entry in self._entries.values():
            if entry.enabled != (on := any(entry is each for each in wanted)):
                entry.enable(on)

    def merge(self, *names: str) -> None:
        """Fold these adapters (default: all) into the weights. DataError, and nothing merged, if one cannot be."""
        chosen = [entry for entry in self._chosen(names) if not entry.merged]
        try:
            for handle in (*(e.saved for e in chosen if e.saved is not None), *(e.handle for e in chosen)):
                handle.merge()
        except DataError:
            self._undo(chosen)
            raise
        for entry in chosen:
            entry.merged = entry.enabled = True

    def unmerge(self, *names: str) -> None:
        """Undo `merge` for these adapters (default: all). With none merged, the weights are bit for bit the base's."""
        self._undo(self._chosen(names))

    def _undo(self, entries: list[_Entry]) -> None:
        for entry in reversed(entries):
            for handle in reversed(entry.handles):
                handle.unmerge()
            entry.merged = False

    # --- answering

    def forward(self, *args: Any, adapters: Sequence[str | None] | None = None, **kwargs: Any) -> Any:
        """The base's answer with the enabled adapters; or with `adapters`, one name (or None) per sample, sample i of
        the batch with that one alone. The first dimension of the arguments is then the sample.

        Adapters of one kind answer such a batch in one pass; others need one pass for each.
        """
        if adapters is None:
            return self.base(*args, **kwargs)
        names = list(dict.fromkeys(name for name in adapters if name is not None))
        entries = [self._entry(name) for name in names]
        if merged := [name for name, entry in self._entries.items() if entry.merged]:
            raise DataError(f"adapters cannot be chosen by sample while {merged[0]!r} is merged into the weights")
        count = len(next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), ()))
        if count != len(adapters):
            raise DataError(f"{len(adapters)} names of adapters for {count} samples")
        where = {name: number for number, name in enumerate(names)} | {None: -1}
        choice = torch.tensor([where[name] for name in adapters])
        device = next((p.device for p in self.base.parameters()), None)
        with contextlib.ExitStack() as stack:
            if entries and all(stack.enter_context(c) is None for c in self._mixers(entries, choice.to(device))):
                with contextlib.suppress(NotPerSampleError):
                    return self.base(*args, **kwargs)
        return self._apart(entries, choice, args, kwargs)

    def _mixers(self, entries: list[_Entry], choice: Tensor) -> list[contextlib.AbstractContextManager[Any]]:
        """The contexts in which the base answers a mixed batch at once; one that answers False if it cannot."""
        groups: list[Sequence[AdapterHandle]] = [
            [entry.handle for entry in entries],
            [e.saved for e in entries if e.saved is not None],
        ]
        index = [list(range(len(entries))), [k for k, e in enumerate(entries) if e.saved is not None]]
        made: list[contextlib.AbstractContextManager[Any]] = []
        for handles, which in zip(groups, index, strict=True):
            if not handles:
                continue
            if which != list(range(len(entries))):  # some have heads of their own, some do not
                return [contextlib.nullcontext(False)]
            mixer = handles[0].mix(handles, choice)
            if mixer is None:
                return [contextlib.nullcontext(False)]
            made.append(mixer)
        return made

    def _apart(self, entries: list[_Entry], choice: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The samples of each adapter in a pass of their own."""
        rows, answers = [], []
        for k in sorted(set(choice.tolist())):
            mine = (choice == k).nonzero().squeeze(1)

            def part(value: Any, mine: Tensor = mine) -> Any:
                chosen = isinstance(value, Tensor) and value.dim() and len(value) == len(choice)
                return value[mine.to(value.device)] if chosen else value

            with self._only(entries[k] if k >= 0 else None):
                answers.append(self.base(*map(part, args), **{name: part(v) for name, v in kwargs.items()}))
            rows.append(mine)
        order = torch.argsort(torch.cat(rows))
        return _joined(answers, order)

    @contextlib.contextmanager
    def _only(self, entry: _Entry | None) -> Iterator[None]:
        """Inside, this adapter acts alone."""
        before = [(each, each.enabled) for each in self._entries.values()]
        try:
            for each, _ in before:
                each.enable(each is entry)
            yield
        finally:
            for each, enabled in before:
                each.enable(enabled)

    # --- files

    def save(self, folder: str | Path, *names: str) -> None:
        """Write these adapters (default: all), nothing of the base: `adapters.json`, and `<name>.safetensors` for each.

        The base is recorded by digests, so that `load` refuses another.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        chosen = {name: self._entry(name) for name in names or self._entries}
        told: dict[str, Any] = {"format": FORMAT, "base": base_digests(self.base), "adapters": {}}
        for name, entry in chosen.items():
            _write(target / f"{name}.safetensors", functools.partial(save_file, _state(entry)))
            told["adapters"][name] = {"config": options_of(entry.config), "enabled": entry.enabled}
        text = json.dumps(told, indent=1) + "\n"
        _write(target / "adapters.json", lambda path: path.write_text(text, "utf-8"))

    @classmethod
    def load(
        cls, base: nn.Module, folder: str | Path, context: Context | None = None, *, any_base: bool = False
    ) -> AdapterModel:
        """Put the adapters that `save` wrote on `base`. DataError if they were made for another base (unless
        `any_base`: then only names and shapes must fit), StoreError if the files cannot be read.
        """
        source = Path(folder)
        try:
            told = json.loads((source / "adapters.json").read_text("utf-8"))
            if told["format"] != FORMAT:
                raise StoreError(f"{source}: format {told['format']!r}, this version reads {FORMAT}")
            configs = {
                name: structure(saved["config"], AdapterConfig, f"{source}: adapter {name!r}")
                for name, saved in told["adapters"].items()
            }
            enabled = [name for name, saved in told["adapters"].items() if saved["enabled"]]
            made_for = {key: str(told["base"][key]) for key in ("shapes", "weights")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, OptionError):
                raise
            raise StoreError(f"cannot read adapters from {source}: {type(error).__name__}: {error}") from None
        if not any_base:
            check_base(base, made_for, str(source))
        model = cls(base, {}, context)
        try:
            for name, config in configs.items():
                model.add_adapter(name, config)
                model._load(name, source / f"{name}.safetensors")
            model.use(*enabled)
        except Exception:
            for name in list(model._entries):
                model.remove_adapter(name)
            raise
        return model

    def _load(self, name: str, path: Path) -> None:
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"cannot read adapter {name!r} from {path}: {error}") from None
        entry = self._entry(name)
        parts: dict[str, dict[str, Tensor]] = {"adapter": {}, "saved": {}}
        for key, tensor in tensors.items():
            part, _, rest = key.partition(":")
            if part not in parts or (part == "saved" and entry.saved is None):
                raise DataError(f"{path}: key {key!r} belongs to no adapter that {name!r} describes")
            parts[part][rest] = tensor
        try:
            entry.handle.load_state(parts["adapter"])
            if entry.saved is not None:
                entry.saved.load_state(parts["saved"])
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def base_digests(base: nn.Module) -> dict[str, str]:
    """Identity of a model without its adapters: of its names and shapes, and of its weights."""
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    for name, tensor in base_state(base).items():
        shapes.update(f"{name}{tuple(tensor.shape)}".encode())
        weights.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        plain = tensor.cpu().contiguous().reshape(-1)
        weights.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return {"shapes": shapes.hexdigest(), "weights": weights.hexdigest()}


def check_base(base: nn.Module, made_for: Mapping[str, str], where: str) -> None:
    """DataError if the digests are those of another model than `base`."""
    found = base_digests(base)
    if found["shapes"] != made_for["shapes"]:
        raise DataError(f"{where}: made for another base: the names or shapes of its weights are not those of this one")
    if found["weights"] != made_for["weights"]:
        raise DataError(
            f"{where}: made for another base: it has the same layers but other weights (or another dtype) than this one"
        )


def _width(module: nn.Module) -> int | None:
    names = ("in_features", "in_channels", "embed_dim", "num_features")
    found = next((getattr(module, name) for name in names if hasattr(module, name)), None)
    return found if isinstance(found, int) else None


def _state(entry: _Entry) -> dict[str, Tensor]:
    found = {f"adapter:{name}": tensor for name, tensor in entry.handle.state().items()}
    if entry.saved is not None:
        found |= {f"saved:{name}": tensor for name, tensor in entry.saved.state().items()}
    return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}


def _joined(answers: list[Any], order: Tensor) -> Any:
    first = answers[0]
    if isinstance(first, Tensor):
        return torch.cat(answers)[order.to(first.device)]
    if isinstance(first, Mapping):
        made: Any = copy.copy(first)
        for key in first:
            made[key] = _joined([answer[key] for answer in answers], order)
        return made
    if isinstance(first, tuple | list):
        return type(first)(_joined(list(parts), order) for parts in zip(*answers, strict=True))
    raise DataError(f"adapters chosen by sample need answers made of tensors, got a {type(first).__name__}")


def _write(target: Path, write: Callable[[Path], object]) -> None:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
