"""Module surgery on any network: calling it, finding and replacing its head, matching trunks, drawing weights anew."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, nearest


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global random numbers start from `seed`; outside, they go on as if nothing had happened."""
    if not torch.cuda.is_available():  # torch.manual_seed looks for every other device, which takes longer than a layer
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
        torch.manual_seed(seed)
        yield


# Calling --------------------------------------------------------------------------------------------------------------


def without_values(model: nn.Module, *, lazy: bool = True) -> str | None:
    """Why nothing can be done with a module: it was never initialised, or its weights have no values; None if it can.
    With `lazy`, layers that take their sizes from their first inputs may be among its own.
    """
    who = type(model).__name__
    if not hasattr(model, "_parameters"):
        return f"{who} is not initialised: its __init__ must call super().__init__() first"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            if lazy:
                continue
            return f"{name!r} of {who} has no size yet: a batch of inputs must go through the model first"
        if tensor.is_meta:
            return f"{name!r} of {who} lies on the meta device, where weights have no values"
    return None


def forward(model: nn.Module, inputs: Tensor | MultiInput) -> Tensor:
    """The logits of any model for inputs [N, …]: several inputs go in by keyword or by place, and of a tuple, mapping
    or dataclass the logits are taken. Whole numbers go as they are into a model with embeddings, as floating-point
    numbers into any other. A module with an attribute `whole_inputs` that is true gets a `MultiInput` as it is.
    DataError if the answer holds no logits.
    """
    if isinstance(inputs, MultiInput):
        if getattr(model, "whole_inputs", False):
            answer = model(inputs)
        else:
            answer = model(**inputs.parts) if inputs.named else model(*inputs.parts.values())
    else:
        answer = model(inputs if inputs.is_floating_point() else _as_taken(model, inputs))
    return answer if isinstance(answer, Tensor) else logits_of(answer, type(model).__name__)


def logits_of(answer: Any, who: str = "the model") -> Tensor:
    """The logits in what a model returned: a tensor, the field `logits`, the first of a tuple, the only tensor."""
    if isinstance(answer, Tensor):
        return answer
    found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor):
        return answer[0]
    tensors = [v for v in answer.values() if isinstance(v, Tensor)] if isinstance(answer, Mapping) else []
    if len(tensors) == 1:
        return tensors[0]
    held = f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
    raise DataError(
        f"{who} returns a {type(answer).__name__}{held}: it must return its logits as a tensor, as the first of a "
        "tuple, or under the name 'logits'"
    )


def _as_taken(model: nn.Module, inputs: Tensor) -> Tensor:
    if inputs.is_complex() or any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules()):
        return inputs
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return inputs.to(kind)


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Inside, what torch.compile has made of models and functions is not used (from torch 2.6 on): hooks would not be
    called in it.
    """
    compiles = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()


COMPILED = "_orig_mod"
"""Where torch.compile keeps the module that it was given; it stands in the names of all that is inside."""


def plain_name(name: str) -> str:
    """The name of a module or weight without the traces of torch.compile."""
    return ".".join(part for part in name.split(".") if part != COMPILED) if COMPILED in name else name


def _outside(path: str) -> str:
    """The place of a module in its parent: what torch.compile has made of it is replaced as a whole."""
    while path == COMPILED or path.endswith(f".{COMPILED}"):
        path = path.rpartition(".")[0]
    return path


# The head -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Head:
    """The last layer of a model: a module by its name, or parameters that `forward` itself uses.

    `weights` are names of parameters with the dimension along which the outputs lie.
    """

    module: str | None
    weights: tuple[tuple[str, int], ...] = ()
    unknown: str = ""
    """Why it could not be found; nothing then takes another layer for it."""

    def moved(self, before: str, after: str) -> Head:
        """The same in a module around it, or within: names that begin with `before` begin with `after`."""
        module = f"{after}{self.module.removeprefix(before)}" if self.module else self.module
        return attrs.evolve(
            self,
            module=module,
            weights=tuple((f"{after}{name.removeprefix(before)}", dim) for name, dim in self.weights),
        )


@attrs.frozen
class Origin:
    """What is known of a model besides its weights; it is kept on the model itself, so that copies have it."""

    head: Head | None = None
    build: Callable[[], nn.Module] | None = None
    made: Any = None  # of a `ModelSpec`: {"spec": …, "descriptor": …}
    built: bool = False  # by a task's factory, and in use
    into: str = ""  # what `load_model` must be given where a file cannot say how the model is made


def origin_of(model: nn.Module) -> Origin:
    """What `know` has kept on a model."""
    inner, prefix = _compiled_from(model)
    found = inner.__dict__.get("_crosstask_origin")
    if not isinstance(found, Origin):
        return Origin()
    return attrs.evolve(found, head=found.head.moved("", prefix)) if prefix and found.head else found


def know(model: nn.Module, **what: Any) -> None:
    """Keep fields of an `Origin` on a model: of what torch.compile has made, on the model that it was made from, since
    copies have nothing else.
    """
    inner, prefix = _compiled_from(model)
    if prefix and what.get("head"):
        what["head"] = what["head"].moved(prefix, "")
    inner.__dict__["_crosstask_origin"] = attrs.evolve(origin_of(inner), **what)


def _compiled_from(model: nn.Module) -> tuple[nn.Module, str]:
    """(the model that torch.compile was given, what the names of its weights begin with); itself where it was not."""
    prefix = ""
    while type(model).__module__.startswith("torch._dynamo.") and COMPILED in model._modules:
        model, prefix = model.get_submodule(COMPILED), f"{prefix}{COMPILED}."
    return model, prefix


def _is_linear(module: nn.Module) -> bool:
    """Linear and convolution layers, and the `Conv1D` of transformers: what a head can be, and be replaced by."""
    convs = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    return isinstance(module, nn.Linear | convs) or (
        type(module).__name__ == "Conv1D" and hasattr(module, "nx") and hasattr(module, "nf")
    )


def locate_head(model: nn.Module, inputs: Tensor | MultiInput, named: str | None = None) -> Head:
    """Find the head by a forward pass over a few inputs, and keep it on the model.

    It is the module or parameter that the user named, else the module called `head` where the pass ends in it, else the
    linear or convolution layer, or the parameters, that the pass used last, wherever they are declared. DataError if
    there is none.
    """
    _open(model)
    if named is not None:
        found = _named_head(model, named)
    else:
        watch = _Watch(model)
        with torch.no_grad(), evaluating(model), uncompiled(), watch:
            outputs = forward(model, inputs)
        last = watch.found(outputs)
        if last is not None and last.unknown:
            found = last
        elif last is None:
            found = Head(head_name(model))
        else:
            path = "" if last.module is None else plain_name(last.module)
            inside = path == "head" or path.startswith("head.")
            found = Head(_by_plain_name(model)["head"]) if inside else last
    know(model, head=found)
    return found


def _by_plain_name(model: nn.Module) -> dict[str, str]:
    """Names of modules by what they are without torch.compile; of one inside another that it has made, the outer."""
    found: dict[str, str] = {}
    for name, _ in model.named_modules():
        found.setdefault(plain_name(name), name)
    return found


def _open(model: nn.Module) -> None:
    """DataError for what torch.jit has made: it can be called and trained, and that is all."""
    if isinstance(model, torch.jit.ScriptModule):
        raise DataError(
            f"the head cannot be had: torch.jit has made it a {type(model).__name__}, whose layers can be neither "
            "watched nor replaced. It can be scored and trained as it is; to transfer or distil from it, give "
            "the module that it was made of, with its weights (module.load_state_dict(scripted.state_dict())), or a "
            "module of your own in which it is the trunk before an ordinary last layer"
        )


def _named_head(model: nn.Module, name: str) -> Head:
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    if name not in modules and name not in parameters:
        weights = {plain_name(each): each for each in parameters}
        name = _by_plain_name(model).get(name) or weights.get(name) or name
    if name in modules:
        if not any(_is_linear(module) for module in modules[name].modules()):
            raise DataError(f"{type(model).__name__}.{name} has no linear or convolution layer: it cannot be a head")
        return Head(name)
    if name in parameters:
        return Head(None, ((name, 0),))
    who, valid = type(model).__name__, {plain_name(each) for each in (*modules, *parameters)} - {""}
    raise DataError(f"{who} has no module or parameter {name!r}{nearest(name, valid)}")


def copy_of(model: nn.Module) -> nn.Module:
    """An independent copy that can be trained as the model can: with gradients on, the weights in a copy of what
    torch.jit has made would be no leaves of a graph.
    """
    learns = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        made = copy.deepcopy(model)
    for parameter, wanted in zip(made.parameters(), learns, strict=False):
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
    return made


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards each of its modules is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Watch(TorchFunctionMode):
    """Inside, notes which linear layers and parameters of a model are used, in order, and what is added afterwards."""

    _LINEAR = {"linear": 0, "conv1d": 0, "conv2d": 0, "conv3d": 0, "conv_transpose1d": 1, "conv_transpose2d": 1,
               "conv_transpose3d": 1}  # fmt: skip
    _PRODUCT = frozenset({"matmul", "__matmul__", "mm", "bmm", "addmm", "__rmatmul__", "einsum"})
    _SAME = frozenset({"t", "transpose", "permute", "contiguous", "to", "float", "div", "__truediv__", "mul", "__mul__",
                       "__get__", "numpy_T", "_weight_norm", "detach", "clone", "requires_grad_", "norm", "clamp_min",
                       "expand_as", "linalg_vector_norm", "clamp", "normalize"})  # fmt: skip

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.derived: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.kept: list[Any] = []
        self.used: list[tuple[Head, int]] = []
        self.added: list[tuple[int, str, Tensor]] = []

    def _source(self, value: Any) -> str | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) in self.names:
            return self.names[id(value)]
        return self.derived[id(value)][0] if id(value) in self.derived else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        flat: list[Any] = []
        for given in (*args, *kwargs.values()):
            flat += list(given) if isinstance(given, tuple | list) else [given]
        tensors = [a for a in flat if isinstance(a, Tensor)]
        sources = [self._source(a) for a in tensors]
        own = [source for source in sources if source is not None]
        if own and isinstance(answer, Tensor):
            if name in self._LINEAR or name in self._PRODUCT:
                self._weigh(name, tensors, answer)
            elif len(own) == len(tensors) and name in self._SAME:
                self.derived[id(answer)] = (own[0], tuple(answer.shape))
                self.kept.append(answer)
            else:
                for tensor, source in zip(tensors, sources, strict=True):
                    if source is not None and id(tensor) in self.names:
                        self.added.append((len(self.used), source, tensor))
        return answer

    def _weigh(self, name: str, tensors: list[Tensor], answer: Tensor) -> None:
        """Note a product of something with a parameter."""
        for place, tensor in enumerate(tensors):
            source = self._source(tensor)
            if source is None or tensor.ndim < 2 or answer.ndim < 1:
                continue
            if name in self._LINEAR:
                if place != 1:
                    continue
                dim = self._LINEAR[name]
            else:
                dim = 0 if place == 0 and tensor.shape[0] == answer.shape[-2 if answer.ndim > 1 else -1] else -1
                dim = dim if tensor.shape[dim] in answer.shape else 0
            size = tensor.shape[dim]
            parameter = dict(self.model.named_parameters(remove_duplicate=False))[source]
            head = self._head(source, self._dim_of(parameter, tensor, dim % tensor.ndim))
            if head is not None:
                self.used.append((head, size))

    @staticmethod
    def _dim_of(parameter: Tensor, seen: Tensor, dim: int) -> int:
        """The parameter's own dimension for one of what was made of it (itself, or turned round)."""
        if parameter.shape == seen.shape and (parameter is seen or parameter.stride() == seen.stride()):
            return dim
        if parameter.shape == seen.shape[::-1] and seen.ndim == 2:
            return 1 - dim
        return dim

    def _head(self, source: str, dim: int) -> Head | None:
        path = source.rpartition(".")[0]
        if ".parametrizations." in f".{source}":
            path = f".{source}".partition(".parametrizations.")[0].lstrip(".")
        module = self.model.get_submodule(path) if path else self.model
        if _is_linear(module):
            return Head(_outside(path))
        return Head(None, ((source, dim),))

    def found(self, outputs: Tensor) -> Head | None:
        """The last that was used, with what was added to it."""
        if not self.used:
            return None
        head, size = self.used[-1]
        own = {name for name, _ in head.weights}
        if head.module is not None:
            inside = self.model.get_submodule(head.module) if head.module else self.model
            own = {self.names[id(p)] for p in inside.parameters()}
        later = [source for when, source, tensor in self.added if when == len(self.used) and tensor.ndim > 1]
        who = type(self.model).__name__
        if strange := [source for source in later if source not in own]:
            return Head(None, unknown=f"{who} uses {strange[0]!r} after its last layer, in a way that is not known")
        for name in own:
            owner = self.model.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, nn.Embedding) and head.module is None:
                return Head(None, unknown=f"the last layer of {who} is the weight of an embedding, {name!r}")
        if head.module is not None:
            return head if head.module else None
        weights = dict(head.weights)
        for when, source, tensor in self.added:
            if when == len(self.used) and source not in weights and tensor.ndim and tensor.shape[-1] == size:
                weights[source] = tensor.ndim - 1
        for name, parameter in self.model.named_parameters():  # a bias that goes into the same call
            path = name.rpartition(".")[0]
            beside = path == head.weights[0][0].rpartition(".")[0]
            if beside and name.rpartition(".")[2] in ("bias", "b") and parameter.shape == (size,):
                weights.setdefault(name, 0)
        return Head(None, tuple(weights.items()))


def _static_head(model: nn.Module) -> str:
    if (head := _by_plain_name(model).get("head")) is not None:
        return head
    linear: list[str] = [_outside(name) for name, module in model.named_modules() if _is_linear(module)]
    if not linear:
        raise DataError(
            f"{type(model).__name__} has no module named 'head' and no linear layer: its head cannot be found; name it "
            "with Task(head=...)"
        )
    return linear[-1]


def head_found(model: nn.Module) -> Head:
    """The head: what a forward pass has found (`locate_head`), else the module `head`, else the linear or convolution
    layer that is declared last. DataError if there is none.
    """
    _open(model)
    found = origin_of(model).head or Head(_static_head(model))
    if found.unknown:
        raise DataError(f"the head cannot be found: {found.unknown}; name it with Task(head=...), or give it a layer")
    return found


def head_name(model: nn.Module) -> str:
    """Name of the module that is the head. DataError if it is no module; see `head_keys` for what always works."""
    found = head_found(model)
    if found.module is None:
        used = ", ".join(name for name, _ in found.weights)
        raise DataError(f"the head of {type(model).__name__} is no module of its own: its forward uses {used}")
    return found.module


def head_label(model: nn.Module) -> str:
    """What to call the head in tables: its module, or the parameters that it is."""
    found = head_found(model)
    return found.module if found.module is not None else ", ".join(name for name, _ in found.weights)


def head_keys(model: nn.Module) -> frozenset[str]:
    """Names of the head's parameters and buffers, as in the model's `state_dict`."""
    found = head_found(model)
    if found.module is None:
        held = dict(model.named_parameters(remove_duplicate=False))
        ours = {id(held[name]) for name, _ in found.weights}
        return frozenset(name for name, parameter in held.items() if id(parameter) in ours)
    own = model.get_submodule(found.module)
    names = {*own.state_dict(), *(name for name, _ in own.named_parameters())}
    every = _aliases(model, found.module)
    return frozenset(f"{path}.{name}" if path else name for path in every for name in names)


def _aliases(model: nn.Module, path: str) -> list[str]:
    """All names of a module: one may stand at several places."""
    wanted = model.get_submodule(path)
    return [name for name, module in model.named_modules(remove_duplicate=False) if module is wanted]


class LooseHead(nn.Module):
    """The parameters of a head that is no module of its own, under their own names."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        own = dict(model.named_parameters(remove_duplicate=False))
        for name in names:
            self.register_parameter(name.replace(".", "_"), own[name])


def head_of(model: nn.Module) -> nn.Module:
    """The head itself (a `LooseHead` where it is parameters that `forward` uses)."""
    found = head_found(model)
    if found.module is None:
        return LooseHead(model, [name for name, _ in found.weights])
    return model.get_submodule(found.module)


def last_layer(model: nn.Module) -> nn.Module | None:
    """The linear or convolution layer that a model's answers come from, as far as anybody knows: the last one of its
    head. None where the head is no module, or not known.
    """
    try:
        found = head_found(model).module
    except DataError:
        return None
    inside = [] if found is None else [each for each in model.get_submodule(found).modules() if _is_linear(each)]
    return inside[-1] if inside else None


def trunk_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter outside the head."""
    inside = {id(p) for p in head_of(model).parameters()}
    return [p for p in model.parameters() if id(p) not in inside]


BARE = (
    "a model that is only a linear layer is all head, which cannot be replaced in it; in an nn.Sequential it can, and "
    "with a layer before it there is something to take over"
)


def replace_head(model: nn.Module, output_dim: int, seed: int) -> nn.Module:
    """Give the model a new head of `output_dim` outputs, drawn from `seed`, and return it.

    A linear or convolution layer is replaced by one of its kind; of a module with several, the layers are drawn anew
    and the last one replaced; parameters that `forward` uses are made anew in their place.
    """
    found = head_found(model)
    with seeded(seed):
        if found.module is None:
            for name, dim in found.weights:
                _put(model, name, _wider(model, name, dim, output_dim))
        else:
            if found.module == "":
                raise DataError(BARE)
            old = model.get_submodule(found.module)
            inner = [(name, layer) for name, layer in old.named_modules() if _is_linear(layer)]
            if not inner:
                raise DataError(f"the head {found.module!r} of {type(model).__name__} has no linear layer to replace")
            path, last = inner[-1]
            whole = _outside(f"{found.module}.{path}" if path else found.module)
            for layer in old.modules():
                reset = getattr(layer, "reset_parameters", None)
                if layer is not last and callable(reset) and not _compiled_from(layer)[1]:
                    reset()
            new = _layer_like(last, output_dim)
            for place in _aliases(model, whole):
                parent, _, child = place.rpartition(".")
                setattr(model.get_submodule(parent), child, new)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "num_labels"):
        with contextlib.suppress(AttributeError, ValueError):
            config.num_labels = output_dim  # transformers read it when they are saved
    return head_of(model)


def _layer_like(old: nn.Module, outputs: int) -> nn.Module:
    """A new layer of the same kind with another number of outputs, on the same device."""
    if isinstance(old, nn.Linear):
        made: nn.Module = nn.Linear(old.in_features, outputs, bias=old.bias is not None)
    elif type(old).__name__ == "Conv1D":
        made = type(old)(outputs, old.nx)
    else:
        conv: Any = old
        if conv.groups != 1:
            raise DataError(f"a head with {conv.groups} groups cannot be given another number of outputs")
        plain = next(c for c in type(old).__mro__ if c.__module__.startswith("torch.nn"))
        made = plain(
            conv.in_channels, outputs, conv.kernel_size, stride=conv.stride, padding=conv.padding,
            dilation=conv.dilation, bias=conv.bias is not None, padding_mode=conv.padding_mode,
        )  # fmt: skip
    weight = next(old.parameters())
    if not weight.is_complex():
        return made.to(device=weight.device, dtype=weight.dtype)
    for name, drawn in list(made.named_parameters()):  # which has no imaginary part
        setattr(made, name, nn.Parameter(torch.empty_like(drawn, device=weight.device, dtype=weight.dtype)))
    made.reset_parameters()  # type: ignore[operator]
    return made


def _wider(model: nn.Module, name: str, dim: int, outputs: int) -> nn.Parameter:
    old = dict(model.named_parameters(remove_duplicate=False))[name]
    shape = list(old.shape)
    shape[dim] = outputs
    new = torch.empty(shape, device=old.device, dtype=old.dtype)
    if old.ndim < 2:
        return nn.Parameter(nn.init.zeros_(new))
    fan = old.numel() // old.shape[dim]
    return nn.Parameter(nn.init.uniform_(new, -(fan**-0.5), fan**-0.5))


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    held = dict(model.named_parameters(remove_duplicate=False))
    for each, old in held.items():
        if old is held[name]:
            parent, _, child = each.rpartition(".")
            model.get_submodule(parent)._parameters[child] = parameter


def trainable(model: nn.Module) -> nn.Module:
    """The model, all weights of which learn now; whole numbers cannot."""
    for parameter in model.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    return model


def quantised(model: nn.Module) -> str | None:
    """Why nothing can be learned from a model with quantised layers, or weights of a byte, with which torch does not
    calculate; None where it has none.
    """
    for name, module in model.named_modules():
        if type(module).__module__.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")):
            return (
                f"the layer {name!r} is quantised: its weights can be neither trained nor drawn anew, which a control "
                "from scratch needs; give the model as it was before, and quantise what comes out"
            )
    for name, parameter in model.named_parameters():
        if _of_a_byte(parameter):
            return (
                f"the weights {name!r} are {parameter.dtype}: they can be neither trained nor drawn anew, which a "
                "control from scratch needs; model.float() makes them float32"
            )
    return None


def _of_a_byte(tensor: Tensor) -> bool:
    """Whether it holds floats of eight bits, of which torch can make others, and hardly more."""
    return tensor.is_floating_point() and tensor.itemsize == 1


def load_tensors(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into those of a model that have their names; all others, and what is no tensor, stay. RuntimeError
    for one of another shape.
    """
    own = model.state_dict()  # with the versions of the layers that have written it
    kept = {name: value for name, value in own.items() if not name.endswith("_extra_state")}
    whole = any(not isinstance(value, Tensor) for value in kept.values())  # a quantised layer needs all that it has
    own.clear()
    own.update({**(kept if whole else {}), **state})
    model.load_state_dict(own, strict=False)


def load_matching(model: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copy every tensor of `state` whose name and shape fit into `model`; returns (copied, left out) names."""
    own = model.state_dict()
    fits = {
        k: v for k, v in state.items()
        if k in own and isinstance(v, Tensor) and isinstance(own[k], Tensor) and own[k].shape == v.shape
    }  # fmt: skip
    load_tensors(model, fits)
    return sorted(fits), sorted(set(own) - set(fits))


@contextlib.contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters need no gradient; afterwards each is as it was."""
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, required in zip(parameters, before, strict=True):
            p.requires_grad_(required)


# Fresh weights --------------------------------------------------------------------------------------------------------


def redraw(model: nn.Module, seed: int) -> str:
    """Draw every weight of a model anew from `seed`, in place, and say how.

    In this order: by the factory that was given with the model; by the class's own initialisation from its `config`
    (transformers); layer by layer with `reset_parameters`; and what none of these has changed, from a normal
    distribution with the mean and the spread of the parameter itself (constants stay); of complex numbers each part
    with its own.
    """
    factory = origin_of(model).build
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = {name: b.detach().clone() for name, b in model.named_buffers()}
    said: list[str] = []
    with seeded(seed):
        if factory is not None:
            made = factory()
            who = f"the factory of {type(model).__name__}"
            if not isinstance(made, nn.Module):
                raise DataError(f"{who} returned a {type(made).__name__}, not a torch module")
            theirs = _by_plain_names(made.named_parameters())
            own = _by_plain_names(before.items())
            drawn = set(map(plain_name, head_keys(model)))  # by the same seed, perhaps to the same values
            moving = [n for n, p in own.items()
                      if n in theirs and n not in drawn and _varies(p)]  # fmt: skip

            def stuck(fresh: nn.Module) -> bool:
                theirs = _by_plain_names(fresh.named_parameters())
                return bool(moving) and all(
                    theirs[n].shape == own[n].shape and torch.equal(theirs[n], own[n]) for n in moving
                )

            again = made is model or stuck(made)
            if again and made is not model:  # the model may have been made with this very seed
                torch.manual_seed(seed + 1)
                again = stuck(factory())
            if again:
                raise DataError(f"{who} returns the weights that the model has: it must make fresh ones at every call")
            _take(model, made, who, whole=True)
            return "its factory"
        done: set[str] = set()
        for path, module in model.named_modules():
            if any(path == other or path.startswith(f"{other}.") for other in done) or not _from_config(module):
                continue
            with torch.device(next(module.parameters()).device):
                made = _made_again(module)
            if _take(module, made, path, whole=False):
                done.add(path)
                said.append(f"{type(module).__name__}'s own initialisation")
        if "" in done:
            return said[0]
        resets = False
        # Moved away first: a model that has the very weights of this seed would seem to have been left as it is.
        away = {
            name: _moved(p)
            for name, p in model.named_parameters()
            if (p.is_floating_point() or p.is_complex()) and not any(name.startswith(f"{other}.") for other in done)
        }
        for path, module in model.named_modules():
            if any(path == other or (other and path.startswith(f"{other}.")) for other in done):
                continue
            if _compiled_from(module)[1]:
                continue  # what it was made of has its turn
            # torch's attention and transformers have the method under its private name
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
                resets = True
        if resets:
            said.append("reset_parameters")
        left, stay = [], []
        for name, p in model.named_parameters():
            if name not in away or not torch.equal(p.detach().nan_to_num(), away[name].nan_to_num()):
                continue
            with torch.no_grad():
                p.copy_(before[name])
            if p.numel() == 1 and float(p.detach().abs().sum()) not in (0.0, 1.0):
                stay.append(name)  # a single number that was learned: nothing says how to draw it
            if _varies(p):
                for part in real_parts(p):
                    if (spread := float(part.std())) > 0:
                        part.copy_(torch.randn_like(part) * spread + part.mean())
                left.append(name)
    if left:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        said.append(f"the spread of {shown}")
    stay += [name for name, b in model.named_buffers() if name in kept and (b.is_floating_point() or b.is_complex())
             and _alike(b, kept[name]) and _varies(b)]  # fmt: skip
    if stay:
        shown = ", ".join(stay[:3]) + (f" and {len(stay) - 3} more" if len(stay) > 3 else "")
        said.append(f"as they are {shown} (a factory, Task(build=...), would make them anew)")
    return ", then ".join(said) if said else "nothing to draw"


def real_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of a tensor's numbers that are real: itself, or of complex ones both parts."""
    plain = tensor.detach()
    return (plain.real, plain.imag) if plain.is_complex() else (plain,)


def _alike(one: Tensor, other: Tensor) -> bool:
    """`torch.equal`, of floats of a byte, too."""
    return torch.equal(*(each.float() if _of_a_byte(each) else each for each in (one, other)))


def _varies(tensor: Tensor) -> bool:
    """Whether a tensor's numbers have a spread."""
    return tensor.numel() > 1 and any(float(part.float().std()) > 0 for part in real_parts(tensor))


def _by_plain_names(named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {plain_name(name): value for name, value in named}


def _made_again(module: Any) -> nn.Module:
    return type(module)._from_config(copy.deepcopy(module.config))  # type: ignore[no-any-return]


def _from_config(module: nn.Module) -> bool:
    return hasattr(type(module), "_from_config") and getattr(module, "config", None) is not None


@torch.no_grad()
def _moved(parameter: nn.Parameter) -> Tensor:
    """Where a parameter is now, after it was moved by a little more than its largest finite number."""
    if parameter.numel():
        parameter.add_(1 + float(parameter.nan_to_num(0.0, 0.0, 0.0).abs().max()))
    return parameter.detach().clone()


def _take(model: nn.Module, made: nn.Module, who: str, *, whole: bool) -> bool:
    """Copy the weights of a fresh model into one of the same architecture, but for what has another shape (a head that
    was replaced, which has been drawn already).
    """
    own, theirs = _by_plain_names(model.state_dict(keep_vars=True).items()), _by_plain_names(made.state_dict().items())
    wrong = [k for k, v in own.items() if k not in theirs]
    head = set(map(plain_name, head_keys(model))) if origin_of(model).head or whole else set[str]()
    others = [k for k in own if k in theirs and own[k].shape != theirs[k].shape and k not in head]
    if wrong or others:
        if whole:
            raise DataError(f"{who} makes another architecture: {(wrong + others)[0]!r} is not the same")
        if wrong:
            return False
    with torch.no_grad():
        for key, value in theirs.items():
            if key in own and isinstance(value, Tensor) and own[key].shape == value.shape:
                own[key].copy_(value)
    return True


# Without the head -----------------------------------------------------------------------------------------------------


class Headless(nn.Module):
    """A model without its head: maps inputs to the features [N, F] that the head of `model` would receive."""

    whole_inputs = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy_of(model)
        found = head_found(self.model)
        if found.module is not None:
            for place in _aliases(self.model, found.module):
                parent, _, child = place.rpartition(".")
                setattr(self.model.get_submodule(parent), child, nn.Identity())
            return
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        for name, dim in found.weights:
            old = parameters[name]
            if old.ndim == 2:  # an identity in place of the weights lets the features through
                width = old.shape[1 - dim]
                new = torch.eye(width, dtype=old.dtype, device=old.device)
            elif old.ndim < 2:
                width = max((p.shape[1 - d] for n, d in found.weights if (p := parameters[n]).ndim == 2), default=1)
                new = torch.zeros(width, dtype=old.dtype, device=old.device)
            else:
                raise DataError(f"the features before {name!r} of {type(model).__name__} cannot be had; name a module")
            _put(self.model, name, nn.Parameter(new, requires_grad=False))

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        return forward(self.model, inputs)


class Selected(nn.Module):
    """A model of which only some outputs are used, in another order: outputs[:, places]."""

    whole_inputs = True
    places: Tensor
    """Numbers of the outputs that are used, in their new order."""

    def __init__(self, model: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        device = next((p.device for p in model.parameters()), None)
        self.register_buffer("places", torch.tensor(places, device=device))

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        return forward(self.model, inputs)[:, self.places]


def for_classes(model: nn.Module, known: Sequence[str], wanted: Sequence[str]) -> nn.Module:
    """`model`, whose outputs are the classes `known`, with the outputs `wanted`: itself where they are the same."""
    if not wanted or tuple(known) == tuple(wanted):
        return model
    return Selected(model, [list(known).index(name) for name in wanted])
