"""Fixture that runs functions of the test files in two processes, which communicate over gloo on the CPU."""

import inspect
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for what several rooms' tests share

# All tests share two processes, since a second pair would spend most of its time on imports. Test files
# are not packages that a child process could import, so it loads them by path. Seeds differ between
# ranks, as they do in most training scripts.
CHILD = """
import importlib.util, json, os, sys, traceback
from datetime import timedelta
import torch
import torch.distributed as dist

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # all other output goes to stderr
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
rank = dist.get_rank()
modules = {}
for line in sys.stdin:
    file, name, result = json.loads(line)
    try:
        if file not in modules:
            spec = importlib.util.spec_from_file_location(f"ranks_{len(modules)}", file)
            modules[file] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[file])
        torch.manual_seed(100 + rank)
        torch.save(getattr(modules[file], name)(rank), result)
        error = ""
    except Exception:
        error = traceback.format_exc()
    print(json.dumps(error), file=answers, flush=True)
dist.destroy_process_group()
"""


class TwoRanks:
    """Callable that runs `function(rank)` in both processes, and returns the results through torch.save."""

    def __init__(self, folder):
        self.folder = folder
        self.children = []

    def __call__(self, function):
        if not self.children:
            self.start()
        results = [self.folder / f"{function.__name__}_{rank}.pt" for rank in range(2)]
        for child, result in zip(self.children, results, strict=True):
            request = [inspect.getsourcefile(function), function.__name__, str(result)]
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        answers = [child.stdout.readline() for child in self.children]
        errors = [json.loads(answer) if answer else "the process died" for answer in answers]
        if any(errors):
            self.stop()  # the two may be out of step
            pytest.fail("\n".join(f"rank {rank}: {text}" for rank, text in enumerate(errors)))
        return [torch.load(result) for result in results]

    def start(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD],
                env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def stop(self):
        for child in self.children:
            child.kill()
            child.communicate()
        self.children = []


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    ranks = TwoRanks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()
