"""The `huggingface` source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crosstask.errors import DataError, OptionError, nearest, told
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio
from crosstask_huggingface.libraries import library
from crosstask_huggingface.tasks import tasks_from_datasets


@component
class HuggingFaceSource(Source):
    """Tasks from folders that `datasets` wrote (`save_to_disk`), with texts tokenised; see `tasks_from_datasets`.

    `folders` names one, or several by task id. `tokenizer` is a folder that `save_pretrained` of a tokeniser wrote.
    """

    folders: str | dict[str, str] = option(help="a folder of `save_to_disk`, or several by task id")
    tokenizer: str = option("", help="folder of the tokeniser, where there are texts")
    pad_token: str = option("", help="what to pad with, for a tokeniser that has no token for it")
    text: tuple[str, ...] = option((), help="column with texts, or two that belong together")
    target: tuple[str, ...] = option((), help="columns to be learned, each a task")
    inputs: tuple[str, ...] = option((), help="columns with numbers or images, where there are no texts")
    task_type: dict[str, str] = option(factory=dict, help="task id -> task type, where the column does not tell")
    splits: dict[str, str] = option(factory=dict, help="what train, validation and test are called in the folder")
    held_out: dict[str, float] = option(factory=dict, help="validation or test -> share taken from the training data")
    limit: int | None = option(None, ge=1, help="samples of each split at most")
    max_length: int | None = option(None, ge=1, help="tokens of a text at most")
    padding: str = option("longest", help="longest: as the longest text; max_length: nothing is tokenised before use")
    fields: tuple[str, ...] = option((), help="which tensors of the tokeniser the model takes (default: all)")
    unseen: tuple[str, ...] = option((), help="ids of tasks that are held back")
    seed: int = option(0, ge=0, help="of held-out samples")

    def load(self) -> Portfolio:
        folders = {"": self.folders} if isinstance(self.folders, str) else self.folders
        data = {key: self._read(folder) for key, folder in folders.items()}
        found = tasks_from_datasets(
            data[""] if isinstance(self.folders, str) else data,
            tokenizer=self._tokenizer() if self.tokenizer else None,
            text=self.text or None,
            target=self.target or None,
            inputs=self.inputs or None,
            task_type=self.task_type or None,
            splits=self.splits or None,
            held_out=self.held_out or None,
            limit=self.limit,
            max_length=self.max_length,
            padding=self.padding,
            fields=self.fields,
            seed=self.seed,
        )
        if unknown := [each for each in self.unseen if each not in found]:
            raise OptionError(f"{self.origin}: unseen: no task {unknown[0]!r}{nearest(unknown[0], found.ids)}")
        seen = [task for task in found if task.task_id not in self.unseen]
        return Portfolio(seen, unseen=[found[each] for each in self.unseen], name="huggingface")

    def _read(self, folder: str) -> Any:
        if not Path(folder).is_dir():
            raise DataError(f"{self.origin}: there is no folder {folder!r}")
        try:
            return library("datasets").load_from_disk(folder)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.origin}: {folder!r} is no folder of `save_to_disk`: {told(error)}") from None

    def _tokenizer(self) -> Any:
        if not Path(self.tokenizer).is_dir():
            raise DataError(f"{self.origin}: there is no folder {self.tokenizer!r} with a tokeniser")
        try:
            found = library("transformers").AutoTokenizer.from_pretrained(self.tokenizer, local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.origin}: {self.tokenizer!r} holds no tokeniser: {told(error)}") from None
        if self.pad_token:
            found.pad_token = self.pad_token
        return found
