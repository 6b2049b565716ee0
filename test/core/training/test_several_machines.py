# SPDX-License-Identifier: Apache-2.0
"""Training on several machines: two agents of torchrun that find each other, and what the death of a process costs."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.training_runs import settings

from gaussianocc_core import train as command
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.engine import train
from gaussianocc_core.training.run_folder import RunFolder
from gaussianocc_core.training.state import load_state

ROOT = Path(__file__).resolve().parents[3]
# Rank 1 dies as by the kernel's own hand, once, when a state is saved and steps after it are done.
RUN = """
import os, signal, sys
sys.path[:0] = [{root!r}, {test!r}]
from support.training_runs import settings
from gaussianocc_core.training import engine

class Run(engine.Run):
    def _next(self, batches):
        if self.step == 5 and {dies} and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._next(batches)

engine.Run = Run
engine.train(settings({data!r}, {output!r}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return MadeUpDatabase(keyframes=3, frames_per_keyframe=3).write(tmp_path_factory.mktemp("data") / "root")


def two_machines(data, output, folder, dies):
    """What both agents said; they share a folder, as machines share a disk."""
    script = folder / f"{output.name}.py"
    script.write_text(
        RUN.format(root=str(ROOT), test=str(ROOT / "test"), data=str(data), output=str(output), dies=dies)
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max-restarts=2"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", str(script)]
    # Without this torchrun's agents count restarts each for itself, and a new process looks for those that are gone.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    agents = [subprocess.Popen(agent, **pipes) for _ in range(2)]
    try:
        said = [each.communicate(timeout=400)[0] for each in agents]
    finally:
        for each in agents:  # asked first: an agent ends its processes, which are in sessions of their own
            each.terminate()
        for each in agents:
            with suppress(subprocess.TimeoutExpired):
                each.wait(30)
            each.kill()
    assert [each.returncode for each in agents] == [0, 0], said[0][-2000:] + said[1][-2000:]
    return load_state(output / "last.pt")


@pytest.mark.slow
def test_a_process_that_is_killed_costs_no_more_than_the_steps_since_the_last_save(data, tmp_path):
    undisturbed = two_machines(data, tmp_path / "undisturbed", tmp_path, dies=False)
    killed = two_machines(data, tmp_path / "killed", tmp_path, dies=True)
    assert undisturbed["step"] == killed["step"] == 6
    assert undisturbed["samples_per_step"] == killed["samples_per_step"] == 2
    for name, value in undisturbed["stage"].items():
        assert float((killed["stage"][name].double() - value.double()).abs().max()) < 1e-6, name


@pytest.mark.medium
def test_the_same_command_begins_goes_on_and_leaves_a_run_that_is_done(data, tmp_path, capsys):
    """What a scheduler that starts a job again needs: --requeue."""
    file = tmp_path / "stage.yaml"
    file.write_text("stage: gsp\nmodel: {image_height: 32, image_width: 48}\n")
    arguments = [str(file), f"data.dataroot={data}", f"output={tmp_path / 'run'}", "steps=2", "save_every=1"]
    assert command.main([*arguments, "--requeue", "--minutes", "0.00001"]) == 0
    assert load_state(tmp_path / "run" / "last.pt")["step"] == 1
    assert command.main(arguments) == 2  # without it nobody's run is continued by accident
    assert "--resume goes on with it" in capsys.readouterr().err
    for _ in range(2):
        assert command.main([*arguments, "--requeue"]) == 0
        assert load_state(tmp_path / "run" / "last.pt")["step"] == 2


@pytest.mark.medium
def test_processes_that_are_started_again_before_the_first_save_begin_anew(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    config = settings(data, tmp_path / "run", steps=1)
    train(config)
    assert load_state(tmp_path / "run" / "last.pt")["step"] == 1


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "measures.json"])
def test_links_in_a_run_that_came_from_somebody_are_not_written_through(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(victim)
    folder = RunFolder(TrainConfig(output=str(tmp_path / "run")), 1)
    for write in (folder.load, lambda: folder.begin(torch.device("cpu"))):
        with pytest.raises(ConfigError, match="is a link, or no file"):
            write()
    assert victim.read_text() == "mine"
