"""Low-rank adaptation."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"combine_lora": "combined", "LoRA": "lora", "load_peft": "peft_files", "save_peft": "peft_files"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_lora.combined import combine_lora
    from crosstask_lora.lora import LoRA
    from crosstask_lora.peft_files import load_peft, save_peft
