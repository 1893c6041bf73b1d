"""What crosstask-huggingface costs: a step of the balanced trainer beside a plain one with the sum, and merging.

    OMP_NUM_THREADS=1 python tests/benchmarks/huggingface.py [--steps 20] [--repeats 5] [--megabytes 400]

One thread, CPU time. Trainers take turns, a few steps each, on a BERT of four layers with three heads and random texts
of real lengths; the first turn of each is left out, the median of the others shown. Merging: models of a Llama-like
architecture on disk in several files, three of them, once as they are and once as memory holds them.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from crosstask_huggingface import BalancedTrainer

TASKS = 3
CONFIG = BertConfig(
    vocab_size=2000, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
    max_position_embeddings=64,
)  # fmt: skip


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = BertModel(CONFIG, add_pooling_layer=False)
        self.heads = nn.ModuleList(nn.Linear(128, 4) for _ in range(TASKS))

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        features = self.trunk(input_ids).last_hidden_state[:, 0]
        losses = {
            f"task{n}": nn.functional.cross_entropy(head(features), labels[:, n]) for n, head in enumerate(self.heads)
        }
        return {"loss": torch.stack(list(losses.values())).sum(), "losses": losses}


def rows(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 2000, (count, 32), generator=generator)
    return [{"input_ids": row, "labels": torch.stack([row[n] % 4 for n in range(TASKS)])} for row in ids]


def timed(kind: str, folder: str, steps: int, accumulated: int) -> float:
    """CPU seconds of a step."""
    given = TrainingArguments(
        folder, use_cpu=True, report_to="none", disable_tqdm=True, max_steps=steps, save_strategy="no",
        logging_steps=steps, per_device_train_batch_size=16 // accumulated, gradient_accumulation_steps=accumulated,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    data = rows(16 * steps)
    if kind == "plain":
        trainer: Trainer = Trainer(Heads(), given, train_dataset=data)
    else:
        trainer = BalancedTrainer(Heads(), given, train_dataset=data, balancer=kind)
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return (time.process_time() - begin) / steps


def steps(count: int, repeats: int) -> None:
    kinds = ["plain", "equal", "dwa", "pcgrad", "rgb"]
    print(f"\n| {TASKS} losses, BERT of 4 layers | ms CPU a step | ratio | accumulated over 2: ms | ratio |")
    print("|---|---|---|---|---|")
    found: dict[tuple[str, int], list[float]] = {(kind, a): [] for kind in kinds for a in (1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for kind, accumulated in found:
                seconds = timed(kind, folder, count, accumulated)
                if turn:
                    found[kind, accumulated].append(seconds)
    middle = {key: 1000 * statistics.median(values) for key, values in found.items()}
    for kind in kinds:
        one, two = middle[kind, 1], middle[kind, 2]
        print(f"| {kind} | {one:.1f} | {one / middle['plain', 1]:.2f} | {two:.1f} | {two / middle['plain', 2]:.2f} |")


MERGE = """
import json, sys, time
from pathlib import Path
from crosstask_merging import merge, merge_modules
folder, how, method = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
models = [folder / f"m{n}" for n in range(3)]

def told(what):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024

if how == "memory":
    from transformers import LlamaForCausalLM
before = told("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
begin = time.process_time()
if how == "files":
    merge(models, folder / f"out-{method}", method, base=models[0])
else:
    loaded = [LlamaForCausalLM.from_pretrained(path) for path in models]
    merge_modules(loaded, method, base=loaded[0]).save_pretrained(folder / f"memory-{method}", max_shard_size="100MB")
print(json.dumps([time.process_time() - begin, told("VmHWM") - before]))
"""


def merged(folder: str, how: str, method: str, **environment: str) -> tuple[float, int]:
    """CPU seconds, and bytes above the start, in a process of its own."""
    for made in ("out", "memory"):
        shutil.rmtree(Path(folder, f"{made}-{method}"), ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", MERGE, folder, how, method], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def merging(megabytes: int) -> None:
    layers = max(1, round(megabytes / 42))
    config = LlamaConfig(
        vocab_size=2048, hidden_size=1024, num_hidden_layers=layers, num_attention_heads=8, intermediate_size=2048,
        tie_word_embeddings=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(3):
            torch.manual_seed(number)
            model = LlamaForCausalLM(config)
            sizes = [tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()]
            model.save_pretrained(folder / f"m{number}", max_shard_size="100MB")
        size = sum(sizes) / 1e9
        print(f"\nthree models of {1000 * size:.0f} MB in files of 100 MB; largest tensor {max(sizes) / 1e6:.1f} MB")
        print("\n| method | from | CPU s for each GB of a model | most memory, MB |\n|---|---|---|---|")
        for method in ("uniform_soup", "task_arithmetic", "ties"):
            for how in ("files", "memory"):
                seconds, _ = merged(name, how, method)
                _, memory = merged(name, how, method, MALLOC_MMAP_THRESHOLD_="65536")  # malloc keeps nothing: slower
                print(f"| {method} | {how} | {seconds / size:.1f} | {memory / 1e6:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps(options.steps, options.repeats)
    merging(options.megabytes)
