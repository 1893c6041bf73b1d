"""Two processes are one with the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradient_ranks import ASKS, train


@pytest.fixture(scope="module", params=["torchrun", "processes"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes made, started by torchrun, or by hand with the variables that torch reads."""
    folder = tmp_path_factory.mktemp("ranks")
    program = [str(Path(__file__).with_name("gradient_ranks.py")), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    if request.param == "torchrun":
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        starts = [([sys.executable, *torchrun, *program], environment)]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        starts = [([sys.executable, *program], {**environment, **meeting, "RANK": str(rank)}) for rank in range(2)]
    started = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command, variables in starts
    ]
    try:
        for process in started:
            told, _ = process.communicate(timeout=180)
            assert process.returncode == 0, told[-4000:]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return folder


@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("found", [False, True], ids=["given", "found"])
def test_two_ranks_train_as_one_process(asks: str, found: bool, outcomes: Path) -> None:
    expected = train(asks, 0, 1, found)
    for rank in range(2):
        for parameter, alone in zip(torch.load(outcomes / f"{asks}-{found}-{rank}"), expected, strict=True):
            torch.testing.assert_close(parameter, alone, rtol=1e-9, atol=1e-11)
