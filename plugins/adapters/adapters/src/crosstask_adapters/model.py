"""A frozen model with adapters of any plugin on it, by name: switched, merged, mixed in a batch, saved and loaded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, nearest
from crosstask.manifest import DEFAULT
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask_adapters.attached import Attached
from crosstask_adapters.base_weights import base_digests, base_modules, check_base
from crosstask_adapters.by_sample import answer_by_sample
from crosstask_adapters.config import AdapterConfig, AdapterType, component_name
from crosstask_adapters.files import Index, read_index, read_state, write_adapters
from crosstask_adapters.handle import LayersHandle
from crosstask_adapters.layer_adapter import OwnWeights
from crosstask_adapters.own_adapter import BaseAdapter, attach_own, takes
from crosstask_adapters.targets import match_targets

Config = AdapterConfig | BaseAdapter
Named = str | Sequence[str]
"""An adapter's name, an `AdapterType` (all of that type), or several of these."""


class AdapterModel(nn.Module):
    """`base`, frozen, with adapters on it.

    `configs`: one `AdapterConfig` or a list of them (named by their types; a second of a type has `_2` behind it), or
    several by name; a `BaseAdapter` may stand for a configuration. All are enabled at first, and act together in their
    order. `context` finds components and seeds what they draw: each adapter by its name.

    Where a method takes names, it takes lists of names and members of `AdapterType`, too, which mean all of that type.
    """

    def __init__(
        self,
        base: nn.Module,
        configs: Config | Sequence[Config] | Mapping[str, Config] = (),
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self._context = context or LocalContext()
        self._entries: dict[str, Attached] = {}
        if isinstance(configs, Mapping):
            for name, config in configs.items():
                self.add_adapter(name, config)
            return
        for config in (configs,) if isinstance(configs, AdapterConfig | BaseAdapter) else configs:
            self._add("", config)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or a model sent to another process, leaves the run behind."""
        return self.__dict__ | {"_context": LocalContext(self._context.seed)}

    # --- which adapters there are

    @property
    def adapters(self) -> dict[str, AdapterConfig]:
        """The adapters by name, in the order in which they act."""
        return {name: entry.config for name, entry in self._entries.items()}

    def add_adapter(self, name: str, config: AdapterConfig | BaseAdapter) -> None:
        """Put another adapter on, enabled. DataError for a name that is taken or cannot be a file's."""
        self._check_name(name)
        self._add(name, config)

    def _add(self, name: str, config: AdapterConfig | BaseAdapter) -> None:
        """Without a name it is called by its type."""
        if isinstance(config, BaseAdapter):
            name = name or self._free(type(config).__name__.lower())
            self._take(name, config.config, attach_own(self.base, config, config.config.target_modules), own=True)
            return
        if not isinstance(config, AdapterConfig):
            raise OptionError(f"an adapter is described by an AdapterConfig or a BaseAdapter, got {config!r}")
        component, config = self._component(config)
        self._attach(name or self._free(config.adapter_type), config, component)

    def _free(self, kind: str) -> str:
        """A name for one more adapter of a kind."""
        every = (kind if number == 1 else f"{kind}_{number}" for number in itertools.count(1))
        return next(name for name in every if name not in self._entries)

    def _component(self, config: AdapterConfig) -> tuple[Adapter, AdapterConfig]:
        """(what the configuration names, the configuration by that name: another machine may have another default)."""
        made = cast(Adapter, self._context.component("adapter", config.adapter_type, config.component_options()))
        if config.adapter_type == DEFAULT:
            config = attrs.evolve(config, adapter_type=made.name)
        return made, config

    def _attach(self, name: str, config: AdapterConfig, component: Adapter) -> None:
        targets = [*config.target_modules, *(f"!{module}" for module in config.modules_to_save)]
        if config.input_dim is not None:
            targets += self._others(config.input_dim)
        generator = self._context.generator("adapter", name)
        handle: AdapterHandle = self._context.call(
            component, "attach", model=self.base, targets=targets, generator=generator
        )
        self._take(name, config, handle)

    def _others(self, width: int) -> list[str]:
        """Targets that leave out layers of another width."""
        widths = {n: w for n, m in base_modules(self.base) if n and (w := takes(m)) is not None}
        if width not in widths.values():
            there = ", ".join(map(str, sorted(set(widths.values()))[:8])) or "none"
            raise DataError(
                f"input_dim={width}: no layer of {type(self.base).__name__} takes so many features; widths there are "
                f"{there}"
            )
        return [f"!{name}" for name, found in widths.items() if found != width]

    def _check_name(self, name: str) -> None:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise DataError(f"an adapter cannot be called {name!r}: letters, digits, '_', '-' and '.' only")
        if name in self._entries:
            raise DataError(f"there is an adapter {name!r} already")

    def _take(self, name: str, config: AdapterConfig, handle: AdapterHandle, own: bool = False) -> None:
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
        self._entries[name] = Attached(config, handle, saved, own)

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

    def _entry(self, name: str) -> Attached:
        if name not in self._entries:
            raise DataError(f"no adapter {name!r}{nearest(name, self._entries)}")
        return self._entries[name]

    def _named(self, names: Sequence[Named]) -> list[str]:
        """Names of adapters; a type means all of it. DataError for what there is not."""
        found: list[str] = []
        for given in names:
            for name in (given,) if isinstance(given, str) else given:
                if not isinstance(name, str):
                    raise DataError(f"adapters go by their names or types, got {name!r}")
                kind = component_name(name)
                if name in self._entries and not isinstance(name, AdapterType):
                    found.append(name)
                elif alike := [n for n, e in self._entries.items() if not e.own and e.config.adapter_type == kind]:
                    if not isinstance(name, AdapterType) and name != "adapter":
                        self._entry(name)  # raises: a type in plain words is no name
                    found += alike
                else:
                    self._entry(str(name))
        return list(dict.fromkeys(found))

    def _chosen(self, names: Sequence[Named]) -> list[Attached]:
        return [self._entries[name] for name in self._named(names)] if names else list(self._entries.values())

    # --- training

    def adapter_parameters(self, *names: Named) -> list[nn.Parameter]:
        """What training these adapters (default: all) trains, their own heads included."""
        return [p for entry in self._chosen(names) for handle in entry.handles for p in handle.parameters()]

    def check_gradients(self, *names: Named) -> None:
        """After a backward pass: DataError naming each part of these adapters (default: all) that got no gradient."""
        for name in self._named(names) if names else self._entries:
            silent = [part for handle in self._entry(name).handles for part in handle.without_gradient()]
            if silent:
                shown = ", ".join(silent[:4]) + (", …" if len(silent) > 4 else "")
                raise DataError(
                    f"adapter {name!r} gets no gradient at {shown}: it is disabled or merged, the forward pass does "
                    "not go through it, or the loss does not depend on it"
                )

    # --- switching

    def enable_adapters(self, *names: Named) -> None:
        """These take part in the forward pass, besides those that do already (default: all)."""
        for entry in self._chosen(names):
            entry.enable(True)

    def disable_adapters(self, *names: Named) -> None:
        """These take no part (default: none does, and the model answers exactly as the base)."""
        for entry in self._chosen(names):
            entry.enable(False)

    def use(self, *names: Named) -> None:
        """These take part, and no other; none at all without names."""
        wanted = set(self._named(names))
        for name, entry in self._entries.items():
            if entry.enabled != (on := name in wanted):
                entry.enable(on)

    def merge(self, *names: Named) -> None:
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

    def unmerge(self, *names: Named) -> None:
        """Undo `merge` for these adapters (default: all). With none merged, the weights are bit for bit the base's."""
        self._undo(self._chosen(names))

    def _undo(self, entries: list[Attached]) -> None:
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
        return answer_by_sample(self.base, entries, list(self._entries.values()), choice, args, kwargs)

    # --- files

    def save(self, folder: str | Path, *names: Named) -> None:
        """Write these adapters (default: all), nothing of the base: `adapters.json`, and `<name>.safetensors` for each.

        The base is recorded by digests, so that `load` refuses another. DataError for a `BaseAdapter`: files name
        components, and this is none; StoreError if they cannot be written, and then none is.
        """
        chosen = {name: self._entries[name] for name in (self._named(names) if names else self._entries)}
        if own := next((name for name, entry in chosen.items() if entry.own), None):
            raise DataError(
                f"adapter {own!r} is a module of your own, which no component names, so that `load` could not make it: "
                f"keep `model.handle({own!r}).state()`, or make it a component of point `adapter`"
            )
        index = Index(
            configs={name: entry.config for name, entry in chosen.items()},
            enabled=tuple(name for name, entry in chosen.items() if entry.enabled),
            base=base_digests(self.base),
        )
        write_adapters(Path(folder), {name: entry.state() for name, entry in chosen.items()}, index)

    @classmethod
    def load(
        cls, base: nn.Module, folder: str | Path, context: Context | None = None, *, any_base: bool = False
    ) -> AdapterModel:
        """Put the adapters that `save` wrote on `base`. DataError if they were made for another base (unless
        `any_base`: then only names and shapes must fit), StoreError if the files cannot be read.
        """
        source = Path(folder)
        index = read_index(source)
        if not any_base:
            check_base(base, index.base, str(source))
        model = cls(base, {}, context)
        try:
            for name, config in index.configs.items():
                model.add_adapter(name, config)
                model._load(name, source)
            model.use(*index.enabled)
        except Exception:
            for name in list(model._entries):
                model.remove_adapter(name)
            raise
        return model

    def _load(self, name: str, folder: Path) -> None:
        state = read_state(folder, name)
        try:
            self._entry(name).load_state(state)
        except DataError as error:
            raise DataError(f"{folder}: adapter {name!r}: {error}") from None
