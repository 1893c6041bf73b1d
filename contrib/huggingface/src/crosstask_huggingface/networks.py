"""Networks of transformers as the networks of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack

from crosstask.errors import DataError, OptionError, nearest, told
from crosstask_huggingface.libraries import library

POOLINGS = ("mean", "first", "last", "none")


class SequenceClassifier(nn.Module):
    """A trunk of transformers (`AutoModel`) with a linear head on what it says of the whole text.

    `pooling`: the mean over the tokens that are no padding, the `first` or `last` of them; `none`: an answer for every
    token [N, L, outputs].
    """

    def __init__(self, trunk: nn.Module, outputs: int, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise OptionError(f"unknown pooling {pooling!r}{nearest(pooling, POOLINGS)}")
        config: Any = trunk.config
        width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
        if not isinstance(width, int):
            raise DataError(f"{type(trunk).__name__}: its config does not say its width (hidden_size)")
        self.trunk, self.pooling = trunk, pooling
        self.head = nn.Linear(width, outputs, dtype=next(trunk.parameters()).dtype)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits [N, outputs] of tokens [N, L]."""
        hidden: Tensor = self.trunk(**inputs).last_hidden_state
        answer: Tensor = self.head(self._pooled(hidden, inputs.get("attention_mask")))
        return answer

    def _pooled(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if self.pooling == "none":
            return hidden
        seen = torch.ones_like(hidden[..., 0]) if mask is None else mask.to(hidden.dtype)
        if self.pooling == "mean":
            return (hidden * seen[..., None]).sum(1) / seen.sum(1).clamp_min(1)[:, None]
        places = torch.arange(hidden.shape[1], device=hidden.device)
        if self.pooling == "last":
            chosen = (seen * places).argmax(1)
        else:
            chosen = (seen * (len(places) - places)).argmax(1)  # padding may stand on the left
        return hidden.gather(1, chosen[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]


def text_network(
    input_shapes: Mapping[str, Any],
    output_dim: int,
    *,
    folder: str = "",
    model_type: str = "",
    pooling: str = "mean",
    trim: bool = True,
    **config: Any,
) -> nn.Module:
    """A network for texts, for `ModelSpec(kind="crosstask_huggingface:text_network", arguments={...})`.

    It begins with the weights of `folder` (whatever `from_pretrained` takes), or fresh: of a `model_type` of
    transformers (`bert`, `gpt2`, …) with the settings `config`. `pooling`: how a linear head sees the text (see
    `SequenceClassifier`), or `own`: transformers' model for sequence classification of that type. `trim`: see
    `trim_padding`.
    """
    transformers = library("transformers")
    if bool(folder) == bool(model_type):
        raise OptionError("text_network needs a folder with a model, or a model_type to make a fresh one of")
    kind = transformers.AutoModelForSequenceClassification if pooling == "own" else transformers.AutoModel
    labels = {"num_labels": output_dim} if pooling == "own" else {}
    try:
        if folder:
            trunk = kind.from_pretrained(folder, **config, **labels)
        else:
            trunk = kind.from_config(transformers.AutoConfig.for_model(model_type, **config, **labels))
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise DataError(f"transformers cannot make {folder or model_type!r}: {told(error)}") from None
    made = trunk if pooling == "own" else SequenceClassifier(trunk, output_dim, pooling)
    trimmed = trim and pooling != "none"
    return trim_padding(made) if trimmed else made


def trim_padding(model: nn.Module) -> nn.Module:
    """`model`, which from now on cuts off the columns of a batch that are padding in every text of it (on the right).

    Masked places change no answer, so that this is padding as long as a batch needs and no longer. It does nothing for
    a model that answers for every token.
    """
    model.register_forward_pre_hook(_trimmed, with_kwargs=True)
    return model


def _trimmed(model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or peek_interpreter_stack() is not None:
        return args, inputs
    whole = mask.shape[1]
    used = int((mask.any(0) * torch.arange(1, whole + 1, device=mask.device)).amax()) if whole else 0
    if not 0 < used < whole:
        return args, inputs
    return args, {
        name: value[:, :used] if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == whole else value
        for name, value in inputs.items()
    }
