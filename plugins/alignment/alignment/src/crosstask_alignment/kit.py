"""Checks of alignments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, claims, expect, refused
from crosstask_alignment.contract import Alignment

WIDTH, CLASSES, ROWS = 6, 3, 24


class AlignmentKit(Kit):
    """A scalar whose minimum is where domains cannot be told apart.

    A `twin(features, domain, outputs, progress)` returns the value of the term; one with weights of its own takes the
    prepared component as `component`, too.
    """

    point = "alignment"
    capabilities = frozenset({"conditional", "scheduled"})

    def inputs(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        kind = torch.get_default_dtype()
        features = torch.randn(2 * ROWS, WIDTH, generator=generator, dtype=kind)
        domain = torch.arange(2 * ROWS) % 2
        scale = torch.linspace(0.5, 3.0, WIDTH, dtype=kind)
        features = torch.where(domain[:, None] == 1, features * scale + 0.5, features)
        outputs = torch.randn(2 * ROWS, CLASSES, generator=generator, dtype=kind)
        return {"features": features, "domain": domain, "outputs": outputs, "progress": 0.5}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("misalignment", **_prepared(component, inputs))

    def found(self, inputs: dict[str, Any] | None = None, component: Alignment | None = None) -> tuple[Any, Tensor]:
        """(component, its loss for the inputs) in a run."""
        given = self.inputs() if inputs is None else inputs
        made: Alignment = self.make() if component is None else component
        with self.run(made, device=given["features"].device.type):
            return made, made.loss(**_prepared(made, given))

    def check_scalar_with_a_graph(self) -> None:
        """It is a finite scalar, from which a gradient that is not zero reaches the rows of each domain."""
        inputs = self.inputs()
        inputs["features"].requires_grad_()
        _, value = self.found(inputs)
        expect(value.ndim == 0 and bool(torch.isfinite(value)), f"{self.name}: no finite scalar: {value}")
        expect(value.requires_grad, f"{self.name}: its value has no graph")
        (gradient,) = torch.autograd.grad(value, inputs["features"])
        for number in (0, 1):
            own = gradient[inputs["domain"] == number]
            moved = bool(torch.isfinite(own).all()) and bool((own != 0).any())
            expect(moved, f"{self.name}: no gradient reaches the features of domain {number}")

    def check_far_apart(self) -> None:
        """A gradient reaches features of domains that are far apart, too, and they are no nearer for it."""
        inputs = self.inputs()
        inputs["features"] = torch.where(inputs["domain"][:, None] == 1, 40 * inputs["features"], inputs["features"])
        inputs["features"].requires_grad_()
        _, value = self.found(inputs)
        (gradient,) = torch.autograd.grad(value, inputs["features"])
        expect(
            bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any()),
            f"{self.name}: no gradient where domains are far apart",
        )

    def check_order_of_rows(self) -> None:
        """The same rows in another order give the same."""
        inputs = self.inputs()
        order = torch.randperm(2 * ROWS, generator=torch.Generator().manual_seed(1))
        turned = {name: value[order] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        _, one = self.found(inputs)
        _, other = self.found(turned)
        same = torch.allclose(one, other, rtol=1e-4, atol=1e-6)
        expect(
            same,
            f"{self.name}: {float(one.detach())} for some rows, {float(other.detach())} for the same in another order",
        )

    def check_brings_domains_together(self) -> None:
        """Minimising it, its own weights among what is trained, makes the spread of one domain that of the other."""
        generator = torch.Generator().manual_seed(3)
        kind = torch.get_default_dtype()
        base = torch.randn(128, WIDTH, generator=generator, dtype=kind)
        outputs, domain = torch.zeros(128, CLASSES, dtype=kind), torch.arange(128) % 2
        log_scale = torch.full((), 1.5, dtype=kind, requires_grad=True)  # a spread of 4.5
        component = self.make()
        with self.run(component):
            component.prepare(base, 2, CLASSES)
            trained = [{"params": [log_scale], "lr": 0.03}]
            if own := component.parameters():
                trained.append({"params": own, "lr": 0.01})
            optimizer, nearest = torch.optim.Adam(trained), 1.5
            for _ in range(60):
                optimizer.zero_grad(set_to_none=True)
                features = torch.where(domain[:, None] == 1, base * log_scale.exp(), base)
                component.loss(features, domain, outputs, 1.0).backward()
                optimizer.step()
                nearest = min(nearest, float(log_scale.detach().abs()))  # a critic drives it to and fro
        expect(nearest < 0.75, f"{self.name}: spreads that differed by exp(1.5) still do by exp({nearest:.2f})")

    def check_several_domains(self) -> None:
        """Three domains are aligned: each gets a gradient."""
        inputs = self.inputs()
        inputs["domain"] = torch.arange(2 * ROWS) % 3
        inputs["features"].requires_grad_()
        component = self.make()
        with self.run(component):
            value = component.prepare(WIDTH, 3, CLASSES).loss(**inputs)
        (gradient,) = torch.autograd.grad(value, inputs["features"])
        for number in range(3):
            reached = bool((gradient[inputs["domain"] == number] != 0).any())
            expect(reached, f"{self.name}: no gradient reaches domain {number} of three")

    def check_parameters_are_trained(self) -> None:
        """Each of its own weights gets a gradient, and `parameters` are the same objects after a step."""
        component, value = self.found()
        own = component.parameters()
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
        idle = [number for number, p in enumerate(own) if p.grad is None or not bool((p.grad != 0).any())]
        expect(not idle, f"{self.name}: {len(idle)} of its {len(own)} parameters get no gradient")
        same = all(a is b for a, b in zip(own, component.parameters(), strict=True))
        expect(same, f"{self.name}: parameters() are other objects after a step: an optimiser would train the old ones")

    def check_bad_batches_refused(self) -> None:
        """A domain without rows, a single domain, a number that is none, and domains of other rows are refused."""
        inputs, component = self.inputs(), self.make()
        rows = 2 * ROWS
        with self.run(component):
            component.prepare(WIDTH, 3, CLASSES)
            for what, domain in (
                ("a domain that is absent", torch.arange(rows) % 2),
                ("one domain only", torch.zeros(rows, dtype=torch.long)),
                ("a domain that is none", torch.arange(rows) % 4),
                ("domains of other rows", torch.arange(rows - 1) % 3),
                ("domains that are no whole numbers", torch.rand(rows)),
            ):
                with refused(f"{self.name}: {what}", DataError):
                    component.loss(**{**inputs, "domain": domain})

    @claims("conditional")
    def check_outputs_matter(self) -> None:
        """Other outputs give another value; without them it is refused."""
        inputs = self.inputs()
        _, one = self.found(inputs)
        _, other = self.found({**inputs, "outputs": inputs["outputs"].flip(0)})
        expect(not torch.equal(one, other), f"{self.name} claims to be conditional, and does not look at the outputs")
        with refused(f"{self.name} without outputs", DataError, naming="outputs"):
            self.found({**inputs, "outputs": None})

    @claims("scheduled")
    def check_gentle_at_first(self) -> None:
        """At progress 0 the features feel nothing, at 1 they do."""
        sizes = []
        for progress in (0.0, 1.0):
            inputs = {**self.inputs(), "progress": progress}
            inputs["features"].requires_grad_()
            _, value = self.found(inputs)
            (gradient,) = torch.autograd.grad(value, inputs["features"])
            sizes.append(float(gradient.norm()))
        expect(sizes[0] == 0 and sizes[1] > 0, f"{self.name}: the gradient at progress 0 and 1 has lengths {sizes}")

    def check_float64(self) -> None:
        """In double precision everything is."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            component, value = self.found()
        finally:
            torch.set_default_dtype(before)
        kinds = {value.dtype, *(p.dtype for p in component.parameters())}
        expect(kinds == {torch.float64}, f"{self.name}: value and weights are {kinds} for features in float64")

    def check_half_precision(self) -> None:
        """Under autocast it takes features in bfloat16, and a gradient reaches them."""
        inputs = self.inputs()
        inputs["features"] = inputs["features"].bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            _, value = self.found(inputs)
        (gradient,) = torch.autograd.grad(value, inputs["features"])
        fine = bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
        expect(fine, f"{self.name}: no finite value or gradient for features in bfloat16")

    def check_cuda(self) -> None:
        """Features on the GPU give a value there, with a component that was prepared by sizes alone."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        inputs, component = self.inputs(), self.make()
        component.prepare(WIDTH, 2, CLASSES)
        moved = {name: v.cuda() if isinstance(v, Tensor) else v for name, v in inputs.items()}
        _, value = self.found(moved, component)
        places = {value.device.type, *(p.device.type for p in component.parameters())}
        expect(places == {"cuda"}, f"{self.name}: value and weights on {places} for features on cuda")

    def check_agrees_with_twin(self) -> None:
        """Its value is the twin's."""
        assert self.subject.twin is not None
        inputs = self.inputs()
        component, ours = self.found(inputs)
        own = {"component": component} if component.parameters() else {}
        found = difference(plain(ours), plain(self.subject.twin(**inputs, **own)), "value")
        expect(found is None, f"{self.name} and its twin: {found}")


def _prepared(component: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs, for which the component now knows the sizes."""
    if not component.prepared:
        component.prepare(inputs["features"], 2, CLASSES)
    return inputs
