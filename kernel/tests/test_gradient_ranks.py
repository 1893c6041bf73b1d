"""Two processes are one with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradient_ranks import ASKS, train


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes made, started by torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(Path(__file__).with_name("gradient_ranks.py")),
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("found", [False, True], ids=["given", "found"])
def test_two_ranks_train_as_one_process(asks: str, found: bool, outcomes: Path) -> None:
    expected = train(asks, 0, 1, found)
    for rank in range(2):
        for parameter, alone in zip(torch.load(outcomes / f"{asks}-{found}-{rank}"), expected, strict=True):
            torch.testing.assert_close(parameter, alone, rtol=1e-9, atol=1e-11)
