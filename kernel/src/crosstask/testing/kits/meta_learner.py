"""Checks of meta-learners."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import CrosstaskError, DataError
from crosstask.learning.episodes import Episodes
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, claims, expect, refused
from crosstask.testing.tasks import small_portfolio

WAYS, SHOTS, QUERIES, COUNT = 3, 2, 4, 4
WIDTH = 16


class MetaLearnerKit(Kit):
    """Steps on batches of episodes, and adaptation to a support set.

    A `twin(model, episodes, optimizer)` is another `meta_step`, which leaves the same weights. The model is a small
    network with batch normalisation; one with the capability `encoder` gets it without a head.
    """

    point = "meta_learner"
    capabilities: ClassVar[frozenset[str]] = frozenset({"encoder", "regression", "ragged", "support_only"})

    def inputs(self) -> dict[str, Any]:
        tasks = list((self.subject.portfolio or small_portfolio)())
        task = max(tasks, key=lambda t: t.descriptor.output_dim or 0)
        return {"model": self.network(task.descriptor.input_shape), "episodes": _drawn(task)}

    def network(self, shape: tuple[int, ...], outputs: int = WAYS) -> nn.Module:
        """Small, the same each time."""
        encoder = "encoder" in self.subject.component.capabilities
        layers = [nn.Flatten(), nn.Linear(math.prod(shape), WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()]
        layers += [nn.Linear(WIDTH, 8 if encoder else outputs)]
        generator = torch.Generator().manual_seed(1)
        made = nn.Sequential(*layers)
        with torch.no_grad():
            for parameter in made.parameters():
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn / parameter.shape[-1] ** 0.5)
        return made

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        episodes = inputs["episodes"]
        model = component.prepare(copy.deepcopy(inputs["model"]), episodes)
        optimizer = component.optimizer(model)
        metrics = [call("meta_step", model=model, episodes=episodes, optimizer=optimizer) for _ in range(2)]
        adapted = call("adapt", model=model, support=episodes.support(0), steps=None)
        return [metrics, plain(model), plain(adapted(episodes.query_inputs[0]))]

    def stepped(
        self, steps: int = 1, device: str = "cpu", dtype: Any = None, rate: float | None = None, **given: Any
    ) -> tuple[Any, ...]:
        """(run's component, inputs, model before, model after, metrics of each step) of a new component in a run.

        Its own optimiser steps, or plain gradient descent of this rate.
        """
        inputs, component = self.inputs() | given, self.make()
        episodes = inputs["episodes"].to(device, *([dtype] if dtype else []))
        model = inputs["model"].to(device=device, **({"dtype": dtype} if dtype else {}))
        with self.run(component, device=device) as run:
            model = component.prepare(model, episodes)
            before = copy.deepcopy(model)
            optimizer = component.optimizer(model) if rate is None else torch.optim.SGD(model.parameters(), lr=rate)
            given = {"model": model, "episodes": episodes, "optimizer": optimizer}
            metrics = [run.call(component, "meta_step", **given) for _ in range(steps)]
        return component, inputs | {"episodes": episodes}, before, model, metrics

    def adapted(self, support: TensorData | None = None, steps: int | None = None, **given: Any) -> tuple[Any, Any]:
        """(the model before, the adapted one) of a new component in a run."""
        inputs, component = self.inputs() | given, self.make()
        with self.run(component) as run:
            model = component.prepare(inputs["model"], inputs["episodes"])
            chosen = inputs["episodes"].support(0) if support is None else support
            return model, run.call(component, "adapt", model=model, support=chosen, steps=steps)

    def check_metrics(self) -> None:
        """`meta_step` returns finite numbers, `loss` and an `accuracy` in [0, 1] among them."""
        *_, metrics = self.stepped(2)
        for found in metrics:
            for name in ("loss", "accuracy"):
                expect(name in found, f"{self.name}.meta_step returns no {name!r}, only {', '.join(sorted(found))}")
            wrong = [n for n, v in found.items() if type(v) is not float or not math.isfinite(v)]
            expect(not wrong, f"{self.name}.meta_step: {', '.join(wrong)} is no finite float")
            expect(0 <= found["accuracy"] <= 1, f"{self.name}.meta_step: accuracy {found['accuracy']} not in [0, 1]")

    def check_trains_the_model(self) -> None:
        """Steps on the same episodes change the model in place and lower the loss."""
        *_, before, after, metrics = self.stepped(40)
        one, other = (dict(m.named_parameters()) for m in (before, after))
        moved = [name for name in one if not torch.equal(one[name], other[name])]
        expect(moved, f"{self.name}.meta_step left every parameter of the model as it was")
        first, last = metrics[0]["loss"], metrics[-1]["loss"]
        expect(
            last < first, f"{self.name}: the loss of the same episodes went from {first:.4g} to {last:.4g} in 40 steps"
        )

    def check_adapted_scores(self) -> None:
        """The adapted model is in evaluation mode and gives finite scores [N, classes of the support set]."""
        _, adapted = self.adapted()
        expect(isinstance(adapted, nn.Module), f"{self.name}.adapt returned a {type(adapted).__name__}, not a module")
        expect(not adapted.training, f"{self.name}.adapt returned a module in training mode")
        scores = adapted(self.inputs()["episodes"].query_inputs[0])
        wanted = (WAYS * QUERIES, WAYS)
        expect(tuple(scores.shape) == wanted, f"{self.name}: scores of shape {tuple(scores.shape)}, expected {wanted}")
        expect(bool(torch.isfinite(scores).all()), f"{self.name}: scores that are not finite")

    def check_adapting_leaves_the_model(self) -> None:
        """`adapt` leaves the model as it was, running statistics too, and what it gives shares no weights with it."""
        inputs, component = self.inputs(), self.make()
        with self.run(component) as run:
            model = component.prepare(inputs["model"], inputs["episodes"])
            before = plain(model)
            adapted = run.call(component, "adapt", model=model, support=inputs["episodes"].support(0), steps=None)
        found = difference(before, plain(model), "model")
        expect(found is None, f"{self.name}.adapt changes the model: {found}")
        with torch.no_grad():
            for tensor in [*adapted.parameters(), *adapted.buffers()]:
                tensor.zero_()
        found = difference(before, plain(model), "model")
        expect(found is None, f"{self.name}: the adapted model shares tensors with the one it was made from: {found}")

    def check_any_labels(self) -> None:
        """Labels may be any integers: columns of the scores follow them in rising order."""
        episodes = self.inputs()["episodes"]
        support, query = episodes.support(0), episodes.query_inputs[0]
        other = torch.tensor([-4, 7, 1000])[support.targets]
        _, one = self.adapted()
        _, two = self.adapted(TensorData(support.inputs, other))
        found = difference(plain(one(query)), plain(two(query)), "scores")
        expect(found is None, f"{self.name}: labels -4, 7, 1000 in the place of 0, 1, 2 change the {found}")

    def check_one_class_refused(self) -> None:
        """A support set with a single class is refused with a DataError."""
        support = self.inputs()["episodes"].support(0)
        alike = TensorData(support.inputs, torch.zeros_like(support.targets))
        with refused(f"{self.name}.adapt with one class", DataError, naming="class"):
            self.adapted(alike)

    def check_number_of_classes(self) -> None:
        """A model without an output for each class is refused with a DataError; an encoder takes any number of them."""
        episodes = self.inputs()["episodes"]
        support = episodes.support(0)
        kept = support.targets < WAYS - 1
        fewer = TensorData(support.inputs[kept], support.targets[kept])
        if "encoder" in self.subject.component.capabilities:
            _, adapted = self.adapted(fewer)
            scores = adapted(episodes.query_inputs[0])
            expect(scores.shape[1] == WAYS - 1, f"{self.name}: {scores.shape[1]} scores for {WAYS - 1} classes")
            return
        with refused(
            f"{self.name}.adapt: a head of {WAYS} outputs for {WAYS - 1} classes", DataError, naming=str(WAYS)
        ):
            self.adapted(fewer)
        shape = tuple(episodes.support_inputs.shape[2:])
        with refused(f"{self.name}.meta_step: a head of {WAYS + 2} outputs for {WAYS} classes", DataError):
            self.stepped(model=self.network(shape, WAYS + 2))

    def check_predict_agrees_with_adapt(self) -> None:
        """`predict` gives the scores of the models that `adapt` makes, episode by episode."""
        inputs, component = self.inputs(), self.make()
        episodes = inputs["episodes"]
        with self.run(component) as run:
            model = component.prepare(inputs["model"], episodes)
            before = plain(model)
            together = component.predict(model, episodes, None)
            found = difference(before, plain(model), "model")
            expect(found is None, f"{self.name}.predict changes the model: {found}")
            for number in range(len(episodes)):
                given = {"model": model, "support": episodes.support(number), "steps": None}
                own = run.call(component, "adapt", **given)(episodes.query_inputs[number])
                close = torch.allclose(together[number], own, rtol=1e-3, atol=1e-4)
                expect(close, f"{self.name}: predict and adapt give other scores for episode {number}")

    def check_no_silent_nan(self) -> None:
        """Inputs that are not finite end in an error, with the weights as they were."""
        inputs, component = self.inputs(), self.make()
        episodes = inputs["episodes"]
        broken = attrs.evolve(episodes, query_inputs=episodes.query_inputs * math.nan)
        with self.run(component) as run:
            model = component.prepare(inputs["model"], episodes)
            before = {name: plain(p) for name, p in model.named_parameters()}
            optimizer = component.optimizer(model)
            with refused(f"{self.name}.meta_step on queries that are not finite", CrosstaskError):
                run.call(component, "meta_step", model=model, episodes=broken, optimizer=optimizer)
        found = difference(before, {name: plain(p) for name, p in model.named_parameters()}, "weights")
        expect(found is None, f"{self.name}: a step that failed changes {found}")

    def check_regression_as_claimed(self) -> None:
        """Episodes without classes are learned if `regression` is claimed, else refused with a DataError."""
        inputs = self.inputs()
        episodes = inputs["episodes"]
        values = Episodes(
            episodes.support_inputs,
            _values(episodes.support_inputs),
            episodes.query_inputs,
            _values(episodes.query_inputs),
        )
        model = self.network(tuple(episodes.support_inputs.shape[2:]), 1)
        if "regression" not in self.subject.component.capabilities:
            with refused(f"{self.name} with values for labels", DataError):
                self.stepped(model=model, episodes=values)
            return
        *_, metrics = self.stepped(model=model, episodes=values)
        expect(math.isfinite(metrics[0]["loss"]), f"{self.name}: the loss of values is {metrics[0]['loss']}")
        _, adapted = self.adapted(values.support(0), model=model, episodes=values)
        shape = tuple(adapted(values.query_inputs[0]).shape)
        wanted = (WAYS * QUERIES, 1)
        expect(shape == wanted, f"{self.name}: outputs {shape} for values, expected {wanted}")

    def check_unequal_sizes_as_claimed(self) -> None:
        """Padded episodes count as each alone does if `ragged` is claimed, else they are refused with a DataError.

        Alone means in a batch of its own, from the same weights, by a network without batch normalisation: the loss of
        the batch is then the mean.
        """
        episodes = _cut(self.inputs()["episodes"])
        shape = tuple(episodes.support_inputs.shape[2:])

        def stepped(some: Episodes) -> dict[str, float]:
            *_, metrics = self.stepped(model=_without_normalisation(self.network(shape)), episodes=some)
            found: dict[str, float] = metrics[0]
            return found

        if "ragged" not in self.subject.component.capabilities:
            with refused(f"{self.name}.meta_step on episodes of unequal sizes", DataError):
                stepped(episodes)
            return
        metrics = stepped(episodes)
        apart = [stepped(_alone(episodes, number)) for number in range(COUNT)]
        for name in sorted({"loss", "accuracy"} & metrics.keys()):  # that both are there, another check sees to
            wanted = sum(found[name] for found in apart) / COUNT
            expect(
                math.isclose(metrics[name], wanted, rel_tol=1e-3, abs_tol=1e-5),
                f"{self.name}: the {name} of padded episodes is {metrics[name]:.6g}, of each alone {wanted:.6g}",
            )
        component = self.make()
        with self.run(component) as run:
            model = component.prepare(_without_normalisation(self.network(shape)), episodes)
            together = component.predict(model, episodes, None)
            for number in range(COUNT):
                support, query = episodes.support(number), episodes.query(number).inputs
                own = run.call(component, "adapt", model=model, support=support, steps=None)(query)
                close = torch.allclose(together[number, : len(query)], own, rtol=1e-3, atol=1e-4)
                expect(close, f"{self.name}: predict and adapt give other scores for padded episode {number}")

    def check_queries_as_claimed(self) -> None:
        """Episodes without queries are learned if `support_only` is claimed, else refused with a DataError."""
        whole = self.inputs()["episodes"]
        bare = attrs.evolve(whole, query_inputs=whole.query_inputs[:, :0], query_targets=whole.query_targets[:, :0])
        if "support_only" not in self.subject.component.capabilities:
            with refused(f"{self.name}.meta_step on episodes without queries", DataError, naming="quer"):
                self.stepped(episodes=bare)
            return
        *_, metrics = self.stepped(episodes=bare)
        expect(math.isfinite(metrics[0]["loss"]), f"{self.name}: without queries the loss is {metrics[0]['loss']}")

    @claims("encoder")
    def check_ways_may_change(self) -> None:
        """An encoder learns from episodes with another number of classes too."""
        episodes = self.inputs()["episodes"]
        kept, asked = episodes.support_targets[0] < WAYS - 1, episodes.query_targets[0] < WAYS - 1
        fewer = Episodes(
            episodes.support_inputs[:, kept],
            episodes.support_targets[:, kept],
            episodes.query_inputs[:, asked],
            episodes.query_targets[:, asked],
            WAYS - 1,
        )
        *_, metrics = self.stepped(episodes=fewer)
        expect(math.isfinite(metrics[0]["loss"]), f"{self.name}: the loss of {WAYS - 1} classes is not finite")

    def check_float64(self) -> None:
        """It works in double precision, and the model stays there."""
        _, _, _, after, _ = self.stepped(dtype=torch.float64)
        kinds = {p.dtype for p in after.parameters()}
        expect(kinds == {torch.float64}, f"{self.name}: weights are {kinds} after a step in float64")

    def check_cuda(self) -> None:
        """A model on the GPU is trained and adapted there."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        component, inputs, _, after, _ = self.stepped(device="cuda")
        adapted = component.adapt(after, inputs["episodes"].support(0), None)
        places = {p.device.type for p in [*after.parameters(), *adapted.parameters()]}
        expect(places == {"cuda"}, f"{self.name}: weights on {places} for a model on cuda")

    def check_agrees_with_twin(self) -> None:
        """It leaves the weights that the twin leaves, by plain gradient descent: Adam would make much of rounding."""
        assert self.subject.twin is not None
        _, inputs, before, after, _ = self.stepped(dtype=torch.float64, rate=0.5)
        self.subject.twin(before, inputs["episodes"], torch.optim.SGD(before.parameters(), lr=0.5))
        ours, theirs = ({n: plain(p) for n, p in m.named_parameters()} for m in (after, before))
        found = difference(ours, theirs, "weights")
        expect(found is None, f"{self.name} and its twin: {found}")


def _drawn(task: Task) -> Episodes:
    """`COUNT` episodes of a task's training data, each of `WAYS` classes in random order, no sample twice in one."""
    data, generator, size = task.data("train"), torch.Generator().manual_seed(0), SHOTS + QUERIES
    of_class = [(data.targets == label).nonzero().flatten() for label in torch.unique(data.targets)]
    if len(of_class := [rows for rows in of_class if len(rows) >= size]) < WAYS:
        raise DataError(
            f"task {task.task_id!r}: checks of meta-learners need {WAYS} classes with {size} samples each, it has "
            f"{len(of_class)}"
        )
    support, query = [], []
    for _ in range(COUNT):
        classes = [of_class[place] for place in torch.randperm(len(of_class), generator=generator)[:WAYS]]
        rows = torch.stack([own[torch.randperm(len(own), generator=generator)[:size]] for own in classes])
        support.append(rows[:, :SHOTS].flatten())
        query.append(rows[:, SHOTS:].flatten())
    labels = torch.arange(WAYS).expand(COUNT, -1)
    return Episodes(
        data.inputs[torch.stack(support)], labels.repeat_interleave(SHOTS, dim=1),
        data.inputs[torch.stack(query)], labels.repeat_interleave(QUERIES, dim=1), WAYS,
    )  # fmt: skip


def _values(inputs: Tensor) -> Tensor:
    return inputs.flatten(2).sum(2, keepdim=True).sin()


def _without_normalisation(network: nn.Module) -> nn.Module:
    return nn.Sequential(*(layer for layer in network.children() if not isinstance(layer, nn.BatchNorm1d)))


def _cut(episodes: Episodes) -> Episodes:
    """The same with the first episode without its last query, and the last one without half of its support samples."""
    support = torch.ones(episodes.support_targets.shape, dtype=torch.bool)
    query = torch.ones(episodes.query_targets.shape, dtype=torch.bool)
    support[-1] = torch.arange(support.shape[1]) % SHOTS == 0  # they stand class by class: one of each stays
    query[0, -1] = False
    return attrs.evolve(episodes, support_mask=support, query_mask=query)


def _alone(episodes: Episodes, number: int) -> Episodes:
    """One of the episodes, without its padding."""
    return next(part for _, part in episodes.select(slice(number, number + 1)).equal())


KIT = MetaLearnerKit
