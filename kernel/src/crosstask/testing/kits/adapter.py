"""Checks of adapters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from crosstask.errors import CrosstaskError, DataError
from crosstask.points.adapter import AdapterHandle
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, claims, expect, refused


class Sample(nn.Module):
    """Something for any adapter: a convolution, BatchNorm, a transformer layer, linear layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 4)
        self.by_keyword = False

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.block(self.norm(self.call(self.stem, inputs)).transpose(1, 2))
        first, second = self.body
        return self.call(self.head, second(self.call(first, x.mean(1))))

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(input=x) if self.by_keyword else layer(x)  # type: ignore[no-any-return]


def sample(dtype: torch.dtype = torch.float32, device: str = "cpu", computed: bool = False) -> tuple[nn.Module, Tensor]:
    """(a model in evaluation mode, inputs for it), the same each time. With `computed` a layer has a weight that is no
    parameter but computed from two.
    """
    generator = torch.Generator().manual_seed(0)
    model = Sample()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        model.norm.running_mean.copy_(torch.randn(16, generator=generator))  # type: ignore[union-attr]
    inputs = torch.randn(12, 6, 5, generator=generator)
    if computed:
        parametrizations.weight_norm(model.body[0])
    return model.eval().to(device, dtype), inputs.to(device, dtype)


@torch.no_grad()
def stir(handle: AdapterHandle, seed: int = 0) -> None:
    """Give an adapter weights that do something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in handle.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter))


@torch.no_grad()
def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs).clone()  # type: ignore[no-any-return]


def close(one: Tensor, other: Tensor) -> bool:
    exact = one.dtype == torch.float64
    return torch.allclose(one, other, rtol=1e-9 if exact else 1e-4, atol=1e-9 if exact else 1e-5)


class AdapterKit(Kit):
    """Trained, switched, saved and taken off, an adapter leaves the model that it sat on bit for bit as it was.

    A `twin(model, targets, generator)` returns another handle; with the same state, the model answers the same.
    """

    point = "adapter"
    capabilities = frozenset({"mergeable"})

    def inputs(self) -> dict[str, Any]:
        model, inputs = sample()
        return {"model": model, "inputs": inputs}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        model = copy.deepcopy(inputs["model"])
        handle = call("attach", model=model, targets=[], generator=torch.Generator().manual_seed(0))
        return [handle.state(), answer(model, inputs["inputs"])]

    def attached(
        self, targets: tuple[str, ...] = (), stirred: bool = True, **where: Any
    ) -> tuple[nn.Module, AdapterHandle, Tensor, dict[str, Any]]:
        """(model, handle, inputs, the model's plain copy from before)."""
        model, inputs = sample(**where)
        before = plain(model)
        handle = self._attach(model, targets)
        if stirred:
            stir(handle)
        return model, handle, inputs, before

    def _attach(self, model: nn.Module, targets: tuple[str, ...] = (), seed: int = 0) -> AdapterHandle:
        component = self.make()
        with self.run(component) as run:
            made: AdapterHandle = run.call(
                component, "attach", model=model, targets=list(targets), generator=torch.Generator().manual_seed(seed)
            )
        return made

    def check_base_is_frozen(self) -> None:
        """After `attach` only the adapter's own parameters are trainable, and they are in the model."""
        model, handle, _, _ = self.attached()
        own = {id(p) for p in handle.parameters()}
        expect(own, f"{self.name}: its handle has no parameters to train")
        loose = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
        expect(not loose, f"{self.name}.attach leaves {', '.join(loose[:3])} of the base trainable")
        here = {id(p) for p in model.parameters()}
        expect(own <= here, f"{self.name}: parameters that are not in the model would not move with it to a device")

    def check_first_gradient(self) -> None:
        """The first backward pass gives every part of it a gradient, and a disabled adapter says that it got none."""
        model, handle, inputs, _ = self.attached(stirred=False)
        model.train()(inputs).square().sum().backward()
        silent = handle.without_gradient()
        expect(not silent, f"{self.name}: no gradient reaches {', '.join(silent[:3])}")
        for p in handle.parameters():
            p.grad = None
        expect(handle.without_gradient(), f"{self.name}: without_gradient says nothing before a backward pass")

    def check_training_leaves_the_base(self) -> None:
        """Training lowers the loss; with it off again, weights and BatchNorm statistics are bit for bit the same."""
        model, handle, inputs, before = self.attached(stirred=False)
        targets = torch.randn(len(inputs), 4, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(handle.parameters(), lr=1e-2)
        losses = []
        model.train()
        for _ in range(15):
            loss = (model(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        expect(
            min(losses[5:]) < losses[0], f"{self.name}: training it does not lower the loss: {losses[0]:.4g} at first"
        )
        handle.detach()
        self._same_model(before, model.eval(), "after training and detach")

    def _same_model(self, before: dict[str, Any], model: nn.Module, when: str) -> None:
        after = plain(model)
        for key in ("weights", "trainable"):
            expect(list(before[key]) == list(after[key]), f"{self.name}, {when}: the model has other {key}")
        wrong = [n for n, w in before["weights"].items() if not torch.equal(w, after["weights"][n])]
        expect(not wrong, f"{self.name}, {when}: {', '.join(wrong[:3])} of the base changed")
        frozen = [n for n, flag in before["trainable"].items() if flag != after["trainable"][n]]
        expect(not frozen, f"{self.name}, {when}: {', '.join(frozen[:3])} trainable no longer, or now")

    def check_disable_is_exact(self) -> None:
        """Disabled, the model answers bit for bit as before; enabled, as when it was attached."""
        for dtype in (torch.float32, torch.float64):
            model, inputs = sample(dtype)
            bare = answer(model, inputs)
            handle = self._attach(model)
            stir(handle)
            adapted = answer(model, inputs)
            expect(not torch.equal(bare, adapted), f"{self.name}: the model answers the same with it")
            handle.disable()
            expect(torch.equal(answer(model, inputs), bare), f"{self.name}: disabled, the model answers otherwise")
            handle.enable()
            expect(torch.equal(answer(model, inputs), adapted), f"{self.name}: enabled again, it answers otherwise")

    def check_state_round_trip(self) -> None:
        """What `state` gives, and nothing else, makes one that was attached with another generator answer the same."""
        model, handle, inputs, _ = self.attached()
        state = {name: tensor.clone() for name, tensor in handle.state().items()}
        other, _ = sample()
        received = self._attach(other, seed=1)  # what was drawn and is not trained must be in the state, too
        received.load_state(state)
        same = torch.equal(answer(other, inputs), answer(model, inputs))
        expect(same, f"{self.name}: with the state of one that drew other weights, the model answers otherwise")

    def check_wrong_state_refused(self) -> None:
        """A state with a tensor missing, too many or of another shape is refused with a DataError that names it."""
        _, handle, _, _ = self.attached()
        state = handle.state()
        name = next(iter(state))
        with refused(f"{self.name}: a state without {name!r}", DataError, naming=name):
            handle.load_state({n: t for n, t in state.items() if n != name})
        with refused(f"{self.name}: a state with a stranger", DataError, naming="stranger"):
            handle.load_state(state | {"stranger": torch.zeros(1)})
        with refused(f"{self.name}: a tensor of another shape", DataError, naming=name):
            handle.load_state(state | {name: state[name].new_zeros(*state[name].shape, 2)})

    def check_targets(self) -> None:
        """A target that matches nothing is refused with the nearest names, and so is leaving everything out."""
        model, _ = sample()
        names = dict(model.named_modules())
        try:
            self._attach(model, ("blok",))
        except DataError as error:
            told = any(name in str(error) for name in names if name)
            expect("blok" in str(error) and told, f"{self.name}: the message names no module that is there: {error}")
        else:
            expect(False, f"{self.name}: target 'blok' matches nothing and was accepted")
        with refused(f"{self.name}: everything left out", DataError):
            self._attach(sample()[0], tuple(f"!{name}" for name, _ in model.named_children()))

    def check_several_at_once(self) -> None:
        """Two sit on one model: each alone answers as it does alone, and taken off in any order they leave the base."""
        for order in ((0, 1), (1, 0)):
            model, first, inputs, before = self.attached()
            alone = answer(model, inputs)
            second = self._attach(model, seed=1)
            stir(second, seed=1)
            second.disable()
            expect(torch.equal(answer(model, inputs), alone), f"{self.name}: a disabled second one changes the answer")
            second.enable()
            expect(not close(answer(model, inputs), alone), f"{self.name}: the second of two does nothing")
            for number in order:
                (first, second)[number].detach()
            self._same_model(before, model, "two attached and detached")

    def check_mixed_batch(self) -> None:
        """If it chooses by sample, each sample is answered as by its adapter alone, and without one as by the base."""
        targets: tuple[str, ...] = ("body.0", "head")  # called with a row per sample
        try:
            model, first, inputs, _ = self.attached(targets)
        except DataError:  # it works on none of these
            targets = ()
            model, first, inputs, _ = self.attached(targets)
        second = self._attach(model, targets, seed=1)
        stir(second, seed=1)
        rows = []
        for on in (first, second, None):
            for handle in (first, second):
                if handle is on:
                    handle.enable()
                else:
                    handle.disable()
            rows.append(answer(model, inputs))
        choice = torch.arange(len(inputs)) % 3 - 1
        mixing = first.mix([first, second], choice)
        if mixing is None:
            raise NotApplicableError("a mixed batch is answered one adapter after the other")
        try:
            with mixing:
                mixed = answer(model, inputs)
        except DataError as error:
            raise NotApplicableError(f"refuses, and is answered one adapter after the other: {error}") from None
        wanted = torch.stack(rows)[choice, torch.arange(len(inputs))]
        expect(
            close(mixed, wanted), f"{self.name}: samples of a mixed batch are not answered as by their adapter alone"
        )

    @claims("mergeable")
    def check_merge(self) -> None:
        """Merged, the model answers the same with plain weights; unmerged, they are bit for bit what they were."""
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            model, handle, inputs, before = self.attached(dtype=dtype)
            adapted = answer(model, inputs)
            handle.merge()
            base = {n: t for n, t in model.state_dict().items() if n in before["weights"]}
            changed = any(not torch.equal(base[n], w) for n, w in before["weights"].items())
            expect(changed, f"{self.name}: merged, the weights of the model are what they were")
            same = dtype == torch.bfloat16 or close(answer(model, inputs), adapted)
            expect(same, f"{self.name}: merged, the model answers otherwise")
            handle.unmerge()
            expect(torch.equal(answer(model, inputs), adapted), f"{self.name}: unmerged, the model answers otherwise")
            handle.detach()
            self._same_model(before, model, f"merged and unmerged in {dtype}")

    def check_merge_refused(self) -> None:
        """One that does not claim `mergeable` refuses to be merged, with a DataError, and goes on as before."""
        if "mergeable" in self.subject.component.capabilities:
            raise NotApplicableError("it claims mergeable")
        model, handle, inputs, _ = self.attached()
        adapted = answer(model, inputs)
        with refused(f"{self.name}: merge", DataError):
            handle.merge()
        expect(torch.equal(answer(model, inputs), adapted), f"{self.name}: a refused merge changed the answer")

    def check_absorb(self) -> None:
        """As a part of the model for good it answers the same, and the base is trainable again; or it refuses."""
        model, handle, inputs, before = self.attached()
        adapted = answer(model, inputs)
        try:
            handle.absorb()
        except DataError as error:
            raise NotApplicableError(f"it refuses: {error}") from None
        expect(close(answer(model, inputs), adapted), f"{self.name}: absorbed, the model answers otherwise")
        frozen = [n for n, p in model.named_parameters() if n in before["trainable"] and not p.requires_grad]
        expect(not frozen, f"{self.name}: absorbed, it leaves {', '.join(frozen[:3])} frozen")

    def check_computed_weights(self) -> None:
        """Where a layer computes its weight (weight_norm) it works as elsewhere, or says that it cannot."""
        model, inputs = sample(computed=True)
        before, bare = plain(model), answer(model, inputs)
        try:
            handle = self._attach(model)
        except CrosstaskError:
            self._same_model(before, model, "refused on a layer with weight_norm")
            return
        stir(handle)
        expect(
            not torch.equal(answer(model, inputs), bare), f"{self.name}: with weight_norm the model answers the same"
        )
        handle.disable()
        expect(
            torch.equal(answer(model, inputs), bare),
            f"{self.name}: disabled, a model with weight_norm answers otherwise",
        )
        handle.detach()
        self._same_model(before, model, "attached and detached on a layer with weight_norm")

    def check_calls_by_keyword(self) -> None:
        """A model that calls its layers by keyword answers as one that does not."""
        model, _, inputs, _ = self.attached()
        adapted = answer(model, inputs)
        model.by_keyword = True  # type: ignore[assignment]
        same = torch.equal(answer(model, inputs), adapted)
        expect(same, f"{self.name}: layers that are called by keyword (`layer(input=x)`) answer otherwise")

    def check_copies(self) -> None:
        """A deep copy of an adapted model answers the same."""
        model, _, inputs, _ = self.attached()
        same = torch.equal(answer(copy.deepcopy(model), inputs), answer(model, inputs))
        expect(same, f"{self.name}: a copy of the adapted model answers otherwise")

    def check_float64(self) -> None:
        """On a model in double precision its parameters are, too."""
        _, handle, _, _ = self.attached(dtype=torch.float64)
        kinds = {p.dtype for p in handle.parameters()}
        expect(kinds == {torch.float64}, f"{self.name}: parameters of {kinds} on a model in float64")

    def check_cuda(self) -> None:
        """On a model on the GPU it is there, too."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        model, handle, inputs, _ = self.attached(device="cuda")
        answer(model, inputs)
        places = {p.device.type for p in handle.parameters()}
        expect(places == {"cuda"}, f"{self.name}: parameters on {places} of a model on cuda")

    def check_agrees_with_twin(self) -> None:
        """With the same state, the model answers as with the twin."""
        model, handle, inputs, _ = self.attached()
        other, _ = sample()
        assert self.subject.twin is not None
        twin = self.subject.twin(other, [], torch.Generator().manual_seed(0))
        twin.load_state(handle.state())
        found = difference(plain(answer(model, inputs)), plain(answer(other, inputs)), "answer")
        expect(
            found is None or close(answer(model, inputs), answer(other, inputs)), f"{self.name} and its twin: {found}"
        )


KIT = AdapterKit
