import torch
from torch import nn

from crosstask import Adapter, component
from crosstask_adapters import AdapterConfig, AdapterModel, LayerAdapter, LayersHandle, match_targets


class Shift(LayerAdapter):
    """y + shift: a change of the bias."""

    weight_space = True

    def __init__(self, bias):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def change(self, layer, name, value):
        return value + self.shift if name == "bias" else value


@component
class Biases(Adapter):
    """Learns the biases of linear layers."""

    capabilities = frozenset({"mergeable"})

    def attach(self, model, targets, generator):
        names = match_targets(model, targets, lambda name, layer: isinstance(layer, nn.Linear), "linear layers")
        return LayersHandle(model, {name: Shift(model.get_submodule(name)._parameters["bias"]) for name in names})


base = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
handle = Biases().attach(base, ["0"], torch.Generator())
assert handle.state().keys() == {"0.shift"}
handle.detach()

# Adapters of installed plugins, by name; here two at once, and then one for each sample of a batch
model = AdapterModel(base, {"german": AdapterConfig(lora_r=2), "french": AdapterConfig(lora_r=2)})
assert model(torch.ones(2, 4), adapters=["german", "french"]).shape == (2, 3)
