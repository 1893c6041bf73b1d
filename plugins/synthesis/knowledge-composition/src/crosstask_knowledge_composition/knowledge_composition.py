"""The `knowledge_composition` synthesizer."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import joined as joined_inputs
from crosstask.learning.inputs import kind_of
from crosstask.learning.modules import Headless, forward
from crosstask.learning.training import device_of, dtype_of, predict
from crosstask.options import component, option
from crosstask.points.synthesis import Synthesizer
from crosstask.reading import DENSE
from crosstask.records import Interval, Provenance
from crosstask.tasks import Task
from crosstask_knowledge_composition.pieces import adapted, joined
from crosstask_knowledge_composition.scene import ANCHORED, OWN, SEEN, STRANGE, Scene, Trunk, near
from crosstask_knowledge_composition.stitching import FEWEST
from crosstask_synthesis.expectation import Make, expected_score
from crosstask_synthesis.outputs import is_single
from crosstask_synthesis.owners import ByOutputs, Owners, lacks_outputs, owners_of, strange_inputs, unfit

Inputs = Tensor | MultiInput


@component
class KnowledgeComposition(ByOutputs, Synthesizer):
    """One network from pieces of several: the trunk of one task, and on it the heads of all that know an output.

    A head fits only the features it was trained on. It is stitched onto another trunk by a ridge regression in closed
    form (Lenc & Vedaldi 2015), without labels:

    - on inputs of the new task's domain (the unlabelled ones, and training inputs of sources from there) where the
      head's own model is of that domain;
    - else through *anchors*: classes that sources know in both domains. What the head says of a class on average in its
      own domain is what it shall say of that class in the new one: so a head for odd and even learned upright, a trunk
      for rotated digits, and digits known in both, make a model for rotated odd and even;
    - else on the owner's own inputs, and the confidence falls to a quarter.

    How much of each output's variance a stitch carries is measured with each sample left out. Several owners of an
    output are weighted by it, those of the better way only. The trunk is the one onto which most is carried, of the new
    task's domain if there is one. Logits are centred and divided by their root mean square, as each head has its own
    loudness (a single logit counts as those of two classes); where sources have labelled training data of all the new
    task's classes in its domain, one factor and one offset per class are then fitted to these (`calibrate`).

    `blocks` names the tasks that the trunk's blocks come from, `adapters` those whose change of the trunk's weights (a
    fine-tuning of `trunk`) is added to it with low rank. Regression: heads with as many outputs, as they are;
    several labels at once: heads by the labels' names, as they are. One answer for each sample: not for dense tasks.
    """

    trunk: str | None = option(None, help="the task whose trunk is used (default: found)")
    blocks: tuple[str, ...] = option((), help="for each block of the trunk, from the input on, its task")
    adapters: tuple[str, ...] = option((), help="tasks fine-tuned from `trunk` whose change is added to it")
    rank: int = option(8, ge=1, help="rank of such a change")
    minimum: float = option(0.0, ge=-1, lt=1, help="leave out heads with a transfer coefficient up to this")
    calibrate: bool = option(True, help="fit one factor and offset per class where labelled data of sources allow it")
    samples: int = option(2048, ge=4, help="inputs that a stitch is fitted to, at most")

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Inputs | None
    ) -> nn.Module:
        strange_inputs(new_task, inputs)
        if new_task.task_type in DENSE:
            raise DataError(
                f"task {new_task.task_id!r} is a {new_task.task_type} task: knowledge_composition gives one answer for "
                "each sample; weighted_ensemble and the merging methods make models for it"
            )
        why = {t.task_id: reason for t in sources if (reason := unfit(new_task, t, inputs))}
        able = [t for t in sources if t.task_id not in why]
        silent = {t.task_id: reason for t in able if (reason := self._silent(new_task, t, graph))}
        owners = owners_of(new_task, [t for t in able if t.task_id not in silent], why | silent)
        scene = Scene(new_task, able, self._seen(new_task, able, inputs), self.samples)
        trunks = self._trunks(new_task, able, scene)
        made = [self._on(trunk, owners, scene) for trunk in trunks]
        best = max(made, key=lambda m: float(m.carried.mean()))
        if self.calibrate and new_task.task_type == "classification":
            best = self._calibrated(best, scene)
        if is_single(new_task):  # two classes by how far the second is above the first
            best = attrs.evolve(best, weight=best.weight[1:] - best.weight[:1], bias=best.bias[1:] - best.bias[:1])
        trunk = best.trunk.module
        size = best.weight.shape
        head = skip_init(nn.Linear, size[1], size[0], dtype=dtype_of(trunk), device=device_of(trunk))
        with torch.no_grad():
            head.weight.copy_(best.weight)
            head.bias.copy_(best.bias)
        model = Composed(trunk, head).eval()
        model.provenance = Provenance(
            strategy="knowledge_composition",
            new_task=new_task.task_id,
            sources=_importance(best),
            notes=(
                f"trunk: {best.trunk.name}" + (f", of {len(made)} tried" if len(made) > 1 else ""),
                *best.notes,
                *best.trunk.notes,
                *(f"{t} left out: {reason}" for t, reason in sorted(why.items())),
            ),
            confidence=float((best.carried * torch.tensor(best.trust)).min()),
        )
        return model

    def expect(
        self, make: Make, model: nn.Module, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph,
        inputs: Inputs | None,
    ) -> tuple[Interval | None, str]:  # fmt: skip
        return expected_score(make, model, new_task, sources, graph, inputs)

    def _silent(self, new_task: TaskDescriptor, source: Task, graph: TransferGraph) -> str | None:
        """Why a source's head is not used; its trunk may be."""
        ends = source.task_id, new_task.task_id
        edge = graph.edge(*ends) if all(end in graph for end in ends) else None
        if edge is not None and edge.transfer_coefficient <= self.minimum:
            return f"is not expected to help ({edge.transfer_coefficient:+.2f})"
        return lacks_outputs(new_task, source)

    def _seen(self, new_task: TaskDescriptor, able: list[Task], inputs: Inputs | None) -> Inputs | None:
        """Inputs of the new task's domain, evenly from all that have some."""
        parts: list[Inputs] = [] if inputs is None else [inputs]
        parts += [t.data("train").inputs for t in able if near(t, new_task) and t.has_data("train")]
        kinds = [kind_of(part) for part in parts]  # those of the new task, or else of most
        kind = kinds[0] if inputs is not None else max(kinds, key=kinds.count, default=None)
        parts = [part for part, own in zip(parts, kinds, strict=True) if own == kind]
        each = max(FEWEST, self.samples // max(1, len(parts)))
        return joined_inputs([part[:each] for part in parts]) if parts else None

    def _trunks(self, new_task: TaskDescriptor, able: list[Task], scene: Scene) -> list[Trunk]:
        by_name = {t.task_id: t for t in able}
        for name in (*self.blocks, *self.adapters, *([self.trunk] if self.trunk else [])):
            if name not in by_name:
                raise DataError(f"{self.origin}: no fitting source is called {name!r}{nearest(name, by_name)}")
        if self.blocks:
            if self.trunk or self.adapters:
                raise DataError(f"{self.origin}: blocks already say what the trunk is made of")
            chosen = [by_name[name] for name in self.blocks]
            module, notes = joined(chosen, scene.seen if scene.seen is not None else scene.inputs_of(chosen[0]))
            return [Trunk(" + ".join(self.blocks), module, None, list(self.blocks), notes)]
        if self.adapters:
            if self.trunk is None:
                raise DataError(f"{self.origin}: adapters need `trunk`, the task that they were fine-tuned from")
            base = by_name[self.trunk]
            model, notes = adapted(base, [by_name[name] for name in self.adapters], self.rank)
            return [Trunk(self.trunk, Headless(model), None, [self.trunk, *self.adapters], notes)]
        close = [t for t in able if near(t, new_task)] or able
        chosen = [by_name[self.trunk]] if self.trunk else close
        return [Trunk(t.task_id, Headless(t.model), t, [t.task_id], []) for t in chosen if t.model is not None]

    def _on(self, trunk: Trunk, owners: list[Owners], scene: Scene) -> Made:
        """The heads of the owners on one trunk."""
        rows = {t.task_id: scene.onto(trunk, t) for t in _each(owners)}
        weights, biases, carried, trust, shares, notes = [], [], [], [], [], []
        for k, group in enumerate(owners):
            way = min(rows[t.task_id][1] for t, _ in group)
            used = [(t.task_id, rows[t.task_id][0], j) for t, j in group if rows[t.task_id][1] == way]
            held = torch.stack([found.carried[j] for _, found, j in used])
            share = held / held.sum() if float(held.sum()) > 0 else torch.full_like(held, 1 / len(held))
            weights.append(sum((w * f.weight[j] for w, (_, f, j) in zip(share, used, strict=True)), torch.zeros(())))
            biases.append(sum((w * f.bias[j] for w, (_, f, j) in zip(share, used, strict=True)), torch.zeros(())))
            carried.append((share * held).sum())
            trust.append(0.25 if way == STRANGE else 1.0)
            shares.append({name: float(w) for w, (name, _, _) in zip(share, used, strict=True)})
            names = ", ".join(f"{name} {float(h):.0%}" for h, (name, _, _) in zip(held, used, strict=True))
            notes.append(f"{scene.output(k)}: carried from {names}{_WAYS[way]}")
        return Made(trunk, torch.stack(weights), torch.stack(biases), torch.stack(carried), trust, shares, notes)

    def _calibrated(self, made: Made, scene: Scene) -> Made:
        """With one factor and offset per class, fitted to labelled training data of sources from the domain."""
        labelled = scene.labelled()
        if labelled is None:
            return made
        inputs, labels = labelled
        features = predict(made.trunk.module, inputs).flatten(1).to("cpu", torch.float64)
        logits = features @ made.weight.T + made.bias
        scale = logits.std().clamp_min(1e-9)
        count = torch.bincount(labels, minlength=logits.shape[1]).double()
        start = torch.zeros(2, logits.shape[1], dtype=torch.float64)
        change = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([change], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            found = functional.cross_entropy(
                logits / scale * change[0].exp() + change[1], labels, weight=len(labels) / (len(count) * count)
            )
            total = found + 1e-3 * change.square().sum()  # classes told apart without error would have no optimum
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        factor = change[0].detach().exp() / scale
        note = f"heads were brought into balance on {len(labels)} labelled training samples of the sources"
        return attrs.evolve(
            made,
            weight=made.weight * factor[:, None],
            bias=made.bias * factor + change[1].detach(),
            notes=[*made.notes, note],
        )


_WAYS = {OWN: "", SEEN: "", ANCHORED: ", through classes known in both domains", STRANGE: ", from another domain"}


@attrs.frozen(eq=False)
class Made:
    """A head on a trunk: weight [K, F], bias [K], share of the variance carried [K], trust in that share, and for each
    output the owners with their weights.
    """

    trunk: Trunk
    weight: Tensor
    bias: Tensor
    carried: Tensor
    trust: list[float]
    shares: list[dict[str, float]]
    notes: list[str]


class Composed(nn.Module):
    """A trunk with a new head."""

    whole_inputs = True

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.provenance: Provenance

    def forward(self, inputs: Inputs) -> Tensor:
        out: Tensor = self.head(forward(self.trunk, inputs).flatten(1))
        return out


def _each(owners: list[Owners]) -> list[Task]:
    return list({t.task_id: t for group in owners for t, _ in group}.values())


def _importance(made: Made) -> dict[str, float]:
    """Half for the pieces of the trunk, half for the heads by the outputs they serve."""
    found: dict[str, float] = {}
    for name in made.trunk.pieces:
        found[name] = found.get(name, 0.0) + 0.5 / len(made.trunk.pieces)
    for group in made.shares:
        for name, share in group.items():
            found[name] = found.get(name, 0.0) + 0.5 * share / len(made.shares)
    return found
