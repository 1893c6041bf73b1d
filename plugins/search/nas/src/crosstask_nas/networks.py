"""Networks from architectures: what the search spaces of this plugin are made of."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError, nearest
from crosstask.options import option, record, unstructure
from crosstask.tasks import Task
from crosstask_search.models import ModelSpace
from crosstask_search.parameter import Parameter
from crosstask_search.space import SearchSpace

LINEAR = ("relu", "gelu", "tanh", "norm", "residual")
CONVOLUTIONS = ("conv3", "conv5", "separable3", "dilated3", "pool")


class Residual(nn.Module):
    """x W' + ReLU(x W): inputs [N, A] to [N, B]; without W' where the widths are equal."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
        self.shortcut = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.layer(x)
        return out


def operation(name: str, inputs: int, outputs: int) -> nn.Module:
    """One layer by its name, from `inputs` to `outputs` features or channels; images keep their size.

    Of linear networks: `relu`, `gelu`, `tanh` after a linear layer, `norm` (layer normalisation before the ReLU),
    `residual`. Of convolutional ones, each with batch normalisation and ReLU: `conv3`, `conv5`, `separable3` (depthwise
    and pointwise), `dilated3`, `pool` (3x3 average, then 1x1 convolution); `plain3` is the kernel's own layer, a 3x3
    convolution and ReLU. OptionError for another name.
    """
    if name in ("relu", "gelu", "tanh"):
        activation = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[name]
        return nn.Sequential(nn.Linear(inputs, outputs), activation())
    if name == "norm":
        return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU())
    if name == "residual":
        return Residual(inputs, outputs)
    if name == "plain3":
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())
    before: list[nn.Module] = []
    if name in ("conv3", "conv5", "dilated3"):
        size, dilation = (5 if name == "conv5" else 3), (2 if name == "dilated3" else 1)
        before = [nn.Conv2d(inputs, outputs, size, padding=size // 2 * dilation, dilation=dilation, bias=False)]
    elif name == "separable3":
        depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        before = [depthwise, nn.Conv2d(inputs, outputs, 1, bias=False)]
    elif name == "pool":
        before = [nn.AvgPool2d(3, stride=1, padding=1), nn.Conv2d(inputs, outputs, 1, bias=False)]
    else:
        raise OptionError(f"no operation {name!r}{nearest(name, [*LINEAR, *CONVOLUTIONS])}")
    return nn.Sequential(*before, nn.BatchNorm2d(outputs), nn.ReLU())


def halvings(shape: Sequence[int], layers: int) -> list[bool]:
    """After which layers a convolutional network halves its images: as long as four pixels a side are there."""
    side, found = min(shape[1:]), []
    for _ in range(layers):
        found.append(side >= 4)
        side = side // 2 if side >= 4 else side
    return found


def network(input_shape: Sequence[int], output_dim: int, *, layers: int, **choices: Any) -> nn.Module:
    """The network of an architecture: `layers` times `operation1`, `width1`, …, then a linear head named `head`.

    Images (channels, height, width) with convolutions get 2x2 max pooling after each layer while they have four pixels
    a side, and are averaged before the head; linear operations get their inputs flattened. OptionError for choices that
    are missing or of no use, DataError for convolutions on what is no image.
    """
    needed = [f"{what}{i}" for i in range(1, layers + 1) for what in ("operation", "width")]
    for name in needed:
        if name not in choices:
            raise OptionError(f"architecture of {layers} layers: {name!r} is missing")
    for name in choices:
        if name not in needed:
            raise OptionError(f"architecture of {layers} layers: {name!r} is not used{nearest(name, needed)}")
    names = [choices[f"operation{i}"] for i in range(1, layers + 1)]
    widths = [choices[f"width{i}"] for i in range(1, layers + 1)]
    images = names[0] not in LINEAR
    if images and len(input_shape) != 3:
        raise DataError(
            f"operation {names[0]!r} needs inputs of shape (channels, height, width), got {tuple(input_shape)}"
        )
    trunk: list[nn.Module] = [] if images else [nn.Flatten()]
    before = input_shape[0] if images else int(functools.reduce(lambda a, b: a * b, input_shape))
    halved = halvings(input_shape, layers) if images else [False] * layers
    for name, width, half in zip(names, widths, halved, strict=True):
        trunk.append(operation(name, before, width))
        if half:
            trunk.append(nn.MaxPool2d(2))
        before = width
    if images:
        trunk += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(OrderedDict(trunk=nn.Sequential(*trunk), head=nn.Linear(before, output_dim)))


@record
class ArchitectureSpace:
    """Architectures for inputs of one shape: their search space, and the modules that they stand for."""

    input_shape: tuple[int, ...] = option(ge=1, help="shape of one input")
    num_classes: int = option(ge=1, help="outputs of the network")
    models: ModelSpace = attrs.field(metadata={"help": "what `run_model_search` takes"})
    task: Any = attrs.field(
        default=None, eq=False, repr=False, metadata={"help": "a Task that `darts` and proxies use; not written down"}
    )

    def __unstructure__(self) -> dict[str, Any]:
        shown = {"input_shape": self.input_shape, "num_classes": self.num_classes, "models": self.models}
        plain: dict[str, Any] = unstructure(shown)
        return plain

    @functools.cached_property
    def descriptor(self) -> TaskDescriptor:
        """Any task with these shapes."""
        return TaskDescriptor(task_id="architecture", input_shape=self.input_shape, output_dim=self.num_classes)

    @functools.cached_property
    def space(self) -> SearchSpace:
        """Its points are architectures."""
        return self.models.space(self.descriptor)

    def build(self, architecture: Mapping[str, Any], seed: int = 0) -> nn.Module:
        """The network of an architecture, initialised from `seed`. OptionError if it is none of the space."""
        return self.models.model(self.space.check(architecture, "architecture")).build(self.descriptor, seed)


def create_nas_search_space(
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    max_layers: int = 4,
    *,
    operations: Sequence[str] | None = None,
    widths: Sequence[int] | None = None,
    task: Task | None = None,
) -> ArchitectureSpace:
    """Networks of one to `max_layers` layers, each with an operation and a width (see `network`).

    Inputs (channels, height, width) get convolutions, all others linear layers, unless `operations` says otherwise.
    `task` is what `darts` and proxies use, and says the shapes that are not given. OptionError for operations that are
    unknown or of both kinds, and for shapes that nobody says.
    """
    if task is not None:
        input_shape = input_shape if input_shape is not None else task.descriptor.input_shape
        num_classes = num_classes if num_classes is not None else task.descriptor.output_dim
    if not input_shape or num_classes is None:
        raise OptionError("a space of networks needs input_shape and num_classes, or a task whose descriptor says them")
    images = len(input_shape) == 3
    chosen = tuple(operations) if operations is not None else (CONVOLUTIONS if images else LINEAR)
    sizes = tuple(widths) if widths is not None else ((8, 16, 32, 64) if images else (16, 32, 64, 128))
    for name in chosen:
        if name not in (*LINEAR, *CONVOLUTIONS):
            raise OptionError(f"no operation {name!r}{nearest(name, [*LINEAR, *CONVOLUTIONS])}")
    if len({name in LINEAR for name in chosen}) != 1:
        raise OptionError(f"operations must be all linear or all convolutional, got {chosen}")
    if max_layers < 1:
        raise OptionError(f"max_layers must be at least 1, got {max_layers}")
    depths = tuple(range(1, max_layers + 1))
    parameters = {"layers": Parameter(choices=depths)}
    for depth in depths:
        when = {"layers": depths[depth - 1 :]} if depth > 1 else {}
        parameters[f"operation{depth}"] = Parameter(choices=chosen, when=when)
        parameters[f"width{depth}"] = Parameter(choices=sizes, when=when)
    models = ModelSpace(kind="crosstask_nas.networks:network", parameters=parameters)
    return ArchitectureSpace(input_shape=tuple(input_shape), num_classes=num_classes, models=models, task=task)
