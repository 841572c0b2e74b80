"""Runs as jobs: the same runs as ever, through pre-emption, death and loss of the sweep that sent them."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import synthetic

from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.presets import preset
from clrkit.runs import run as making
from clrkit.runs import slurm as jobs_module
from clrkit.runs.local_workers import run_all
from clrkit.runs.slurm import Cluster, Job, SlurmExecutor, held_back, private_folder, read_parameters
from clrkit.runs.store import Progress, Run, RunError, Store, partial_of

if os.name == "nt":
    pytest.skip("submitit needs POSIX", allow_module_level=True)

SMOKE = preset("smoke")
LOCAL = Cluster("local", {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", "smoke")


def content(run: Run) -> tuple[dict[str, Any], str, str]:
    """All that a run holds but where, when and how fast it was made."""
    weights = hashlib.sha256((run.folder / "weights.safetensors").read_bytes()).hexdigest()
    record = {name: value for name, value in run.record.items() if name != "provenance"}
    return record, (run.folder / "history.json").read_text(), weights


# What a cluster is told


def test_digits_are_a_number_and_all_else_is_text() -> None:
    texts = [
        "timeout_min=60",
        "slurm_partition=gpu",
        "slurm_constraint=a=b",
        "slurm_comment=__import__('os')",
    ]
    assert read_parameters(texts) == {
        "timeout_min": 60,
        "slurm_partition": "gpu",
        "slurm_constraint": "a=b",
        "slurm_comment": "__import__('os')",
    }


@pytest.mark.parametrize(
    "text", ["slurm_partition", "=gpu", "slurm_comment=a\ntouch b", "slurm_comment=a\x00"]
)
def test_a_parameter_has_a_name_and_a_value_of_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="needs NAME=VALUE"):
        read_parameters([text])


@pytest.mark.parametrize("name", ["nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node"])
def test_a_run_is_not_made_in_several_processes(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is not possible"):
        read_parameters([f"{name}=2"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"slurm_partitoin": "gpu"}, "submitit knows no parameter 'slurm_partitoin'"),
        ({"partition": "gpu"}, "submitit knows no parameter 'partition'"),
        ({"mem_gb": "much"}, "The parameter mem_gb cannot be 'much'"),
    ],
)
def test_a_parameter_that_cannot_be_is_named_before_any_training(
    parameters: dict[str, int | str], message: str, store: Store
) -> None:
    with pytest.raises(ConfigError, match=message):
        next(run_all([SMOKE.pretrain], store, cluster=Cluster("local", parameters)))
    assert not store.runs.exists()


def test_without_slurm_or_submitit_one_sentence_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no srun"):
        SlurmExecutor(store, "cpu", Cluster("slurm", {}))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"clrkit\[cluster\]"):
        SlurmExecutor(store, "cpu", LOCAL)


def test_the_folder_of_what_is_unpickled_is_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir(mode=0o777)
    for name in ("cluster", "new/cluster"):
        assert stat.S_IMODE(private_folder(tmp_path / name).stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made private"):
        private_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(RunError, match="belongs to another user"):
        private_folder(tmp_path)


# SLURM, as far as it can be told from its commands


COMMANDS = {
    "srun": "",
    "sbatch": 'cp "$1" "$SLURM_SAID/script"; echo Submitted batch job 7',
    "sacct": "echo 'JobID|State|NodeList'",
    "scancel": 'echo "$@" >> "$SLURM_SAID/cancelled"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what SLURM's commands were told, while they are on the path."""
    for name, script in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_SAID", str(tmp_path))
    return tmp_path


def test_runs_that_are_ready_are_one_array_and_closing_cancels_it(slurm: Path, store: Store) -> None:
    parameters = {"slurm_partition": "gpu", "gpus_per_node": 1, "slurm_comment": "$(touch here); touch here"}
    jobs = SlurmExecutor(store, "cuda", Cluster("slurm", parameters))
    jobs.begin([SMOKE.resolve("pretrain", seed=seed) for seed in (0, 1)])
    said = (slurm / "script").read_text().splitlines()
    assert {
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --comment='$(touch here); touch here'",
        "#SBATCH --array=0-1%2",
        "#SBATCH --time=240",
        "#SBATCH --signal=USR2@90",
    } <= {*said}
    assert len(list((store.folder / "cluster").glob("7_?_submitted.pkl"))) == 2
    jobs.close()
    assert (slurm / "cancelled").read_text().split() == ["7_0", "7_1"]


def test_what_slurm_refuses_is_said_in_its_words(slurm: Path, store: Store) -> None:
    (slurm / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"
    )
    with pytest.raises(RunError, match=r"^SLURM did not take the jobs: sbatch: error: invalid partition"):
        SlurmExecutor(store, "cuda", Cluster("slurm", {"slurm_partition": "gpu"})).begin([SMOKE.pretrain])


def test_a_run_that_somebody_works_on_gets_no_job_until_it_is_left(
    slurm: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "POLL_SECONDS", 0.0)
    config = SMOKE.resolve("pretrain", batch_size=500)
    jobs = SlurmExecutor(store, "cpu", Cluster("slurm", {}))
    with closing(making.run_or_load(config, store)) as steps:
        next(steps)
        jobs.begin([config])
        assert jobs.ended() == []
        assert not (slurm / "script").exists()
    assert jobs.ended() == []
    assert (slurm / "script").exists()


@dataclass
class Over:
    """A job that has ended with this sentence."""

    sentence: str
    job_id = "7"

    def done(self) -> bool:
        return True

    def result(self) -> str:
        return self.sentence


@pytest.fixture
def ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> SlurmExecutor:
    """An executor with a job that has just ended without an error."""
    monkeypatch.setattr(jobs_module, "POLL_SECONDS", 0.0)
    jobs = SlurmExecutor(store, "cpu", LOCAL)
    jobs.jobs[SMOKE.pretrain] = Over("")
    return jobs


def test_a_run_that_is_seen_late_is_waited_for(ended: SlurmExecutor) -> None:
    assert ended.ended() == []
    assert [*ended.news()] == []
    synthetic.put(ended.store, SMOKE.pretrain)
    assert ended.ended() == [SMOKE.pretrain]
    assert ended.ended() == []


def test_a_run_that_is_never_seen_is_named(ended: SlurmExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended.ended() == []
    monkeypatch.setattr(jobs_module, "UNSEEN_SECONDS", 0.0)
    path = ended.store.path(SMOKE.pretrain)
    with pytest.raises(RunError, match=f"^Job 7 has made {path}, which is not there for this machine"):
        ended.ended()


# A job


USER_SIGNAL = signal.SIGUSR2


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Which signals reach the handler that submitit would have set."""
    heard: list[int] = []
    before = signal.signal(USER_SIGNAL, lambda number, _: heard.append(number))
    yield heard
    signal.signal(USER_SIGNAL, before)


def test_a_signal_is_held_back_and_the_handlers_are_put_back(heard: list[int]) -> None:
    handler = signal.getsignal(USER_SIGNAL)
    with held_back(USER_SIGNAL) as told:
        signal.raise_signal(USER_SIGNAL)
        assert told == [USER_SIGNAL]
        assert heard == []
    assert signal.getsignal(USER_SIGNAL) is handler
    assert signal.alarm(0) == 0


@pytest.mark.slow
def test_a_signal_comes_through_where_no_step_ends(heard: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "STEP_SECONDS", 1)
    with held_back(USER_SIGNAL):
        signal.raise_signal(USER_SIGNAL)
        end = time.monotonic() + 10
        while not heard and time.monotonic() < end:
            time.sleep(0.01)
    assert heard == [USER_SIGNAL]


def signalling_at(step: int, work: Callable[..., Iterator[Progress]]) -> Callable[..., Iterator[Progress]]:
    """`run_or_load` that gets the signal within a step."""

    def signalled(*arguments: Any) -> Iterator[Progress]:
        with closing(work(*arguments)) as steps:
            for progress in steps:
                if progress.step == step:
                    signal.raise_signal(USER_SIGNAL)
                yield progress

    return signalled


@pytest.mark.slow
def test_a_job_told_to_leave_leaves_a_state_of_that_very_step(
    store: Store, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMOKE.resolve("pretrain", batch_size=500)
    job = Job(config, store, "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(making, "run_or_load", signalling_at(3, making.run_or_load))
        assert job() == "pretrain seed 0 was stopped."
    assert heard == [USER_SIGNAL]
    assert store.state(config) == ("partial", 3 / 8)
    assert job.checkpoint().function is job
    assert job() == ""
    assert store.find(config) is not None


def test_what_goes_wrong_in_a_job_is_its_sentence(store: Store) -> None:
    job = Job(SMOKE.resolve("pretrain", batch_size=5000), store, "cpu")
    assert job().startswith("batch_size 5000 of pretrain is larger")


# SlurmExecutor of this machine


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """SlurmExecutor are looked at more often, and a result that is not there is not waited for."""
    monkeypatch.setattr(jobs_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)


def tasks() -> list[psutil.Process]:
    """Processes of the jobs that this process has sent, without those that look after them."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if any("submitit.core._submit" in word for word in commands(child))]


def commands(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def at_work(store: Store, config: Stage) -> psutil.Process | None:
    """The process that makes a run, once it has noted where it stands."""
    note = partial_of(store.path(config)) / "progress.json"
    for task in tasks():
        if note.exists() and note.stat().st_mtime > task.create_time() + 0.1:
            return task
    return None


LONG = SMOKE.resolve("pretrain", epochs=8)  # several seconds
WAYS = {"in sequence": {"workers": 1}, "in processes": {"workers": 2}, "as jobs": {"cluster": LOCAL}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The long run, undisturbed."""
    store = Store(tmp_path_factory.mktemp("straight"), "smoke")
    return making.finish(making.run_or_load(LONG, store))


@pytest.mark.slow
def test_runs_are_the_same_in_sequence_in_processes_and_as_jobs(tmp_path: Path, quick: None) -> None:
    stages = [SMOKE.resolve("finetune", tap_layer=layer) for layer in (0, 1)]
    found = {}
    for name, way in WAYS.items():
        store = Store(tmp_path / name, "smoke")
        assert [*run_all(stages, store, **way)]
        found[name] = store.all()
    contents = [list(map(content, runs)) for runs in found.values()]
    assert len(contents[0]) == 3
    assert contents[0] == contents[1] == contents[2]
    assert {run.record["provenance"]["threads"] for runs in found.values() for run in runs} == {1}


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_ends_as_if_nothing_had_been(
    store: Store, straight: Run, quick: None, fault: Callable[..., None]
) -> None:
    told: psutil.Process | None = None
    states: list[list[Path]] = []  # that are there when the pre-empted process has left
    for _ in run_all([LONG], store, cluster=LOCAL):
        if told is None and (told := at_work(store, LONG)):
            told.send_signal(USER_SIGNAL)
        if told and not told.is_running():
            states.append(list(partial_of(store.path(LONG)).glob("state*")))
    assert states[0]
    (log,) = (store.folder / "cluster").glob("*.out")
    assert log.read_text().count("Requeued job") == 1
    run = store.find(LONG)
    assert run is not None
    assert content(run) == content(straight)
    fault("cluster: a job is pre-empted", "submitit's signal, in training", "nothing")


def kill_at_work(store: Store) -> None:
    """Make the long run as a job, and kill its process once it is at work."""
    for _ in run_all([LONG], store, cluster=LOCAL):
        if task := at_work(store, LONG):
            task.kill()


@pytest.mark.slow
def test_a_killed_job_is_one_sentence_and_the_next_sweep_goes_on(
    store: Store, straight: Run, quick: None, fault: Callable[..., None]
) -> None:
    with closing(making.run_or_load(LONG, store)) as steps:
        *_, last = islice(steps, 20)
    sentence = r"^Job \d+, pretrain seed 0, died.*; its last state is kept, its log is \S+_log\.err\.$"
    with pytest.raises(RunError, match=sentence):
        kill_at_work(store)
    assert store.state(LONG)[1] >= last.step / last.total
    going_on = making.run_or_load(LONG, store)
    assert next(going_on).step == last.step + 1
    assert content(making.finish(going_on)) == content(straight)
    fault("cluster: a job is killed", "SIGKILL, in training", "the steps since the last state")


@pytest.mark.slow
def test_a_failed_job_stops_the_others_each_with_a_state(
    store: Store, quick: None, fault: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    failing = SMOKE.resolve("pretrain", learning_rate=1e30, epochs=2, seed=1)
    with pytest.raises(RunError, match=r"^The loss .*is not finite at step"):
        list(run_all([LONG, failing], store, workers=2, cluster=LOCAL))
    assert tasks() == []
    assert capfd.readouterr().err == ""
    assert store.state(LONG)[0] == "partial"
    assert list(partial_of(store.path(LONG)).glob("state*"))
    fault("cluster: another job fails", "a learning rate of 1e30", "nothing")


@pytest.mark.slow
def test_a_job_outlives_the_sweep_that_sent_it_and_is_not_sent_again(
    store: Store, quick: None, fault: Callable[..., None]
) -> None:
    config = SMOKE.resolve("pretrain", epochs=3)
    words = ["sweep", "pretrain", "--preset", "smoke", "--epochs", "3", "--cluster", "local"]
    command = [sys.executable, "-m", "clrkit", *words, "--results", str(store.results)]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not partial_of(store.path(config)).exists():
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    assert store.find(config) is None
    list(run_all([config], store, cluster=LOCAL))
    assert store.find(config) is not None
    assert len(list((store.folder / "cluster").glob("*_submitted.pkl"))) == 1
    fault("cluster: the sweep that sent the jobs is killed", "SIGKILL", "nothing")
