"""Users' own networks, registered as they are, are sources and targets of transfer and come back as what they were.

Small random configurations of transformers, and nets whose head is hard to find: used last but declared first, a
convolution, parameters of `forward`, tied, weight-normalised, beside bare parameters, after two inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from crosstask import Budget, Task, TaskDescriptor, TransferEngine
from crosstask.learning.modules import Headless, forward, head_found, redraw
from crosstask.learning.own_models import prepare_model
from crosstask.learning.transferring import fresh_model

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

COUNT = 18
SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16
}  # fmt: skip
WORDS: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": 16}


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def text() -> tuple[Any, Tensor]:
    ids = (noise(COUNT, 6) * 35).long() + 5
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids[:, 0] > 20).long()


def tagged() -> tuple[Any, Tensor]:
    inputs, _ = text()
    return inputs, (inputs["input_ids"] > 20).long()


def pictures() -> tuple[Any, Tensor]:
    x = noise(COUNT, 3, 32, 32)
    x[::2] *= 0.5
    return x, (torch.arange(COUNT) % 2)


def numbers() -> tuple[Any, Tensor]:
    x = noise(COUNT, 16) - 0.5
    return x, (x[:, 0] > 0).long()


def tokens() -> tuple[Any, Tensor]:
    ids = text()[0]["input_ids"]
    return ids, (ids[:, 0] > 20).long()


def both() -> tuple[Any, Tensor]:
    return (tokens()[0], numbers()[0]), numbers()[1]


class Functional(nn.Module):
    """Its head is two parameters of `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.w, self.b = nn.Linear(16, 8), nn.Parameter(torch.randn(2, 8) * 0.3), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.one(x).relu(), self.w, self.b)


class Product(nn.Module):
    """The same as a product, with the outputs along the other dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.one, self.b = nn.Parameter(torch.randn(8, 2) * 0.3), nn.Linear(16, 8), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).relu() @ self.w + self.b


class Cosine(nn.Module):
    """Its head is a normalised parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.one = nn.Parameter(torch.randn(2, 8) * 0.3), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return 5 * functional.linear(functional.normalize(self.one(x).relu()), functional.normalize(self.w))


class First(nn.Module):
    """Its head is declared first."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.one, self.two = nn.Linear(8, 2), nn.Linear(16, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.two(self.one(x).relu()).relu())


class Convolved(nn.Module):
    """Its head is a convolution, its answer a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.out(self.one(x).relu()).mean((2, 3)),)


class Token(nn.Module):
    """A parameter that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.one, self.out = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(16, 8), nn.Linear(8, 2)
        self.mixed = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, dropout=0.0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = torch.cat([self.cls_token.expand(len(x), -1, -1), self.one(x)[:, None]], 1)
        return {"logits": self.out(self.mixed(found)[:, 0]), "all": found}


class Tied(nn.Module):
    """Two layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.back, self.out = nn.Embedding(40, 8), nn.Linear(8, 40, bias=False), nn.Linear(8, 2)
        self.between = nn.Linear(40, 8)
        self.back.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.back(self.words(x).mean(1))).relu())


class Normed(nn.Module):
    """The weight of its head is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out = nn.Linear(16, 8), weight_norm(nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.one(x).relu())


class Two(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.one, self.out = nn.Embedding(40, 8), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.out((self.words(ids).mean(1) + self.one(x)).relu())


def of(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, name)(getattr(transformers, config)(**options))


IMAGE: dict[str, Any] = {"image_size": 32}
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, Tensor]], str]] = {
    "bert": (of("BertForSequenceClassification", "BertConfig", **SMALL, **WORDS), text, "classifier"),
    "distilbert": (of("DistilBertForSequenceClassification", "DistilBertConfig", dim=16, n_layers=1, n_heads=2,
                      hidden_dim=16, **WORDS), text, "classifier"),
    "roberta": (of("RobertaForSequenceClassification", "RobertaConfig", **SMALL, **WORDS), text, "classifier.out_proj"),
    "electra": (of("ElectraForSequenceClassification", "ElectraConfig", embedding_size=16, **SMALL, **WORDS), text,
                "classifier.out_proj"),
    "gpt2": (of("GPT2ForSequenceClassification", "GPT2Config", n_embd=16, n_layer=1, n_head=2, vocab_size=40,
                n_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2), text, "score"),
    "llama": (of("LlamaForSequenceClassification", "LlamaConfig", pad_token_id=0, **SMALL, **WORDS), text, "score"),
    "t5 encoder": (of("T5ForTokenClassification", "T5Config", d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
                      vocab_size=40), tagged, "classifier"),
    "vit": (of("ViTForImageClassification", "ViTConfig", patch_size=16, **IMAGE, **SMALL), pictures, "classifier"),
    "deit": (of("DeiTForImageClassification", "DeiTConfig", patch_size=16, **IMAGE, **SMALL), pictures, "classifier"),
    "convnext": (of("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[8, 8], depths=[1, 1],
                    num_stages=2), pictures, "classifier"),
    "swin": (of("SwinForImageClassification", "SwinConfig", patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2],
                window_size=4, **IMAGE), pictures, "classifier"),
    "resnet": (of("ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1],
                  layer_type="basic"), pictures, "classifier.1"),
    "mobilenet": (of("MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.1, **IMAGE), pictures,
                  "classifier"),
    "segformer": (of("SegformerForImageClassification", "SegformerConfig", num_encoder_blocks=2, depths=[1, 1],
                     sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[7, 3], strides=[4, 2],
                     num_attention_heads=[1, 2], mlp_ratios=[2, 2]), pictures, "classifier"),
    "functional head": (Functional, numbers, "w, b"),
    "product for a head": (Product, numbers, "w, b"),
    "normalised head": (Cosine, numbers, "w"),
    "head declared first": (First, numbers, "out"),
    "convolution for a head": (Convolved, pictures, "out"),
    "bare parameter": (Token, numbers, "out"),
    "tied weights": (Tied, tokens, "out"),
    "weight norm": (Normed, numbers, "out"),
    "two inputs": (Two, both, "out"),
}  # fmt: skip


@pytest.fixture(params=list(MODELS), scope="module")
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Task, Task, str]:
    """(a model, its task, another task with three classes, the head's name)."""
    make, data, head = MODELS[request.param]
    torch.manual_seed(0)
    model, (inputs, labels) = make().eval(), data()
    kind = "token_classification" if request.param == "t5 encoder" else "classification"
    other = (labels + torch.arange(COUNT).reshape(-1, *[1] * (labels.ndim - 1))) % 3
    tasks = [
        Task(descriptor=TaskDescriptor(task_id=name, task_type=kind), train=(inputs, own), test=(inputs, own))
        for name, own in (("source", labels), ("target", other))
    ]
    tasks[0].model = model
    prepare_model(tasks[0])  # as registering it does: whichever test comes first, its head is known
    tasks[0].model = None
    return model, tasks[0], tasks[1], head


def test_as_a_source_and_a_target(case: tuple[nn.Module, Task, Task, str]) -> None:
    model, source, target, head = case
    before = {name: value.clone() for name, value in model.state_dict().items()}
    budget = Budget(steps=3, samples=12, batch_size=6)
    with TransferEngine(seeds=1, auto_discover=False, discoverers=[], budget=budget, train=budget) as engine:
        engine.register_task(source, model)
        engine.register_task(target)
        found = head_found(model)
        assert (found.module or ", ".join(name for name, _ in found.weights)) == head
        for method in ("lp_ft", "adapter"):
            adapted = engine.adapt("source", "target", method)
            assert type(adapted.model) is type(model)
            assert forward(adapted.model, target.data().inputs).shape[-1] == 3
            assert adapted.result.transferred
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the user's own model has changed"


def test_a_fresh_copy_knows_nothing(case: tuple[nn.Module, Task, Task, str]) -> None:
    """Every weight that was not a constant is another; what the head has is for the other task."""
    model, _, target, _ = case
    target.data()
    fresh, again = (fresh_model(model, target, 1) for _ in range(2))
    old = dict(model.named_parameters())
    for name, parameter in fresh.named_parameters():
        if name in old and old[name].shape == parameter.shape and float(old[name].detach().std()) > 0:
            assert not torch.equal(parameter, old[name]), name
    for one, other in zip(fresh.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert redraw(fresh, 2)


def test_features_are_what_the_head_receives(case: tuple[nn.Module, Task, Task, str]) -> None:
    """Recomputed: the head on the features gives the model's answer."""
    model, source, _, head = case
    inputs = source.data().inputs[:3]
    features, answer = Headless(model)(inputs), forward(model, inputs)
    if head in ("w, b", "w"):
        weight = model.w if model.w.shape[0] == 2 else model.w.T
        if isinstance(model, Cosine):
            found = 5 * functional.linear(functional.normalize(features / 5), functional.normalize(weight))
        else:
            found = functional.linear(features, weight, model.b)
    elif isinstance(model, Convolved):
        found = functional.linear(features, model.out.weight[:, :, 0, 0], model.out.bias)
    else:
        found = model.get_submodule(head)(features)
    torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-5)


def test_trained_jointly_from_its_trunk_under_pcgrad(case: tuple[nn.Module, Task, Task, str]) -> None:
    model, source, target, _ = case
    with TransferEngine(seeds=1, auto_discover=False, discoverers=[]) as engine:
        engine.register_task(source, model)
        engine.register_task(target)
        found = engine.run_stage(
            "multitask", tasks=["source", "target"], balancer="pcgrad", start="source",
            budget=Budget(steps=2, batch_size=12),
        )  # fmt: skip
    module, inputs = found.artifacts["model"], source.data().inputs[:3]
    answers = module({"source": inputs, "target": inputs})
    assert (answers["source"].shape[-1], answers["target"].shape[-1]) == (2, 3)
    trunk = type(found.artifacts["trunk"].model)  # the user's own class, its head taken off
    assert trunk is type(model)
