"""Means over the ranks of torch.distributed, taken before balancing: N ranks are one process with the whole batch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from crosstask.errors import RunError


class Group:
    """The processes that train together; this one alone if torch.distributed is not in use, or with `group=False`.

    Each rank's loss is the mean over its part of the batch, all parts being of one size, as with data parallelism.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = None if group is False else group
        used = group is not False and distributed.is_available() and distributed.is_initialized()
        self.size = distributed.get_world_size(self.group) if used else 1
        self.rank = distributed.get_rank(self.group) if used else 0
        on_gpu = used and distributed.get_backend(self.group) == "nccl"  # which sends nothing that is on the CPU
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, in place."""
        if self.size > 1 and tensor.numel():
            distributed.all_reduce(tensor, group=self.group)
            tensor /= self.size
        return tensor

    def means(self, tensors: dict[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
        """The means over the ranks, of one data type, in one message."""
        if self.size == 1 or not tensors:
            return tensors
        flat = self.mean(torch.cat([tensor.reshape(-1) for tensor in tensors.values()]))
        return dict(zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors.values()]), strict=True))

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors [n, …] of all ranks, equally long, one below the other [ranks * n, …]."""
        if self.size == 1:
            return tensor
        found = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        distributed.all_gather(list(found.chunk(self.size)), tensor.contiguous(), group=self.group)
        return found

    def any(self, here: bool) -> bool:
        """Whether it is so on some rank."""
        return here if self.size == 1 else bool(self._highest([int(here)])[0])

    def agrees(self, numbers: Sequence[int]) -> bool:
        """Whether every rank has the same numbers; how many they are may differ, too."""
        return self.size == 1 or self._same([hash(tuple(numbers))])  # of whole numbers it is the same in every process

    def _same(self, numbers: Sequence[int]) -> bool:
        return self._highest([*numbers, *(-n for n in numbers)]) == [*numbers, *(-n for n in numbers)]

    def _highest(self, numbers: Sequence[int]) -> list[int]:
        found = torch.tensor(numbers, device=self._device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self.group)
        return found.tolist()

    def sharded(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether some parameters are in parts on several ranks, or are what FSDP2 gathered of such for this step.

        `.grad` of the latter is not what the optimiser looks at, and nothing about them says what they are.
        """
        if self.size == 1:
            return False
        if any(hasattr(p, "full_tensor") for p in parameters):  # a DTensor, whose class costs half a second to import
            return True
        fsdp = sys.modules.get("torch.distributed.fsdp._fully_shard._fully_shard")
        if fsdp is None or not getattr(fsdp, "cls_to_fsdp_cls", True):  # nothing was ever sharded in this process
            return False
        holders = (h if isinstance(h, dict) else vars(h) for h in gc.get_referrers(*parameters) if _inspectable(h))
        gathered = {id(h["_unsharded_param"]) for h in holders if "_unsharded_param" in h}
        return any(id(p) in gathered for p in parameters)

    def check(self, *numbers: int) -> None:
        """RunError unless every rank has the same numbers (of losses, of parameters)."""
        if self.size == 1:
            return
        if not self._same(numbers):
            raise RunError(
                f"ranks differ in what they balance (here {numbers[0]} losses and {numbers[1]} shared values): "
                "give every rank the same losses, and the same `shared` and `task_specific` parameters"
            )

    def mean_gradients(
        self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]
    ) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Means over the ranks, dense; a parameter that no loss of any rank reaches is left out."""
        if self.size == 1:
            yield from ((p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None)
            return
        if not parameters:
            return
        reached = torch.tensor([g is not None for g in gradients], dtype=torch.int32, device=parameters[0].device)
        distributed.all_reduce(reached, distributed.ReduceOp.MAX, group=self.group)
        kinds: dict[torch.dtype, list[int]] = {}
        for number, (parameter, anywhere) in enumerate(zip(parameters, reached.tolist(), strict=True)):
            if anywhere:
                kinds.setdefault(parameter.dtype, []).append(number)
        for dtype, numbers in kinds.items():  # one message for each data type
            flat = torch.cat([_flat(gradients[n], parameters[n]).to(dtype) for n in numbers])
            sizes = [parameters[n].numel() for n in numbers]
            for number, part in zip(numbers, torch.split(self.mean(flat), sizes), strict=True):
                yield parameters[number], part.view_as(parameters[number])


def _flat(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    if gradient is None:
        return parameter.new_zeros(parameter.numel())
    return (gradient.to_dense() if gradient.is_sparse else gradient).reshape(-1)


def _inspectable(holder: object) -> bool:
    return isinstance(holder, dict) or hasattr(holder, "__dict__")
