"""Checks of federations."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.learning.modules import seeded
from crosstask.learning.training import predict
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, claims, expect
from crosstask.testing.tasks import small_task
from crosstask_federation.contract import Gathered, Local, Site, State
from crosstask_federation.rounds import Plan, Rounds, mean_over
from crosstask_federation.tensors import Tensors, local_keys, nbytes, scaled, sum_of

BUDGET = Budget(steps=1, batch_size=16, learning_rate=0.05, optimizer="sgd")
TRIED = 2
"""How many of its three sites an ordinary use of a federation has."""


class FederationKit(Kit):
    """A federation is tried on three small sites of one task, of unequal sizes, by hand and in rounds.

    A `twin(state, answers, weights)` makes the next shared tensors of the state, what each site sent and its weight.
    """

    point = "federation"
    capabilities = frozenset({"additive", "personal"})

    def inputs(self) -> dict[str, Any]:
        whole = small_task("moons")
        with seeded(0):
            network = nn.Sequential(OrderedDict(trunk=nn.Linear(2, 8), act=nn.ReLU(), head=nn.Linear(8, 2)))
        return {"network": network, "sites": [_site(whole, rows) for rows in ((0, 12), (12, 30), (30, 64))]}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        state = call("begin", network=inputs["network"])
        inputs = {**inputs, "sites": inputs["sites"][:TRIED]}
        kept: dict[int, Tensors] = {}
        state, kept = self._round(component, call, state, kept, inputs, 1)
        points = inputs["sites"][0].data("test").inputs
        outputs = []
        for place, task in enumerate(inputs["sites"]):
            site = self._at(task, inputs["network"], place, kept.get(place, {}))
            with seeded(place):
                outputs.append(predict(component.model_for(site, state.shared), points))
        return {"shared": state.shared, "own": state.own, "outputs": outputs}

    def _round(
        self, component: Any, call: Call, state: State, kept: dict[int, Tensors], inputs: dict[str, Any], number: int
    ) -> tuple[State, dict[int, Tensors]]:
        found = [
            self._answer(component, task, inputs["network"], number * 10 + place, state, kept.get(place, {}))
            for place, task in enumerate(inputs["sites"])
        ]
        gathered = self._gathered(component, found, inputs["sites"])
        return call("merge", state=state, gathered=gathered), {n: each.kept for n, each in enumerate(found)}

    def _gathered(self, component: Any, found: list[Local], tasks: list[Task]) -> Gathered:
        sizes = torch.tensor([len(task.data("train")) for task in tasks], dtype=torch.float64)
        weights = sizes / sizes.sum()
        names = tuple(map(str, range(len(found))))
        if "additive" not in component.capabilities:
            return Gathered(names, weights, each=tuple(each.shared for each in found))
        share = weights.tolist() if component.weighted else [None] * len(found)
        parts = [each.shared if w is None else scaled(each.shared, w) for each, w in zip(found, share, strict=True)]
        return Gathered(names, weights, total=sum_of(parts))

    @staticmethod
    def _at(task: Task, network: nn.Module, seed: int, kept: Tensors | None = None) -> Site:
        own = copy.deepcopy(network)
        return Site(task.task_id, task, own, BUDGET, torch.Generator().manual_seed(seed), kept or {})

    def _answer(
        self, component: Any, task: Task, network: nn.Module, seed: int, state: State, kept: Tensors | None = None
    ) -> Local:
        with seeded(seed):
            answer: Local = component.checked(component.local(self._at(task, network, seed, kept), state.shared), "0")
        return answer

    def _first(self, task: Task | None = None, component: Any = None) -> tuple[Any, State, Local]:
        """(component, state, answer) of the first site in the first round."""
        inputs, made = self.inputs(), self.make() if component is None else component
        with self.run(made) as run:
            state = run.call(made, "begin", network=inputs["network"])
            return made, state, self._answer(made, task or inputs["sites"][0], inputs["network"], 0, state)

    def check_only_what_it_says_leaves(self) -> None:
        """Every name of an answer begins with a form that `shares` names, and each form is there."""
        component, _, answer = self._first()
        forms = {name.partition("/")[0] for name in answer.shared}
        networks_without_buffers = {"buffers"}
        silent = set(component.shares) - forms - networks_without_buffers
        expect(not silent, f"{self.name} says that it shares {', '.join(sorted(silent))}, and does not")

    def check_answer_does_not_grow_with_the_data(self) -> None:
        """A site with three times as many samples answers with as many bytes."""
        whole = small_task("moons")
        sizes = [nbytes(self._first(_site(whole, (0, count)))[2].shared) for count in (12, 36)]
        expect(sizes[0] == sizes[1], f"{self.name}: {sizes[0]} bytes of 12 samples, {sizes[1]} of 36: do data leave?")

    def check_no_sample_leaves(self) -> None:
        """No tensor of an answer holds a sample of the site."""
        rows = self.inputs()["sites"][0].data("train").inputs
        _, _, answer = self._first()
        for name, tensor in answer.shared.items():
            if tensor.is_floating_point() and tensor.numel() % rows.shape[1] == 0:
                lines = tensor.detach().to(rows).reshape(-1, rows.shape[1])
                same = bool((lines[:, None] == rows[None]).all(-1).any())
                expect(not same, f"{self.name}: a sample of the site stands in {name!r}")

    def check_local_keeps_nothing(self) -> None:
        """What a site answers depends on no other site that the component has worked for, and is sent nothing back."""
        inputs, component = self.inputs(), self.make()
        with self.run(component) as run:
            state = run.call(component, "begin", network=inputs["network"])
            before = plain(state.shared)
            self._answer(component, inputs["sites"][1], inputs["network"], 1, state)
            found = difference(before, plain(state.shared), "what was sent")
            expect(found is None, f"{self.name}: local changes what the server sent: {found}")
            second = self._answer(component, inputs["sites"][0], inputs["network"], 0, state)
        _, _, alone = self._first()
        found = difference(plain(alone.shared), plain(second.shared), "answer")
        expect(found is None, f"{self.name}: a site answers otherwise after another: {found}")

    def check_order_of_sites(self) -> None:
        """In another order the sites' answers make the same state."""
        inputs, component = self.inputs(), self.make()
        states = []
        with self.run(component) as run:
            state = run.call(component, "begin", network=inputs["network"])
            found = [self._answer(component, t, inputs["network"], n, state) for n, t in enumerate(inputs["sites"])]
            for turn in (slice(None), slice(None, None, -1)):
                gathered = self._gathered(component, found[turn], inputs["sites"][turn])
                states.append(run.call(component, "merge", state=state, gathered=gathered).shared)
        for name, one in states[0].items():
            same = torch.allclose(one.double(), states[1][name].double(), rtol=1e-4, atol=1e-5)
            expect(same, f"{self.name}: {name!r} is otherwise where the sites' order is another")

    def check_learns(self) -> None:
        """After some rounds the sites are served better than before the first."""
        tasks = {task.task_id + str(n): task for n, task in enumerate(self.inputs()["sites"])}
        networks = {name: self.inputs()["network"] for name in tasks}
        component = self.make()
        budget = Budget(steps=10, batch_size=16, learning_rate=0.1, optimizer="sgd")
        with self.run(component):
            plan = Plan(component, budget, 8, evaluate_every=8)
            course = Rounds(component.context, plan, tasks, networks, 0, "kit").run()
        sizes = dict.fromkeys(tasks, 1)
        first, last = (mean_over({n: course.scores[n][at] for n in tasks}, sizes) for at in (0, -1))
        told = f"{self.name}: accuracy {first:.2f} before the first round, {last:.2f} after {course.done}"
        expect(last > max(first, 0.6), told)

    def check_double(self) -> None:
        """For a network in double precision all that is shared of it is."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            _, state, answer = self._first()
        finally:
            torch.set_default_dtype(before)
        kinds = {t.dtype for t in (*state.shared.values(), *answer.shared.values()) if t.is_floating_point()}
        expect(kinds <= {torch.float64}, f"{self.name}: of a network in float64 it shares {kinds}")

    def check_what_stays_is_not_sent(self) -> None:
        """What `stays` names is in no answer, nor in the server's state, and is there again in the next round."""
        component, state, answer = self._first()
        if not component.stays:
            raise NotApplicableError("everything is shared")
        inside = local_keys(self.inputs()["network"], component.stays)
        for what, tensors in (("the server's state", state.shared), ("an answer", answer.shared)):
            sent = {name for name in tensors if name.partition("/")[2] in inside}
            expect(not sent, f"{self.name} says that {component.stays} stays at the sites; in {what}: {sorted(sent)}")
        have = {name.partition("/")[2] for name in answer.kept}
        expect(inside <= have, f"{self.name}: a site forgets {sorted(inside - have)} of what stays there")

    def check_data_are_looked_at_only_if_it_says_so(self) -> None:
        """Of a federation that does not claim `personal` the model that a site uses is made without its data."""
        if "personal" in self.subject.component.capabilities:
            raise NotApplicableError("it claims that models are personal")
        one, other = self._outputs()
        same = torch.equal(one, other)
        expect(same, f"{self.name} does not claim 'personal', and the model of a site depends on the site's data")

    @claims("personal")
    def check_personal(self) -> None:
        """The model that a site uses depends on the site's data."""
        one, other = self._outputs()
        expect(not torch.equal(one, other), f"{self.name} claims 'personal', and the model of two sites is the same")

    def _outputs(self) -> list[Any]:
        """Of the models of two sites with the same state and nothing kept."""
        inputs, component = self.inputs(), self.make()
        found = []
        with self.run(component) as run:
            state = run.call(component, "begin", network=inputs["network"])
            for task in inputs["sites"][:2]:
                with seeded(0):
                    model = component.model_for(self._at(task, inputs["network"], 0), state.shared)
                found.append(predict(model, inputs["sites"][0].data("test").inputs))
        return found

    def check_cuda(self) -> None:
        """A site whose network is on the GPU works there; what leaves it can be summed on the CPU."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        task = self.inputs()["sites"]
        component = self.make()
        with self.run(component, device="cuda"):
            plan = Plan(component, BUDGET, 1)
            tasks = {str(n): each for n, each in enumerate(task)}
            networks = {name: self.inputs()["network"] for name in tasks}
            course = Rounds(component.context, plan, tasks, networks, 0, "kit").run()
        places = {t.device.type for t in course.state.shared.values()}
        expect(places == {"cpu"}, f"{self.name}: the server's state lies on {places}")

    def check_agrees_with_twin(self) -> None:
        """The next state is the twin's."""
        assert self.subject.twin is not None
        inputs, component = self.inputs(), self.make()
        component.bind(LocalContext(registry=self.subject.registry))
        state = component.begin(inputs["network"])
        found = [self._answer(component, t, inputs["network"], n, state) for n, t in enumerate(inputs["sites"])]
        gathered = self._gathered(component, found, inputs["sites"])
        ours = component.merge(state, gathered).shared
        theirs = self.subject.twin(state, [each.shared for each in found], gathered.weights.tolist())
        told = difference(plain(ours), plain(theirs), "state")
        expect(told is None, f"{self.name} and its twin: {told}")


def _site(task: Task, rows: tuple[int, int]) -> Task:
    return task.over(train=task.data("train").take(slice(*rows)), test=task.data("test"))
