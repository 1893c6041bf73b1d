"""Zero-cost proxies: what an untrained network tells of how well it will learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from crosstask.errors import OptionError, RunError, nearest
from crosstask.learning.modules import copy_of
from crosstask.learning.objectives import Objective, loss_of
from crosstask.tasks import Task
from crosstask_nas.networks import ArchitectureSpace
from crosstask_search.objective import measured, what_failed
from crosstask_search.space import Point

Proxy = Callable[[nn.Module, Tensor, Tensor, Objective], float]


def parameters(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Objective) -> float:
    """Logarithm of the number of parameters: the proxy that the others have to beat."""
    return math.log(sum(p.numel() for p in model.parameters()))


def grad_norm(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Objective) -> float:
    """Euclidean norm of the loss's gradient on one batch (Abdelfattah et al. 2021, section 3)."""
    value = loss(model(inputs), targets)
    weights = [p for p in model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    return float(torch.stack([(slope**2).sum() for slope in slopes]).sum().sqrt())


def synflow(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Objective) -> float:
    """Logarithm of Σ |w · ∂R/∂w| with R the sum of outputs for an input of ones and absolute weights (Tanaka et al.
    2020, eq. 1 and 2). Needs no data; normalisation layers are passed as in evaluation.
    """
    model = copy_of(model).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    weights = list(model.parameters())
    total = model(torch.ones_like(inputs[:1], dtype=torch.double)).sum()
    slopes = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    score = sum(float((w.detach() * s).abs().sum()) for w, s in zip(weights, slopes, strict=True))
    return math.log(max(score, 1e-300))


def activations(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Objective) -> float:
    """Logarithm of the determinant of how alike the samples' activation patterns are (NASWOT: Mellor et al. 2021, eq.
    2): K_ij counts the units that are on, or off, for both samples i and j. High where the untrained network already
    tells samples apart.
    """
    codes: list[Tensor] = []
    kinds = (nn.ReLU, nn.GELU, nn.Tanh)

    def note(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        codes.append((out > 0).flatten(1).to(torch.double))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not codes:
        raise OptionError(f"proxy 'activations': {type(model).__name__} has no ReLU, GELU or Tanh module")
    code = torch.cat(codes, dim=1)
    alike = code @ code.T + (1 - code) @ (1 - code).T
    return float(torch.linalg.slogdet(alike + 1e-6 * torch.eye(len(alike), dtype=alike.dtype)).logabsdet)


PROXIES: dict[str, Proxy] = {
    "parameters": parameters,
    "grad_norm": grad_norm,
    "synflow": synflow,
    "activations": activations,
}
"""What can be said of a network without training it, by name."""


def require_proxy(proxy: str) -> None:
    """OptionError if there is no proxy of that name."""
    if proxy not in PROXIES:
        raise OptionError(f"no proxy {proxy!r}{nearest(proxy, PROXIES)}")


def proxy_of(space: ArchitectureSpace, architecture: Point, task: Task, proxy: str, seed: int = 0) -> float:
    """A proxy's score of an architecture, higher for better, on 64 training samples of the task. Nothing is trained."""
    require_proxy(proxy)
    data = task.data("train").head(64)
    model = space.build(architecture, seed).train()
    if data.inputs.is_floating_point():
        model = model.to(data.inputs.dtype)
    return PROXIES[proxy](model, data.inputs, data.targets, loss_of(task))


def rank_by_proxy(
    space: ArchitectureSpace, task: Task, proxy: str = "synflow", pool: int = 64, seed: int = 0
) -> list[tuple[Point, float]]:
    """`pool` random architectures with their scores, best first; fewer where the space has no more, and without those
    that cannot be built or scored. RunError, with the first reason, if that is none of them.
    """
    require_proxy(proxy)
    task.data("train")
    rng = np.random.default_rng(seed)
    tried: set[tuple[object, ...]] = set()
    found: list[tuple[Point, float]] = []
    failed: list[str] = []
    while len(tried) < pool:
        point = space.space.fresh(rng, tried)
        if space.space.key(point) in tried:  # there are no more
            break
        tried.add(space.space.key(point))
        try:
            found.append((point, measured(proxy_of, space, point, task, proxy, seed)))
        except Exception as raised:  # one network that is too large or degenerate does not spoil the others
            failed.append(f"{what_failed(raised)} (at {point})")
    if not found:
        raise RunError(f"proxy {proxy!r} failed on all {len(failed)} architectures; the first: {failed[0]}")
    return sorted(found, key=lambda pair: -pair[1])
