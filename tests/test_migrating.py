"""docs/migrating.md holds: both halves of each pair are run, from the page, and give the same numbers.

TorchJD and PEFT come with the extras; the others are slow tests, where their folders are: LIBMTL, MERGEKIT, AVALANCHE
(`pip install --no-deps --target FOLDER LibMTL`, `mergekit immutables`, `avalanche-lib dill gdown`), LEARN2LEARN (its
sdist, unpacked).
"""

from __future__ import annotations

import copy
import importlib
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import crosstask_jacobian
import crosstask_weighting
from crosstask_continual.testing import learner, pairs
from crosstask_ewc import EWC
from crosstask_pcgrad import PCGrad
from crosstask_robust import Krum, TrimmedMean

PAGE = (Path(__file__).parents[1] / "docs" / "migrating.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Names = dict[str, Any]


def halves(library: str) -> Iterator[tuple[str, Names]]:
    """(language, what its names are afterwards) of each block in a library's section: "text" is theirs."""
    beginning, section = PAGE.partition("\n## ")[0], PAGE.partition(f"\n## {library}\n")[2].partition("\n## ")[0]
    blocks = BLOCK.findall(section)
    assert sorted(language for language, _ in blocks) == ["python", "text"], library
    for language, code in blocks:
        names: Names = {}
        exec(BLOCK.findall(beginning)[0][1], names)
        exec(compile(code, f"migrating.md: {library}, {language}", "exec"), names)
        yield language, names


def both(library: str) -> tuple[Names, Names]:
    """(theirs, ours)"""
    found = dict(halves(library))
    return found["text"], found["python"]


def gradients(names: Names) -> Tensor:
    return torch.cat([p.grad.flatten() for p in names["trunk"].parameters()])


def close(ours: Tensor, theirs: Tensor, relative: float) -> None:
    assert float(theirs.abs().max()) > 0
    assert float((ours - theirs).norm() / theirs.norm()) < relative


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- TorchJD and PEFT


def test_torchjd() -> None:
    theirs, ours = both("TorchJD")
    close(gradients(ours), gradients(theirs), 1e-4)
    for name in ("ten", "two"):
        torch.testing.assert_close(ours[name].weight.grad, theirs[name].weight.grad)


AGGREGATORS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "upgrad": ("UPGrad", {}, crosstask_jacobian.UPGrad),
    "mgda": ("MGDA", {"epsilon": 1e-12, "max_iters": 20_000}, crosstask_jacobian.MGDA),
    "cagrad": ("CAGrad", {"c": 0.5}, lambda: crosstask_jacobian.CAGrad(c=0.5)),
    "imtl_g": ("IMTLG", {}, crosstask_jacobian.IMTLG),
    "aligned_mtl": ("AlignedMTL", {}, crosstask_jacobian.AlignedMTL),
    "dualproj": ("DualProj", {}, crosstask_jacobian.DualProj),
    "config": ("ConFIG", {}, crosstask_jacobian.ConFIG),
    "krum": ("Krum", {"n_byzantine": 1, "n_selected": 2}, lambda: Krum(byzantine=1, selected=2)),
    "sum": ("Sum", {}, crosstask_weighting.Equal),
    "trimmed_mean": ("TrimmedMean", {"trim_number": 1}, lambda: TrimmedMean(share=0.2)),
    "pcgrad": ("PCGrad", {}, PCGrad),
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregators_of_torchjd_on_real_gradients(name: str) -> None:
    """The gradients of five questions about digits. What draws an order (PCGrad) is compared by two of them."""
    aggregation = importlib.import_module("torchjd.aggregation")
    names: Names = {}
    exec(BLOCK.findall(PAGE)[0][1], names)
    trunk, x, y = names["trunk"].double(), names["x"].double(), names["y"]
    questions = [y % 2, (y > 4).long(), (y == 0).long(), (y % 3 == 0).long(), ((y == 6) | (y == 8)).long()]
    torch.manual_seed(0)
    rows = []
    for question in questions[: 2 if name == "pcgrad" else 5]:
        loss = cross_entropy(torch.nn.Linear(16, 2).double()(trunk(x)), question)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trunk.parameters()))]))
    matrix = torch.stack(rows)
    kind, options, ours = AGGREGATORS[name]
    close(ours().combine(matrix), getattr(aggregation, kind)(**options)(matrix), 1e-3)


def test_peft() -> None:
    theirs, ours = both("PEFT")
    torch.testing.assert_close(theirs["answers"], ours["answers"])
    bare: Names = {}
    exec(BLOCK.findall(PAGE)[0][1], bare)
    assert not torch.allclose(ours["answers"], bare["net"](bare["x"]))


# --- The others, where they are


def at(variable: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(os.environ.get(variable, ""))
    if not os.environ.get(variable) or not folder.is_dir():
        pytest.skip(f"{variable} names no folder: see the head of this file")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def bare(folder: Path, monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Packages whose `__init__` is not run, as it asks for what their modules do not need."""
    for name in packages:
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        monkeypatch.setitem(sys.modules, name, package)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_libmtl(monkeypatch: pytest.MonkeyPatch) -> None:
    bare(at("LIBMTL", monkeypatch), monkeypatch, "LibMTL")
    theirs, ours = both("LibMTL")
    close(gradients(ours), gradients(theirs), 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weightings_of_libmtl(monkeypatch: pytest.MonkeyPatch) -> None:
    """GLS, and DWA on losses that change, over five epochs: the same gradients."""
    bare(at("LIBMTL", monkeypatch), monkeypatch, "LibMTL")
    weighting = importlib.import_module("LibMTL.weighting")
    parameter = torch.nn.Parameter(torch.tensor([0.5, 2.0, 1.5]))

    def losses() -> Tensor:
        return torch.stack([(parameter**2).sum(), (parameter - 3).pow(2).sum(), parameter.exp().sum()])

    theirs = weighting.GLS()
    theirs.task_num, theirs.device = 3, "cpu"
    theirs.backward(losses())
    wanted = copy.deepcopy(parameter.grad)
    parameter.grad = None
    crosstask_weighting.GLS().backward(list(losses()), shared=[parameter])
    torch.testing.assert_close(parameter.grad, wanted)

    theirs = weighting.DWA()
    theirs.task_num, theirs.device, theirs.train_loss_buffer = 3, "cpu", np.zeros((3, 5))
    ours = crosstask_weighting.DWA(temperature=1.5, interval=4)  # an epoch has four steps
    seen = []
    for epoch in range(5):
        theirs.epoch, means = epoch, np.zeros(3)
        for _ in range(4):
            parameter.grad = None
            seen.append(theirs.backward(losses(), T=1.5))
            wanted, parameter.grad = parameter.grad, None
            means += losses().detach().double().numpy() / 4
            ours.backward(list(losses()), shared=[parameter])
            torch.testing.assert_close(parameter.grad, wanted)
            with torch.no_grad():
                parameter -= 0.02 * parameter.grad
        theirs.train_loss_buffer[:, epoch] = means
    assert all((weights == 1).all() for weights in seen[:8]), "the first two epochs"
    assert all(np.ptp(weights) > 1e-3 for weights in seen[8:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_learn2learn(monkeypatch: pytest.MonkeyPatch) -> None:
    bare(at("LEARN2LEARN", monkeypatch), monkeypatch, "learn2learn", "learn2learn.algorithms")
    theirs, ours = both("learn2learn")
    for one, other in zip(theirs["net"].parameters(), ours["net"].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def avalanches_ewc(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its plugin's own code; what its package imports and that code does not use (torchvision) is nothing here."""
    folder = at("AVALANCHE", monkeypatch)
    bare(folder, monkeypatch, "avalanche", "avalanche.training", "avalanche.models", "avalanche.training.plugins")
    monkeypatch.setitem(
        sys.modules, "avalanche.training.plugins.strategy_plugin", mock.MagicMock(SupervisedPlugin=object)
    )
    forward = types.SimpleNamespace(avalanche_forward=lambda model, inputs, _: model(inputs))
    monkeypatch.setitem(sys.modules, "avalanche.models.utils", forward)
    monkeypatch.setitem(sys.modules, "avalanche.models.dynamic_modules", mock.MagicMock())
    monkeypatch.setitem(sys.modules, "avalanche.benchmarks", mock.MagicMock())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("avalanche.training.plugins.ewc")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_avalanche(monkeypatch: pytest.MonkeyPatch) -> None:
    found = avalanches_ewc(monkeypatch)
    sys.modules["avalanche.training.plugins"].EWCPlugin = found.EWCPlugin  # type: ignore[attr-defined]
    theirs, ours = both("Avalanche")
    assert set(theirs["fisher"]) == set(ours["fisher"])
    for name, importance in theirs["fisher"].items():
        torch.testing.assert_close(ours["fisher"][name], importance.data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["separate", "online"])
def test_the_penalty_of_avalanche(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two tasks, the gradient of its penalty with λ and of ours with the strength 2 λ, on the same weights."""
    found = avalanches_ewc(monkeypatch)
    plugin = found.EWCPlugin(25.0, mode, **({"decay_factor": 0.7} if mode == "online" else {}))
    ewc = EWC(strength=50.0, mode="offline" if mode == "separate" else "online", decay=0.7)
    made = learner(ewc, "domain", learning_rate=0.02, optimizer="sgd")
    model = made.model
    strategy = types.SimpleNamespace(
        model=model, _criterion=cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu",
        train_mb_size=1, clock=types.SimpleNamespace(train_exp_counter=0), experience=types.SimpleNamespace(),
    )  # fmt: skip
    for number, task in enumerate(pairs()[:2]):
        made.train_task(task, num_epochs=1)
        batch = model.data(task)
        strategy.experience.dataset = [(x, y, 0) for x, y in zip(batch.inputs, batch.targets, strict=True)]
        strategy.clock.train_exp_counter = number
        plugin.after_training_exp(strategy)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.zero_grad()
    strategy.clock.train_exp_counter, strategy.loss = 2, torch.zeros(())
    plugin.before_backward(strategy)
    strategy.loss.backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    ewc.task_begins(model, pairs()[2])
    ewc.after_backward(model)
    close(torch.cat([p.grad.flatten() for p in model.parameters()]), wanted, 1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mergekit(monkeypatch: pytest.MonkeyPatch) -> None:
    at("MERGEKIT", monkeypatch)
    theirs, ours = both("mergekit")
    torch.testing.assert_close(theirs["merged"], ours["merged"])
