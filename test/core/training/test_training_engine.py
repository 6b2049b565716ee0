# SPDX-License-Identifier: Apache-2.0
"""The engine on a few made-up frames: runs that resume, stop, fail and share their work do what they promise."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from support.nuscenes_fixtures import MadeUpDatabase, read_table, write_table
from support.training_runs import MODEL, add_labels, settings

from gaussianocc_core import train as command
from gaussianocc_core.checkpoint import load_depth_net, load_model, load_pose_net
from gaussianocc_core.config import load_config, to_dict
from gaussianocc_core.data.sources import DataConfig, open_entries, split_recordings
from gaussianocc_core.errors import CheckpointError, ConfigError, GaussianOccError
from gaussianocc_core.models.config import PoseConfig
from gaussianocc_core.models.matching import MatchingConfig
from gaussianocc_core.training import engine, state
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.engine import train
from gaussianocc_core.training.hints import HintSettings
from gaussianocc_core.training.motion_search import MotionSearch

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return MadeUpDatabase(keyframes=3, frames_per_keyframe=3).write(tmp_path_factory.mktemp("data") / "root")


def weights(output) -> dict[str, torch.Tensor]:
    return state.load_state(Path(output) / "last.pt")["stage"]


def largest_difference(a, b, but=()) -> float:
    return max(
        float((a[name].double() - b[name].double()).abs().max()) for name in a if not any(part in name for part in but)
    )


@pytest.mark.medium
def test_a_run_leaves_all_it_promises(root, tmp_path):
    path = train(settings(root, tmp_path / "run", pictures_every=3))
    assert path == tmp_path / "run" / "model.safetensors"
    files = {each.name for each in (tmp_path / "run").iterdir()}
    assert files >= {"config.yaml", "environment.json", "metrics.jsonl", "last.pt", "model.safetensors", "tensorboard"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["total"] > 0 for line in lines)
    loaded = load_depth_net(path)
    assert loaded.provenance.steps == 6 and "self-supervised" in loaded.provenance.training
    assert load_pose_net(path).config.pose == MODEL.pose


@pytest.mark.medium
@pytest.mark.parametrize("stage", ["gsp", "gsv"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(root, tmp_path, stage):
    whole, parts = (settings(root, tmp_path / name, stage=stage) for name in ("whole", "parts"))
    train(whole)

    class StopAfter(engine.Run):
        def _report(self, *arguments):
            super()._report(*arguments)
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "Run", StopAfter)
        with pytest.raises(engine.TrainingStopped, match="after 3 of 6 steps"):
            train(parts)
    train(parts, resume=True)
    # The state is the same to the bit; sums over memory that is aligned otherwise may round otherwise.
    assert largest_difference(weights(whole.output), weights(parts.output)) < 1e-6
    read = [(Path(each.output) / "metrics.jsonl").read_text().splitlines() for each in (whole, parts)]
    totals = [[json.loads(line)["total"] for line in lines] for lines in read]
    assert totals[0] == pytest.approx(totals[1], abs=2e-6) and totals[0][:3] == totals[1][:3]


@pytest.mark.medium
@pytest.mark.parametrize("stage", ["gsp", pytest.param("gsv", marks=pytest.mark.slow)])
def test_two_gloo_processes_equal_one_with_accumulation(root, tmp_path, stage):
    one = settings(root, tmp_path / "one", stage=stage, steps=3, accumulation=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as below: how threads share out a sum rounds it, and hints are chosen by comparing
    try:
        train(one)
    finally:
        torch.set_num_threads(threads)
    two = tmp_path / "two"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nimport torch.distributed as dist\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'test')!r}]\n"
        "from support.training_runs import settings\n"
        "from gaussianocc_core.training.engine import train\n"
        # Threads that carried tensors of Python's end with the group: one that is at work while the interpreter ends
        # aborts the process. The group that torch never lets go of stays.
        "def threads():\n"
        "    names = [each.read_text().strip() for each in Path('/proc/self/task').glob('*/comm')]\n"
        "    return names.count('pt_gloo_runloop')\n"
        "destroy, most = dist.destroy_process_group, []\n"
        "dist.destroy_process_group = lambda: (most.append(threads()), destroy())\n"
        f"train(settings({str(root)!r}, {str(two)!r}, stage={stage!r}, steps=3))\n"
        "assert 0 < threads() < most[0], (threads(), most)\n"
    )
    command_line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command_line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert largest_difference(weights(one.output), weights(two), but=("running_", "num_batches", "search_sums")) < 1e-6


@pytest.mark.medium
def test_ctrl_c_saves_and_ends_with_one_line(root, tmp_path, capsys, monkeypatch):
    class StopAtOnce(engine.Run):
        def _report(self, *arguments):
            super()._report(*arguments)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(engine, "Run", StopAtOnce)
    config = tmp_path / "stage.yaml"
    config.write_text("stage: gsp\nmodel: {image_height: 32, image_width: 48}\n")
    arguments = [str(config), f"data.dataroot={root}", f"output={tmp_path / 'run'}", "steps=5"]
    assert command.main(arguments) == 130
    assert "stopped after 1 of 5 steps" in capsys.readouterr().err
    assert state.load_state(tmp_path / "run" / "last.pt")["step"] == 1
    load_depth_net(tmp_path / "run" / "model.safetensors")


@pytest.mark.medium
def test_a_loss_that_is_not_finite_names_the_samples_and_keeps_the_last_good_state(root, tmp_path, monkeypatch):
    class Poisoned(engine.Run):
        def _next(self, batches):
            micro, waited = super()._next(batches)
            if self.step == 4:
                self.token = micro[0].tokens[0]
                with torch.no_grad():
                    next(self.stage.parameters()).fill_(float("nan"))
            return micro, waited

    runs = []
    monkeypatch.setattr(engine, "Run", lambda *a: runs.append(Poisoned(*a)) or runs[-1])
    with pytest.raises(GaussianOccError, match="step 5: the loss is not finite on samples") as caught:
        train(settings(root, tmp_path / "run"))
    assert runs[0].token in str(caught.value)
    good = state.load_state(tmp_path / "run" / "last.pt")
    assert good["step"] == 3 and all(torch.isfinite(v).all() for v in good["stage"].values() if v.is_floating_point())


@pytest.mark.medium
def test_a_gradient_that_is_not_finite_is_never_saved(root, tmp_path, monkeypatch):
    class Poisoned(engine.Run):
        def _next(self, batches):
            if self.step == 3:
                next(self.stage.pose_net.parameters()).register_hook(lambda slope: slope * float("nan"))
            return super()._next(batches)

    monkeypatch.setattr(engine, "Run", Poisoned)
    with pytest.raises(GaussianOccError, match=r"step 4: the gradient is not finite on samples .*--resume"):
        train(settings(root, tmp_path / "run", save_every=1))
    good = state.load_state(tmp_path / "run" / "last.pt")
    assert good["step"] == 3 and all(torch.isfinite(v).all() for v in good["stage"].values() if v.is_floating_point())


@pytest.mark.medium
def test_a_run_goes_on_with_as_many_samples_a_step_as_it_had(root, tmp_path):
    config = settings(root, tmp_path / "run", steps=1)
    train(config)
    last = tmp_path / "run" / "last.pt"
    state.save_state(last, {**state.load_state(last), "samples_per_step": 2})
    with pytest.raises(ConfigError, match="2 samples a step, this one has 1; use as many processes"):
        train(config, resume=True)


@pytest.mark.medium
def test_a_run_of_before_goes_on_though_some_of_its_settings_are_constants_now(root, tmp_path):
    config = settings(root, tmp_path / "run", stage="gsv", steps=2)
    config = replace(config, gsv=replace(config.gsv, ego_motion="joint"))
    with pytest.raises(engine.TrainingStopped):
        train(config, minutes=1e-6)
    last = tmp_path / "run" / "last.pt"
    old = state.load_state(last)
    old["config"] |= {"stage": "joint", "drop_at": 10 / 12, "sync_norm": True}
    old["config"]["gsp"] |= {"search_cost": 0.2, "early_hints": 0.15}
    state.save_state(last, old)
    assert load_model(train(config, resume=True)).provenance.steps == 2
    old["config"]["gsp"]["search_cost"] = 0.7
    state.save_state(last, old)
    with pytest.raises(ConfigError, match=r"last\.pt: gsp\.search_cost is no setting any more"):
        train(config, resume=True)


@pytest.mark.medium
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_run_may_be_of_any_length(root, tmp_path, steps):
    config = settings(root, tmp_path / "run", stage="gsv", steps=steps)
    assert load_model(train(config)).provenance.steps == steps


@pytest.mark.medium
def test_a_full_disk_ends_a_run_in_words(root, tmp_path, monkeypatch):
    # A full disk is played by a link to /dev/full, which is refused elsewhere.
    monkeypatch.setattr(engine.RunFolder, "_check_outputs", lambda self: None)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(GaussianOccError, match="log cannot be written .*No space left.*; nothing is saved"):
        train(settings(root, tmp_path / "run"))


@pytest.mark.medium
def test_half_a_line_of_the_log_is_no_obstacle_to_going_on(root, tmp_path):
    config = settings(root, tmp_path / "run", steps=2)
    with pytest.raises(engine.TrainingStopped):
        train(config, minutes=1e-6)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 2, "s"')
    train(config, resume=True)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2]


@pytest.mark.medium
def test_a_time_limit_saves_and_the_run_goes_on_later(root, tmp_path, capsys):
    config = tmp_path / "stage.yaml"
    config.write_text("stage: gsp\nmodel: {image_height: 32, image_width: 48}\n")
    arguments = [str(config), f"data.dataroot={root}", f"output={tmp_path / 'run'}", "steps=2"]
    assert command.main([*arguments, "--minutes", "1e-6"]) == 0
    assert "stopped after 1 of 2 steps" in capsys.readouterr().err
    assert command.main([*arguments, "--resume"]) == 0
    assert state.load_state(tmp_path / "run" / "last.pt")["step"] == 2


@pytest.mark.slow
def test_half_precision_and_workers_train_the_same_networks(root, tmp_path):
    plain, half, helped = (
        settings(root, tmp_path / name, steps=3, **changes)
        for name, changes in (("plain", {}), ("half", {"precision": "bf16"}), ("helped", {}))
    )
    helped = replace(helped, data=replace(helped.data, workers=1))
    for config in (plain, half, helped):
        train(config)
    but = ("running_", "num_batches", "search_sums")
    assert largest_difference(weights(plain.output), weights(helped.output), but) < 1e-6
    assert 0 < largest_difference(weights(plain.output), weights(half.output), but) < 0.05


@pytest.mark.medium
def test_joint_training_leaves_occupancy_and_ego_motion(root, tmp_path):
    config = settings(root, tmp_path / "run", stage="gsv", steps=2)
    path = train(replace(config, gsv=replace(config.gsv, ego_motion="joint")))
    assert load_model(path).provenance.steps == 2 and load_pose_net(path).pose_net is not None


@pytest.mark.medium
def test_processes_share_what_some_of_them_lack(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import torch\n"
        "from gaussianocc_core.training.distributed import process_group\n"
        "with process_group('cpu') as (processes, device):\n"
        "    mine = {'total': 1.0 + processes.rank, **({'semantic': 5.0} if processes.first else {})}\n"
        "    found = processes.mean(mine, ('total', 'semantic', 'smooth'), torch.device('cpu'))\n"
        "    assert found == {'total': 1.5, 'semantic': 5.0}, found\n"
    )
    command_line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command_line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_run_folder_is_never_written_over(root, tmp_path):
    config = settings(root, tmp_path / "run", steps=1)
    train(config)
    with pytest.raises(ConfigError, match="holds a run already; --resume"):
        train(config)
    with pytest.raises(ConfigError, match="another learning_rate"):
        train(replace(config, learning_rate=1.0), resume=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(replace(config, output=str(tmp_path / "none")), resume=True)


def test_a_full_disk_leaves_the_previous_state(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    whole = dict.fromkeys(state.NEEDED, 0)
    state.save_state(path, whole | {"step": 1})
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    saved = torch.save
    monkeypatch.setattr(torch, "save", lambda data, _: saved(data, full))
    with pytest.raises(CheckpointError, match="cannot be written"):
        state.save_state(path, whole | {"step": 2})
    assert state.load_state(path)["step"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]


def test_a_training_state_is_never_unpickled(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"format": state.FORMAT, "evil": Path("x")}, path)
    with pytest.raises(CheckpointError, match="not a readable training state"):
        state.load_state(path)


@pytest.mark.medium
@pytest.mark.parametrize("stage", ["gsp", "gsv"])
def test_loss_falls_on_one_overfitted_sample(tmp_path, stage):
    root = MadeUpDatabase(keyframes=2, frames_per_keyframe=3).write(tmp_path / "root")
    add_labels(root, 1)
    config = settings(root, tmp_path / "run", stage=stage, steps=30, save_every=30)
    if stage == "gsp":
        # Terms that come and go with what the networks say make no sum that could fall.
        plain = {"hints": HintSettings(weight=0.0), "length_search": MotionSearch(factor=1.0), "search_factor": 1.0}
        config = replace(config, gsp=replace(config.gsp, **plain, refine_share=0.0, motion_share=0.0))
    train(config, overfit_batch=True)
    totals = [json.loads(line)["total"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(totals[-5:]) < 0.98 * sum(totals[:5])


@pytest.mark.medium
def test_the_second_stage_starts_from_the_first_and_leaves_its_motion_alone(root, tmp_path):
    first = train(settings(root, tmp_path / "first"))
    second = settings(root, tmp_path / "second", stage="gsv", first_stage=str(first), steps=2)
    second = replace(second, gsv=replace(second.gsv, ego_motion="learned"))
    run = engine.Run(engine.inherit_first_stage(second), engine.Processes(), torch.device("cpu"), False, False)
    theirs = load_depth_net(first).depth_net.state_dict()
    ours = run.stage.model.image_encoder.state_dict()
    assert all(torch.equal(ours[n], theirs[f"image_encoder.{n}"]) for n in ours)
    assert run.stage.model.depth_head.limits == load_depth_net(first).depth_net.head.limits
    before = {name: value.clone() for name, value in run.stage.pose_net.state_dict().items()}
    loaded = load_model(run.execute())
    assert all(torch.equal(before[n], v) for n, v in run.stage.pose_net.state_dict().items())
    assert loaded.provenance.steps == 2


def test_a_run_matches_as_the_weights_do_that_it_starts_from():
    """`config/train/gsp_tiny_more.yaml first_stage=tiny_matching`: nobody has to say how these were made."""
    more = load_config(ROOT / "config" / "train" / "gsp_tiny_more.yaml", TrainConfig, ["first_stage=tiny_matching"])
    assert not more.model.matching.enabled and engine.inherit_first_stage(more).model.matching.enabled
    finer = replace(more, model=replace(more.model, matching=MatchingConfig(enabled=True, depths=96)))
    assert engine.inherit_first_stage(finer).model.matching.depths == 96  # which is then refused by name


def test_recordings_that_stand_still_are_refused_before_a_run_folder_is_made(tmp_path, capsys):
    standing = MadeUpDatabase(keyframes=2, frames_per_keyframe=3).write(tmp_path / "root")
    poses = read_table(standing, "ego_pose")
    write_table(
        standing, "ego_pose", [{**each, **{k: poses[0][k] for k in ("rotation", "translation")}} for each in poses]
    )
    config = tmp_path / "stage.yaml"
    config.write_text("stage: gsp\nmodel: {image_height: 32, image_width: 48}\n")
    assert command.main([str(config), f"data.dataroot={standing}", f"output={tmp_path / 'run'}", "steps=2"]) == 2
    assert "the recordings stand still: by their poses 0.0 cm to a neighbour at most" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.medium
def test_what_a_first_stage_must_share_and_what_is_the_robots_own(root, tmp_path):
    first = train(settings(root, tmp_path / "first", steps=1))
    config = settings(root, tmp_path / "second", steps=1, first_stage=str(first))
    own = replace(MODEL, depth=replace(MODEL.depth, first=7.0, metric_ground=False))
    inherited = engine.inherit_first_stage(replace(config, model=own)).model.depth
    assert inherited == replace(load_depth_net(first).config.depth, metric_ground=False) and inherited.first != 7.0
    other = replace(MODEL, pose=PoseConfig(width=0.25, channels=8))
    with pytest.raises(ConfigError, match=r"was trained with model.pose="):
        train(replace(config, model=other))
    larger = replace(MODEL, image_height=64, image_width=96)
    grown = load_depth_net(train(replace(config, model=larger)))  # convolutions: a start at any size
    assert (grown.config.image_height, grown.config.image_width) == (64, 96)
    second = replace(settings(root, tmp_path / "third", stage="gsv", steps=1, first_stage=str(first)), model=larger)
    gsv = replace(second.gsv, ego_motion="learned", start_from_first_stage=False)
    with pytest.raises(ConfigError, match="learnt motion from images with image_height=32, this run has 64"):
        train(replace(second, gsv=gsv))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=gsv", "data.dataroot={root}"], "first_stage: gsv.ego_motion=learned needs the model file"),
        (["stage=nothing"], "stage: expected one of"),
        (["steps=0"], "steps: expected at least 1"),
        (["data.moments=all"], "data.moments: expected one of"),
        (["data.dataroot=nowhere"], "nowhere"),
        ([], "data: give either data.dataroot=DIR"),
    ],
)
def test_a_users_mistake_is_one_line(root, tmp_path, overrides, message, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("{}\n")
    overrides = [each.format(root=root) for each in overrides]
    assert command.main([str(config), f"output={tmp_path / 'run'}", *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.medium
def test_a_run_that_collapses_ends_at_once_and_keeps_what_was_good(root, tmp_path, capsys):
    """Motion that stays at rest beside poses that move: what a run looks like whose motion was never found."""
    config = settings(root, tmp_path / "run", steps=100, save_every=5)
    gsp = replace(config.gsp, ego_motion="learned", hints=HintSettings(weight=0.0), search_at=0.4)
    config = replace(config, gsp=gsp, learning_rate=1e-9, encoder_learning_rate=1e-9)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(to_dict(config)))
    assert command.main([str(file)]) == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: step 75: training collapsed") and "holds the weights of step 55" in said
    assert "To do: let recorded motion be used" in said
    assert load_depth_net(tmp_path / "run" / "model.safetensors").provenance.steps == 55


@pytest.mark.medium
def test_a_run_that_is_over_goes_on_for_longer(root, tmp_path, caplog):
    """Without a terminal it prints lines, and of what it leaves out it says how good the end is."""
    caplog.set_level("INFO")
    config = settings(root, tmp_path / "run", steps=2)
    config = replace(config, data=replace(config.data, left_out=0.3))
    train(config)
    assert "samples are left out" in caplog.text and "step 2 of 2, about 0 min left: " in caplog.text
    train(replace(config, steps=4), resume=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    measures = json.loads((tmp_path / "run" / "measures.json").read_text())
    assert set(measures) == {"start", "end", "start_samples", "end_samples", "better"}
    assert set(measures["start"]) == set(measures["end"]) == set(measures["end_samples"]) != set()
    assert "error of the neighbouring frames, standing still being 1 (less is better): " in caplog.text
    whole = replace(config, steps=4, output=str(tmp_path / "whole"))
    train(whole)
    ends = [state.load_state(Path(each.output) / "last.pt")["schedule"]["_last_lr"] for each in (config, whole)]
    assert ends[0] == pytest.approx(ends[1])  # the schedule is that of the longer run
    with pytest.raises(ConfigError, match="another steps"):
        train(replace(config, steps=3), resume=True)


def test_the_end_of_each_recording_is_left_out(root):
    moment = open_entries(DataConfig(dataroot=str(root)))[0]
    entries = [replace(moment, scene=scene, token=f"{number}") for scene in "ab" for number in range(20)]
    entries.append(replace(moment, scene="short", token="0"))
    kept, apart = split_recordings(entries, 0.1)
    assert [(each.scene, each.token) for each in apart] == [("a", "18"), ("a", "19"), ("b", "18"), ("b", "19")]
    assert len(kept) == 2 * 17 + 1 and max(int(each.token) for each in kept) == 16  # 17 has images of 18
    assert split_recordings(entries, 0.0) == (tuple(entries), ())
