"""An adapter that works layer by layer, on its model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.learning.rows import GROWN, append_rows, keep_rows, missing_rows
from crosstask.points.adapter import AdapterHandle
from crosstask_adapters.adapted_layers import AdaptedLayer, adapt, hooked_names, minds_any, own_tensor, put, restore
from crosstask_adapters.base_weights import base_modules, check_materialised
from crosstask_adapters.layer_adapter import LayerAdapter
from crosstask_adapters.switches import Host, Switch, mixing
from crosstask_adapters.targets import called


class LayersHandle(AdapterHandle):
    """An adapter made of one `LayerAdapter` per adapted layer, by the layer's name.

    The same object may stand under several names: the places where a tied weight is used. DataError on `merge` if an
    adapter changes a weight that is tied to a layer without it.
    """

    def __init__(self, model: nn.Module, parts: Mapping[str, LayerAdapter]) -> None:
        check_materialised(model)
        self.model, self.parts = model, dict(parts)
        self.switch = Switch(fusable=all(part.weight_space for part in parts.values()))
        host: Host = model.__dict__.setdefault("_adapter_host", Host())
        self._host = host
        own = [(name, m) for name, m in base_modules(model)]
        for module in (m for _, m in own if minds_any(m)):
            adapt(module, host)
        for _, module in own:
            for p in module.parameters(recurse=False):
                if p.requires_grad:
                    host.frozen.append(p)
                    p.requires_grad_(False)
        for name, part in self.parts.items():
            part.switch = self.switch
            part.train(model.training)
            layer: Any = model.get_submodule(name)
            adapt(layer, host)
            put(layer, sorted((*layer._parts, part), key=lambda p: not p.replaces))
        host.switches.append(self.switch)
        host.attached += 1

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by layer and name, what is shared once."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for where, part in self.parts.items():
            for name, parameter in part.named_parameters():
                found.setdefault(id(parameter), (f"{where}.{name}", parameter))
        return dict(found.values())

    def named_tensors(self) -> dict[str, Tensor]:
        """What is trained, and what is not but belongs to the adapter: the buffers of its parts (projections that are
        drawn once and kept, say), but for those that they do not want in a `state_dict`.

        A buffer of a module that several parts share is there once. (Parts that share the tensor alone each have it:
        moved to a device, they share it no longer.)
        """
        found: dict[str, Tensor] = dict(self.named_parameters())
        seen: set[int] = set()
        for where, part in self.parts.items():
            for name, module in part.named_modules():
                if id(module) in seen:
                    continue
                seen.add(id(module))
                for key, buffer in module._buffers.items():
                    if buffer is not None and key not in module._non_persistent_buffers_set:
                        found[".".join(filter(None, (where, name, key)))] = buffer
        return found

    def parameters(self) -> list[nn.Parameter]:
        return list(self.named_parameters().values())

    def enable(self) -> None:
        """As the contract says. DataError if one that acts after it is merged, and it matters which is first."""
        if not self.switch.live and not self.switch.merged:
            for name, part in self.parts.items():
                later = self._parts_at(name)
                for other in later[later.index(part) + 1 :]:
                    if other.switch.merged and not (part.additive and other.additive):
                        raise DataError(
                            f"an adapter that acts after this one is merged into {name!r}: unmerge it first"
                        )
        self.switch.set(on=True)

    def disable(self) -> None:
        if self.switch.merged:
            self.unmerge()
        self.switch.set(on=False)

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.named_tensors().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """As the contract says. Outputs that an adapted head has gained, and this one has not, are added to it."""
        added: list[nn.ModuleList] = []
        for name, (layer, part) in zip(self.parts, self._places(), strict=True):
            for rows in missing_rows(layer, part, f"{name}.", state):
                append_rows(layer, rows, part)
                added.append(part.get_submodule(GROWN))  # type: ignore[arg-type]
        own = self.named_tensors()
        try:
            check_names(own, state, "the adapter")
        except DataError:
            for grown in added:
                del grown[-1]
            raise
        for name, tensor in own.items():
            tensor.copy_(state[name])
        if self.switch.merged:
            self._write()

    def merge(self) -> None:
        fixed = next((name for name, part in self.parts.items() if not part.weight_space), None)
        if fixed is not None:
            kind = type(self.parts[fixed]).__name__
            raise DataError(f"a {kind} is no change of the weights of {fixed!r}: it cannot be merged")
        self._refuse_computed()
        self._refuse_ties()
        for name, part in self.parts.items():
            for other in self._parts_at(name):
                if other is part:
                    break
                if other.switch.live and not (part.additive and other.additive):
                    raise DataError(f"the other adapter on {name!r} acts before this one: merge that first")
        self.switch.set(merged=True, on=True)
        self._write()

    def unmerge(self) -> None:
        self.switch.set(merged=False)
        self._write()

    def absorb(self) -> None:
        """As the contract says. What cannot be merged on this model (`merge` says why) stays as layers in it."""
        if not self.switch.on:  # it does not act now
            self.detach()
            return
        try:
            self.merge()
        except DataError:
            self._close()
            return
        for layer in self._layers():
            for p in layer._parameters.values():
                if p is not None:
                    self._host.kept.pop(p, None)
        for layer, part in self._places():
            keep_rows(layer, part)
        self._remove()

    def detach(self) -> None:
        self.unmerge()
        self._remove()

    def without_gradient(self) -> list[str]:
        silent = []
        for name, part in self.parts.items():
            if not any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()):
                silent.append(name)
        return silent

    def mix(self, handles: Sequence[AdapterHandle], choice: Tensor) -> contextlib.AbstractContextManager[None] | None:
        ours = [h for h in handles if isinstance(h, LayersHandle) and h._host is self._host and not h.switch.merged]
        if len(ours) < len(handles) or any(getattr(m, "batch_first", True) is False for m in self.model.modules()):
            return None
        for layer, part in (place for h in ours for place in h._places()):
            if hooked_names(layer):  # what it computes is the same for all rows
                return None
            if part.weight_space and (layer._direct is None or type(part).around is LayerAdapter.around):
                return None
        if not all(called(h.model, name) for h in ours for name in h.parts):
            return None
        return mixing(self._host, {h.switch: k for k, h in enumerate(ours)}, choice)

    def _parts_at(self, name: str) -> list[LayerAdapter]:
        layer: Any = self.model.get_submodule(name)
        return list(layer._parts)

    def _layers(self) -> list[Any]:
        return [self.model.get_submodule(name) for name in self.parts]

    def _places(self) -> list[tuple[Any, LayerAdapter]]:
        return list(zip(self._layers(), self.parts.values(), strict=True))

    def _refuse_computed(self) -> None:
        for name, (layer, part) in zip(self.parts, self._places(), strict=True):
            for key in layer._computed:
                value = own_tensor(layer, key)
                if value is not None and part.change(layer, key, value) is not value:
                    raise DataError(
                        f"the {key} of {name!r} is computed from others (weight_norm, spectral_norm, pruning, …): "
                        "nothing can be merged into it. Make it a plain one before the adapter is attached "
                        f"(`torch.nn.utils.parametrize.remove_parametrizations(layer, {key!r})`)"
                    )

    def _refuse_ties(self) -> None:
        changed: dict[nn.Parameter, tuple[str, set[int]]] = {}
        for name, (layer, part) in zip(self.parts, self._places(), strict=True):
            by = {id(p) for p in part.parameters()}
            for key, p in layer._parameters.items():
                if p is None or part.change(layer, key, p) is p:
                    continue
                first, others = changed.setdefault(p, (name, by))
                if others != by:
                    raise DataError(
                        f"{first!r} and {name!r} share their {key}, for which the adapter has two changes: it cannot "
                        "be merged; adapt one of them"
                    )
        for where, module in base_modules(self.model):
            for p in module._parameters.values():
                if p is not None and p in changed and where not in self.parts:
                    raise DataError(
                        f"the weight of {changed[p][0]!r} is also that of {where!r}, which the adapter leaves alone: "
                        "merging would change both; adapt both or neither"
                    )

    @torch.no_grad()
    def _write(self) -> None:
        """Put into the weights what is merged, always from the base tensors."""
        kept, done = self._host.kept, set()
        for layer in self._layers():
            for name, p in layer._parameters.items():
                if p is None or p in done:
                    continue
                done.add(p)
                base = kept.get(p, p.data)
                value = base
                for part in layer._parts:
                    if part.weight_space and part.switch.merged:
                        mode = part.training
                        part.eval()
                        value = part.change(layer, name, value)
                        part.train(mode)
                if value is not base:
                    kept[p] = base
                    p.data = value.detach()
                elif p in kept:
                    p.data = kept.pop(p).to(p.device, p.dtype)

    def _remove(self) -> None:
        host = self._host
        if self.switch not in host.switches:
            return
        host.switches.remove(self.switch)
        self._close()
        for layer, part in self._places():
            put(layer, [p for p in layer._parts if p is not part])
            if not layer._parts and not minds_any(layer):
                restore(layer)
        if not host.switches:
            for _, module in base_modules(self.model):
                if isinstance(module, AdaptedLayer):
                    restore(module)
            self.model.__dict__.pop("_adapter_host", None)

    def _close(self) -> None:
        """The base is trainable again once no adapter is being trained."""
        self._host.attached -= 1
        if not self._host.attached:
            for p in self._host.frozen:
                p.requires_grad_(True)
            self._host.frozen.clear()


def check_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """DataError unless both have the same names and shapes."""
    if missing := sorted(set(own) - set(given)):
        raise DataError(f"{what} needs tensors that are not there: {', '.join(missing[:4])}{_more(missing)}")
    if extra := sorted(set(given) - set(own)):
        raise DataError(
            f"{what} has no place for tensor {extra[0]!r}{_more(extra[:1] + extra)}{nearest(extra[0], own)}"
        )
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            raise DataError(f"{what}: {name!r} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 4} more" if len(names) > 4 else ""
