# SPDX-License-Identifier: MIT
"""``certcal certify`` that is interrupted, resumed and started by torchrun: files, messages, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from certcal_ext.cli import app

NETS = """
import os, pathlib, signal
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.passes = torch.nn.Linear(16, 3), 0

    def forward(self, images):
        self.passes += 1
        self.before()
        return self.layer(images.flatten(1)) * 3

    def before(self):
        pass

def good():
    return Net()

def interrupted():
    net = Net()
    def stop():
        if net.passes > 60:
            raise KeyboardInterrupt
    net.before = stop
    return net

def killed_once():
    '''The second process kills itself the first time.'''
    net = Net()
    def kill():
        if net.passes > 40 and os.environ.get("RANK") == "1" and not pathlib.Path("killed").exists():
            pathlib.Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    net.before = kill
    return net
"""

RUN = ["--data", "data.npz", "--sigma", "0.25", "--n0", "20", "--n", "400"]
RUN += ["--batch-size", "32", "--unit-draws", "64", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delitem(sys.modules, "run_nets", raising=False)
    Path("run_nets.py").write_text(NETS)
    random = np.random.default_rng(0)
    images = random.random((12, 1, 4, 4), dtype=np.float32)
    np.savez("data.npz", images=images, labels=np.arange(12) % 3)
    return tmp_path


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["certify", *RUN, *map(str, words)])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def test_stopped_and_resumed(folder: Path) -> None:
    run("--model", "run_nets:good", "--out", "whole.parquet")
    assert not Path("whole.parquet.run").exists()
    stopped = run("--model", "run_nets:interrupted", "--out", "c.parquet", code=130)
    assert "what is finished is in c.parquet.run" in stopped.stderr
    assert "--resume goes on" in stopped.stderr
    assert not Path("c.parquet").exists()
    shards = len(list(Path("c.parquet.run").glob("*.parquet")))
    assert shards > 5
    refused = run("--model", "run_nets:good", "--out", "c.parquet", code=2)
    assert "has the finished part of a run" in refused.stderr
    refused = run("--model", "run_nets:good", "--out", "c.parquet", "--resume", "--seed", 1, code=2)
    assert "differs in seed: 0 there, 1 now" in refused.stderr
    assert len(list(Path("c.parquet.run").glob("*.parquet"))) == shards
    run("--model", "run_nets:good", "--out", "c.parquet", "--resume")
    assert Path("c.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not Path("c.parquet.run").exists()


def test_a_folder_of_ones_own_that_is_kept(folder: Path) -> None:
    options = ("--model", "run_nets:good", "--work", "mine", "--keep-work", "--json")
    first = json.loads(run(*options).stdout)
    assert Path("mine/manifest.json").exists()
    before = Path("certificates.parquet").read_bytes()
    again = json.loads(run(*options, "--resume").stdout)
    assert Path("certificates.parquet").read_bytes() == before
    assert first["radii"] == again["radii"]
    assert "expected a new or empty folder" in run(*options[:2], "--work", ".", code=2).stderr


def torchrun(*words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )


def test_torchrun_restarts_a_killed_process_and_only_the_first_talks(folder: Path) -> None:
    whole = run("--model", "run_nets:killed_once", "--out", "alone.parquet")
    assert "12 images x 420 draws = 5,040 forward passes on cpu, about" in whole.stderr
    module = ["--max-restarts=1", "-m", "--", "certcal_ext", "certify", *RUN]
    ended = torchrun(*module, "--model", "run_nets:killed_once", "--out", "c.parquet")
    assert ended.returncode == 0, ended.stderr
    assert Path("killed").exists()
    assert Path("c.parquet").read_bytes() == Path("alone.parquet").read_bytes()
    assert not Path("c.parquet.run").exists()
    assert ended.stdout.count("certificates: c.parquet") == 1
    assert ended.stderr.count("forward passes on cpu in 2 processes") == 2  # once a start


def test_torchrun_with_a_wrong_option_ends_all(folder: Path) -> None:
    ended = torchrun("-m", "--", "certcal_ext", "certify", *RUN, "--model", "run_nets:nothing")
    assert ended.returncode != 0
    assert "certcal: error: " in ended.stderr
    assert "nothing called" in ended.stderr
    assert not Path("certificates.parquet.run").exists()
