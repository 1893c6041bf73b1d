"""What a module does besides answering: hooks, chance, and a state of its own that a pass moves. Who computes what it
answers by other means than calling it (`crosstask.learning.fleets`) would do without.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import random
import types
from collections.abc import Callable, Iterator
from typing import Any, Self

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_every
from torch.overrides import TorchFunctionMode

from crosstask.learning.modules import seeded

CALLED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
SAVED = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
SAVING = ("state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict")
EMPTY = types.CellType()
"""What a function closes over that has no value yet."""
ON_THE_WAY_BACK = (
    Tensor.register_hook,
    Tensor.register_post_accumulate_grad_hook,
    vars(torch._C.TensorBase)["grad_fn"].__get__,
)


def foreign(module: nn.Module) -> bool:
    """Whether a module's class is neither torch's nor crosstask's."""
    return not type(module).__module__.startswith(("torch.", "crosstask."))


def hooks_of(model: nn.Module) -> str | None:
    """What passes through a model call that its classes do not say: hooks, forwards or backwards, and a module's own
    `forward`. None without any.
    """
    if any(getattr(of_every, f"_global{table}") for table in CALLED):
        return "every module has hooks"
    for layer in model.modules():
        kind = type(layer).__name__
        if any(getattr(layer, table) for table in CALLED):
            return f"a {kind} has hooks"
        if "forward" in vars(layer):
            return f"a {kind} has a forward pass that is not its class's"
        for weight in layer.parameters(recurse=False):
            if weight._backward_hooks or weight._post_accumulate_grad_hooks:
                return f"a weight of a {kind} has hooks"
    return None


def saves_otherwise(model: nn.Module) -> str | None:
    """Which part of a model is not saved and loaded as torch would do it; None if all of it is."""
    for layer in model.modules():
        own = foreign(layer) and any(getattr(type(layer), name) is not getattr(nn.Module, name) for name in SAVING)
        if own or any(getattr(layer, table) for table in SAVED):
            return f"a {type(layer).__name__} is saved in a way of its own"
    return None


@contextlib.contextmanager
def unmoved() -> Iterator[None]:
    """Inside, Python and numpy may draw random numbers; outside they go on as if nothing had happened."""
    python, numpys = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)


class Watched(TorchFunctionMode):
    """Inside, a module is looked at while it is called; afterwards `effect` says what it did besides answering, as what
    follows "it", or is None. Torch's random numbers begin anew inside, and outside go on as if nothing had happened.

    `drew`: it drew from torch's random numbers, which is no effect by itself.
    """

    effect: str | None = None
    drew = False

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __enter__(self) -> Self:
        self._chance = _chance()
        self._before = _state(self.module)
        self._seeded = seeded(0)
        self._seeded.__enter__()
        self._drawn = self._drawing()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.drew = self._drawing() != self._drawn
        self._seeded.__exit__(None, None, None)
        if _chance() != self._chance:
            self.effect = self.effect or "draws random numbers that are not torch's"
        after = _state(self.module)
        for place in {**self._before, **after}:
            if self._before.get(place) != after.get(place):
                self.effect = self.effect or f"changes the {place[1]} of a {place[2]} as it runs"

    def _drawing(self) -> list[bytes]:
        """The state of torch's random numbers, on the CPU and the current device."""
        states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]
        return [state.numpy().tobytes() for state in states]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ON_THE_WAY_BACK:
            self.effect = self.effect or "looks at its gradients on their way back"
        return func(*args, **(kwargs or {}))


def _chance() -> bytes:
    """The state of the random numbers of Python and numpy."""
    return pickle.dumps((random.getstate(), np.random.get_state()))


def _state(module: nn.Module) -> dict[tuple[str, str, str], object]:
    """What the modules in a module hold: of weights, buffers and modules which, of everything else what it is."""
    found: dict[tuple[str, str, str], object] = {}
    for name, part in module.named_modules():
        kind = type(part).__name__
        for own, value in vars(part).items():
            if own in ("_parameters", "_buffers", "_modules"):
                found |= {(name, local, kind): (id(held), held) for local, held in value.items()}
            else:
                found[name, own, kind] = _said(value)
    return found


def _said(value: object) -> object:
    """Of a value what is the same as long as it is."""
    try:
        return pickle.dumps(value)
    except Exception:  # a function in a function, an object of a class in one
        inside = getattr(value, "__dict__", value)
        parts = inside.values() if isinstance(inside, dict) else inside if isinstance(inside, list | tuple) else ()
        return id(value), [id(part) for part in parts]


def effect_of(function: Callable[..., Any], *arguments: Tensor) -> str | None:
    """What a function of tensors, or an object that is called like one, does besides answering, or that it draws; None
    if neither, or if it fails. A copy is called.
    """
    own = _copied(function)
    before = _reached(own)
    with Watched(own if isinstance(own, nn.Module) else nn.Module()) as watched:
        try:
            own(*arguments)
        except Exception:  # who calls it in earnest will say so
            return None
    effect = watched.effect or ("draws random numbers" if watched.drew else None)
    if effect is None:
        after = _reached(own)
        changed = next((place for place in {**before, **after} if before.get(place) != after.get(place)), None)
        effect = None if changed is None else f"changes {changed} as it runs"
    return effect


def _copied(value: Any) -> Any:
    """A copy of what is called, as far as there can be one: of a function with what it closes over."""
    if isinstance(value, types.FunctionType) and value.__closure__:
        cells = tuple(types.CellType(_copied(c.cell_contents)) if c != EMPTY else c for c in value.__closure__)
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__ = value.__kwdefaults__
        return made
    if attrs.has(type(value)) and isinstance(getattr(value, "function", None), types.FunctionType):
        return attrs.evolve(value, function=_copied(value.function))
    try:
        return copy.deepcopy(value)
    except Exception:  # of a class of the user's own
        return value


def _reached(value: Any, place: str = "", depth: int = 4) -> dict[str, object]:
    """What a function, or an object that is called, holds, by where: what it closes over, an object's own, modules."""
    if depth == 0:
        return {}
    if isinstance(value, nn.Module):
        tensors = {name: t.detach() for name, t in (*value.named_parameters(), *value.named_buffers())}
        others = {
            f"{name}.{own}": each
            for name, part in value.named_modules()
            for own, each in vars(part).items()
            if own not in ("_parameters", "_buffers", "_modules")
        }
        return {".".join(filter(None, (place, name))): _said(each) for name, each in (tensors | others).items()}
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        inside = {name: cell.cell_contents for name, cell in cells if cell != EMPTY}
    elif isinstance(value, types.MethodType):
        inside = {"self": value.__self__}
    elif isinstance(value, functools.partial):
        inside = {"function": value.func, **value.keywords, **{str(n): each for n, each in enumerate(value.args)}}
    elif attrs.has(type(value)):
        inside = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    else:
        inside = dict(vars(value)) if hasattr(value, "__dict__") and not isinstance(value, type) else {}
    found: dict[str, object] = {}
    for name, each in inside.items():
        where = f"{place}.{name}".strip(".")
        deeper = _reached(each, where, depth - 1)
        found |= deeper or {where: _said(each)}
    return found
