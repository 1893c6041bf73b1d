"""Hugging Face: tasks from its data sets, networks from its models, several losses in a `Trainer`, adapters of PEFT."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Balancing": "trainer",
    "BalancedTrainer": "trainer",
    "HuggingFaceSource": "source",
    "SequenceClassifier": "networks",
    "combine_adapters": "peft_models",
    "from_peft": "peft_models",
    "tasks_from_datasets": "tasks",
    "text_network": "networks",
    "to_peft": "peft_models",
    "trim_padding": "networks",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_huggingface.networks import SequenceClassifier, text_network, trim_padding
    from crosstask_huggingface.peft_models import combine_adapters, from_peft, to_peft
    from crosstask_huggingface.source import HuggingFaceSource
    from crosstask_huggingface.tasks import tasks_from_datasets
    from crosstask_huggingface.trainer import BalancedTrainer, Balancing
