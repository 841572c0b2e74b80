"""Runs: made once, whole or not at all, and resumed exactly."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clrkit.config import Finetune, Pretrain, Stage
from clrkit.data.datasets import load
from clrkit.errors import ConfigError
from clrkit.experiments.fields import from_dict, stage_class, with_fields
from clrkit.experiments.presets import preset
from clrkit.model import Model
from clrkit.runs import run as module
from clrkit.runs.checkpoint import read_state
from clrkit.runs.checksums import ChecksumError
from clrkit.runs.model_files import ModelError
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.store import Run, RunError, Store
from clrkit.stages import initial_model
from clrkit.training import Training

SMOKE = preset("smoke")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", "smoke")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a finished fine-tuning, and the pretraining that it builds on."""
    made = Store(tmp_path_factory.mktemp("made") / "results", "smoke")
    finish(run_or_load(short("finetune"), made))
    return made


@pytest.fixture
def filled(made: Store, store: Store) -> Store:
    """A copy of it, to be damaged."""
    shutil.copytree(made.results, store.results)
    return store


def short(stage: str = "pretrain", **settings: object) -> Stage:
    run: Stage = SMOKE.resolve(stage, **settings)
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "weights.safetensors")


def test_a_run_and_what_it_builds_on_are_recorded(made: Store) -> None:
    config = short("finetune")
    run = finish(run_or_load(config, made))
    assert run.record["parent"] == finish(run_or_load(config.chain[0], made)).key
    assert run.record["labels"] == 40
    assert 0 <= run.metrics["top1"] <= 1
    assert sum(map(sum, run.record["confusion"])) == 1000
    for field in ("seconds", "peak_memory_mb", "device", "cpu", "torch", "python", "git", "finished"):
        assert run.record["provenance"][field] not in (None, 0), field
    assert from_dict(stage_class("finetune"), run.record["config"]) == config


@pytest.mark.slow
def test_a_student_is_taught_by_the_model_that_its_teacher_was_distilled_into(store: Store) -> None:
    few = {"epochs": 1, "teacher.epochs": 1}
    config = with_fields(SMOKE.distill, few | {"width": 0.5, "self_temperature": 0.5})
    made = finish(run_or_load(config, store))
    assert config.source
    itself = store.find(config.source)
    assert itself
    assert made.record["parent"] == itself.key
    assert made.metrics["teacher_top1"] == pytest.approx(itself.metrics["top1"])
    assert itself.record["config"]["network"]["width"] == SMOKE.pretrain.network.width


def test_a_finished_run_is_not_made_again(made: Store) -> None:
    first = finish(run_or_load(short(), made))
    written = (first.folder / "record.json").stat().st_mtime_ns
    assert list(run_or_load(short(), made)) == []
    assert (first.folder / "record.json").stat().st_mtime_ns == written


def test_nothing_but_results_is_left_in_the_store(made: Store) -> None:
    run = finish(run_or_load(short(), made))
    assert {path.name for path in made.runs.iterdir()} == {
        run.folder.name,
        made.path(short("finetune")).name,
    }
    assert {path.name for path in run.folder.iterdir()} == {
        "record.json",
        "history.json",
        "weights.safetensors",
        "SHA256SUMS",
    }


MEMORY = {"memory": True, "memory_size": 1200}  # full after the third of eight steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("pretrain", {"batch_size": 500}),
        ("pretrain", {"batch_size": 500, **MEMORY}),
        ("supervised", {"batch_size": 40}),
        pytest.param("finetune", {"batch_size": 40}, marks=pytest.mark.slow),
        pytest.param("distill", {"batch_size": 500}, marks=pytest.mark.slow),
        pytest.param("probe", {"batch_size": 500}, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_to_the_very_same_weights(
    stage: str, settings: dict[str, int | bool], tmp_path: Path
) -> None:
    whole, parts = (Store(tmp_path / name, "smoke") for name in ("whole", "parts"))
    config = short(stage, **settings)
    straight = finish(run_or_load(config, whole))
    steps = 0
    for stop_after in (1, 1, 10**9):
        work = run_or_load(config, parts)
        for steps, progress in enumerate(work, start=1):
            if progress.config == config and steps >= stop_after:
                break
        work.close()
    stopped = parts.find(config)
    assert stopped is not None
    assert all(torch.equal(value, weights(stopped)[name]) for name, value in weights(straight).items())
    assert stopped.metrics == straight.metrics
    assert stopped.history == straight.history


def test_a_partial_run_says_how_far_it_got(store: Store) -> None:
    work = run_or_load(short(batch_size=500), store)
    next(work)
    next(work)
    work.close()
    assert store.state(short(batch_size=500)) == ("partial", 2 / 8)
    assert store.state(short(batch_size=500, temperature=0.3)) == ("missing", 0.0)


def test_a_loss_that_is_not_finite_ends_the_run_in_one_sentence_and_loses_nothing(filled: Store) -> None:
    kept = finish(run_or_load(short(), filled))
    with pytest.raises(
        RunError, match=r"not finite at step 3; try a lower learning_rate.*; no state was kept\.$"
    ):
        finish(run_or_load(short(learning_rate=1e30), filled))
    assert filled.find(short()) == kept
    assert filled.find(short(learning_rate=1e30)) is None


def test_settings_the_data_do_not_allow_are_refused_before_any_training(store: Store) -> None:
    with pytest.raises(ValueError, match="fewer than one for each of the 10 classes"):
        finish(run_or_load(short("finetune", fraction=0.001), store))
    with pytest.raises(
        ValueError, match="batch_size 5000 of pretrain is larger than its 4000 training images"
    ):
        finish(run_or_load(short(batch_size=5000), store))
    assert not store.runs.exists()


def test_a_results_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/smoke/runs cannot be written"):
        finish(run_or_load(short(), Store(tmp_path / "file", "smoke")))


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_after(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomically", full)
        with pytest.raises(RunError, match="No space left on device"):
            finish(run_or_load(short(), store))
    assert finish(run_or_load(short(), store)).metrics


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_record_is_named_not_used(filled: Store, damage: bytes) -> None:
    run = finish(run_or_load(short(), filled))
    (run.folder / "record.json").write_bytes(damage)
    with pytest.raises(ChecksumError, match=r"record\.json"):
        filled.find(short())


def test_a_damaged_state_is_named_not_used(store: Store) -> None:
    work = run_or_load(short(), store)
    next(work)
    work.close()
    state = next(store.runs.glob("*.partial/state"))
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"state is damaged; delete .*partial to start the run again"):
        finish(run_or_load(short(), store))


def test_a_changed_field_makes_another_run_and_its_descendants_alone(store: Store) -> None:
    base = SMOKE.distill
    moved = with_fields(base, {"tap_layer": 0})
    paths = [store.path(stage) for stage in base.chain]
    changed = [store.path(stage) for stage in moved.chain]
    assert [a == b for a, b in zip(paths, changed, strict=True)] == [True, False, False]


def test_the_model_of_a_run_gives_the_recorded_accuracy(made: Store) -> None:
    from clrkit import evaluate
    from clrkit.data.datasets import load

    run = finish(run_or_load(short("finetune"), made))
    part = load(SMOKE.pretrain.data).evaluation
    logits = evaluate.predict(run.model(), part, 28, torch.device("cpu"))
    assert evaluate.accuracy(logits, torch.from_numpy(part.labels)) == run.metrics["top1"]


@pytest.mark.slow
def test_a_run_keeps_the_trained_weights_and_not_the_memory(filled: Store) -> None:
    remembering, plain = (finish(run_or_load(short(**settings), filled)) for settings in (MEMORY, {}))
    assert weights(remembering).keys() == weights(plain).keys()
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(remembering).items())
    assert remembering.record["model"] == plain.record["model"]


def test_a_memory_is_kept_with_the_state(store: Store) -> None:
    work = run_or_load(short(batch_size=500, **MEMORY), store)
    next(work)
    next(work)
    work.close()
    state = torch.load(io.BytesIO(read_state(next(store.runs.glob("*.partial/state")))), weights_only=True)
    memory = state["training"]["memory"]
    assert memory["queue"].shape == (1200, 128)
    assert memory["queue"][:1000].norm(dim=1).allclose(torch.ones(1000))
    assert memory["queue"][1000:].eq(0).all()


def test_a_model_whose_weights_were_not_kept_says_so(filled: Store) -> None:
    run = finish(run_or_load(short("finetune"), filled))
    (run.folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        run.model()


@pytest.mark.slow
def test_history_has_every_logged_step_and_what_was_monitored(store: Store) -> None:
    run = finish(run_or_load(short(epochs=2, batch_size=500, monitor_epochs=1), store))
    assert run.history["step"] == list(range(1, 17))
    assert [step for step, _ in run.history["knn"]] == [0, 8, 16]
    assert len(run.history["loss"]) == len(run.history["learning_rate"]) == 16


def knn_by_hand(model: Model) -> float:
    """Accuracy in the monitored sample, one query at a time: 20 neighbours vote with exp(cosine / 0.07)."""
    part = load(SMOKE.pretrain.data).train
    sample = np.random.RandomState(0).permutation(4000)[:2000]
    with torch.no_grad():
        features = model.eval().encoder(next(part.pixels.batches([sample])) / 255).double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels, hits = part.labels[sample], 0
    for query, truth in zip(features[1000:], labels[1000:], strict=True):
        likeness = features[:1000] @ query
        near = np.argsort(-likeness)[:20]
        ballot = np.bincount(labels[near], np.exp(likeness[near] / 0.07), minlength=10)
        hits += ballot.argmax() == truth
    return hits / 1000


@pytest.mark.slow
def test_a_pretraining_s_knn_is_that_of_its_finished_weights_however_often_it_was_monitored(
    tmp_path: Path,
) -> None:
    settings = {"epochs": 3, "batch_size": 1000}
    often, between, never = (
        finish(run_or_load(short(**settings, monitor_epochs=epochs), Store(tmp_path / str(epochs), "smoke")))
        for epochs in (1, 2, 100)
    )
    steps = [[step for step, _ in run.history["knn"]] for run in (often, between, never)]
    assert steps == [[0, 4, 8, 12], [0, 8, 12], [0, 12]]
    assert often.key == between.key == never.key
    assert often.metrics == between.metrics == never.metrics
    sums = [run.folder.joinpath("weights.safetensors").read_bytes() for run in (often, between, never)]
    assert sums[0] == sums[1] == sums[2]
    # Two of the 1,000 images may have neighbours that are nearer or farther by rounding alone.
    assert never.metrics["knn"] == pytest.approx(knn_by_hand(never.model()), abs=0.002)
    config = short(**settings)
    untrained = initial_model(config, 10, None)
    assert isinstance(untrained, Model)
    assert never.history["knn"][0][1] == pytest.approx(knn_by_hand(untrained), abs=0.002)
    assert never.history["knn"][0] != never.history["knn"][-1]


def test_monitoring_and_places_do_not_change_the_key(store: Store) -> None:
    config = SMOKE.pretrain
    assert isinstance(config, Pretrain)
    assert store.path(config) == store.path(replace(config, monitor_epochs=3))
    assert store.path(config) == store.path(with_fields(config, {"root": "/elsewhere"}))
    assert store.path(config) != store.path(with_fields(config, {"evaluation": "validation"}))


def test_a_record_is_plain_json_without_nan(made: Store) -> None:
    run = finish(run_or_load(short("finetune"), made))
    strict: Callable[[str], None] = lambda name: pytest.fail(f"{name} in a record")  # noqa: E731
    json.loads((run.folder / "record.json").read_text(), parse_constant=strict)
    assert isinstance(SMOKE.finetune, Finetune)


def test_a_label_list_counts_by_what_it_holds(store: Store, tmp_path: Path) -> None:
    first, moved = tmp_path / "first.txt", tmp_path / "moved.txt"
    first.write_text("0007\n")
    moved.write_text("0007\n")
    paths = [store.path(short("finetune", label_list=str(path))) for path in (first, moved)]
    assert paths[0] == paths[1]
    first.write_text("0008\n")
    assert store.path(short("finetune", label_list=str(first))) != paths[0]


# Threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    """The caller's PyTorch has two threads, as on a machine of two cores."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def threads_within(work: Iterator[object], monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of threads that the steps of a run have; its caller has as many after each step as before."""
    outside = torch.get_num_threads()
    had, update = set[int](), Training.step
    monkeypatch.setattr(Training, "step", lambda *args: had.add(torch.get_num_threads()) or update(*args))
    for _ in work:
        assert torch.get_num_threads() == outside
    assert torch.get_num_threads() == outside
    return had


def source_of(stage: Stage, store: Store) -> dict[str, Any]:
    """The provenance of a finished run."""
    run = store.find(stage)
    assert run
    by: dict[str, Any] = run.record["provenance"]
    return by


@pytest.mark.usefixtures("two_threads")
def test_a_run_has_one_thread_whatever_its_caller_has(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_within(run_or_load(short("supervised"), store), monkeypatch) == {1}
    by = source_of(short("supervised"), store)
    assert by["threads"] == 1
    assert "threads_before" not in by


def test_the_environment_says_how_many_threads_every_run_has(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLRKIT_THREADS", "2")
    assert threads_within(run_or_load(short("supervised"), store), monkeypatch) == {2}
    assert source_of(short("supervised"), store)["threads"] == 2


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", "", "99999999999"])
def test_a_number_of_threads_that_cannot_be_is_refused(
    number: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLRKIT_THREADS", number)
    with pytest.raises(ConfigError, match=f"^CLRKIT_THREADS must be a whole number .*, not '{number}'.$"):
        next(run_or_load(short("supervised"), store))


@pytest.mark.usefixtures("two_threads")
def test_runs_that_take_turns_in_one_thread_have_one_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (run_or_load(short("supervised", seed=seed), store) for seed in (0, 1))
    next(first)
    next(second)
    finish(first)
    assert threads_within(second, monkeypatch) == {1}


def test_a_run_that_goes_on_with_other_threads_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = short("supervised")
    monkeypatch.setenv("CLRKIT_THREADS", "2")
    work = run_or_load(config, store)
    next(work)
    work.close()
    monkeypatch.delenv("CLRKIT_THREADS")
    finish(run_or_load(config, store))
    by = source_of(config, store)
    assert (by["threads"], by["threads_before"]) == (1, [2])
