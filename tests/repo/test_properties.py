"""Whatever is written in a config, on the command line or in a file of a run: a result, or one sentence."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from config_strategies import UNKEYED, some
from config_strategies import stages as any_stage
from hypothesis import given, settings
from hypothesis import strategies as st

from clrkit import config as configs
from clrkit.cli import main as command_line
from clrkit.config import STAGES, Pretrain, Probe, Stage
from clrkit.data.splits import PixelArray, Split
from clrkit.data.subsets import hold_out, label_subset, listed_subset
from clrkit.errors import ConfigError
from clrkit.experiments.fields import from_dict, to_dict, value_at, with_fields
from clrkit.experiments.presets import preset
from clrkit.runs import local_workers
from clrkit.runs import run as making
from clrkit.runs.keys import key
from clrkit.runs.store import Run, RunError, Store, partial_of, read_run, write_run_sums

T = TypeVar("T")

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
ODD = ["1e400", "-0", "0x10", "1_0", "１２", "NaN", "inf", "9" * 5000, "true", "None", "2,3", ""]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from(ODD)


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and objects of lists and objects of scalars, or a scalar alone."""
    deeper: Callable[..., Any] = lambda inner: (  # noqa: E731
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    )
    return st.recursive(scalars, deeper, max_leaves=5)


VALUES = nested(SCALARS)
JSON = nested(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS)


def result_or_sentence(make: Callable[[], T]) -> T | None:
    """What `make` gives, or None where it refuses in one sentence."""
    try:
        return make()
    except ConfigError as error:
        sentence = str(error)
    assert sentence.endswith((".", "?"))
    assert "\n" not in sentence
    return None


# Configs

Steps = tuple[str, ...]  # to a field


def leaves(config: configs.Config, path: Steps = ()) -> Iterator[tuple[Steps, dataclasses.Field[Any], Any]]:
    """Every field that is no group of fields: its path, the field, and its value."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, configs.Config):
            yield from leaves(value, (*path, item.name))
        else:
            yield (*path, item.name), item, value


def replaced(values: Any, path: Steps, value: Any) -> Any:
    """Nested objects with the value at one place replaced."""
    if not path:
        return value
    return values | {path[0]: replaced(values[path[0]], path[1:], value)}


STANDARD = [kind() for kind in STAGES]
FIELDS = sorted(
    {name for stage in STANDARD for path, _, _ in leaves(stage) for name in (path[-1], ".".join(path))}
)


@given(st.sampled_from(STANDARD), st.dictionaries(st.sampled_from(FIELDS) | TEXTS, VALUES, max_size=3))
def test_anything_set_in_any_field_gives_a_config_or_one_sentence(
    stage: Stage, fields: dict[str, Any]
) -> None:
    config = result_or_sentence(lambda: with_fields(stage, fields))
    assert config is None or from_dict(type(stage), json.loads(json.dumps(to_dict(config)))) == config


@given(st.sampled_from(STANDARD), st.data())
def test_anything_in_a_field_of_a_record_gives_a_config_or_one_sentence(
    stage: Stage, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from([path for path, _, _ in leaves(stage)]))
    values = replaced(to_dict(stage), path, data.draw(VALUES))
    config = result_or_sentence(lambda: from_dict(type(stage), values))
    assert config is None or type(config) is type(stage)


@settings(max_examples=40)
@given(any_stage)
def test_fields_are_read_from_texts_as_they_are_and_in_any_order(stage: Stage) -> None:
    texts = {".".join(path): str(value) for path, _, value in leaves(stage)}
    texts = {"seed": texts.pop("seed"), **texts}  # it goes to the whole chain, and so before single ones
    kind = type(stage)
    assert with_fields(kind(), texts) == stage
    backwards = {"seed": texts.pop("seed"), **dict(reversed(texts.items()))}
    assert with_fields(kind(), backwards) == stage


@settings(max_examples=40)
@given(any_stage)
def test_a_key_depends_on_the_fields_and_not_on_their_order_or_type(stage: Stage) -> None:
    def disturbed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: disturbed(inner) for name, inner in reversed(value.items())}
        return int(value) if isinstance(value, float) and value.is_integer() else value

    again = from_dict(type(stage), disturbed(to_dict(stage)))
    assert again == stage
    assert key(again, "f") == key(stage, "f")


@pytest.mark.parametrize("name", ["epochs", "seed", "temperature"])
def test_a_number_too_large_to_compute_with_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        with_fields(Pretrain(), {name: 10**400})


def test_every_permitted_seed_draws_labels() -> None:
    seed = result_or_sentence(lambda: with_fields(Pretrain(), {"seed": 2**32}))
    assert seed is None or len(label_subset(np.array([0, 1]), 1.0, seed.seed)) == 2


@pytest.mark.parametrize("value", [None, 3, []])
def test_a_group_of_fields_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        from_dict(Pretrain, {"optimizer": value})


def test_the_seed_of_one_stage_stands_wherever_that_of_the_chain_is_written() -> None:
    fields = {"pretrain.seed": 3, "seed": 5}
    assert with_fields(Probe(), fields) == with_fields(Probe(), dict(reversed(fields.items())))


def test_minus_zero_is_the_same_run() -> None:
    plain, minus = (with_fields(Pretrain(), {"weight_decay": text}) for text in ("0", "-0"))
    assert plain == minus
    assert key(plain, "f") == key(minus, "f")


def counts(config: Stage, path: Steps) -> bool:
    """Whether a field of a config changes the mathematics there."""
    group = value_at(config, path[:-1])
    (item,) = (item for item in dataclasses.fields(group) if item.name == path[-1])
    needed = item.metadata["needs"]
    return path[-1] not in UNKEYED and (not needed or bool(getattr(group, needed)))


@settings(max_examples=60)
@given(any_stage, st.data())
def test_a_field_changes_the_keys_of_its_stage_and_of_those_built_on_it(
    stage: Stage, data: st.DataObject
) -> None:
    path, item, value = data.draw(st.sampled_from(list(leaves(stage))))
    other = data.draw(some(item, type(value)))
    changed = result_or_sentence(lambda: from_dict(type(stage), replaced(to_dict(stage), path, other)))
    if changed is None:
        return
    counted = other != value and (counts(stage, path) or counts(changed, path))
    for before, after in zip(stage.chain, changed.chain, strict=True):
        assert (key(before, "f") != key(after, "f")) == (before != after and counted)


def test_thousands_of_configs_have_as_many_keys() -> None:
    base = Pretrain()
    grid = itertools.product(range(1, 11), range(2, 12), range(10), (0.1, 0.2, 0.5), (1, 3))
    names = ("epochs", "batch_size", "seed", "temperature", "head_layers")
    grown = [dataclasses.replace(base, **dict(zip(names, point, strict=True))) for point in grid]
    assert len({key(config, "f") for config in grown}) == len(grown) == 6000


# Labels

any_labels = st.lists(st.integers(-1, 3), max_size=40).map(lambda rows: np.array(rows, np.int64))


@given(any_labels, st.integers(2, 10))
def test_a_hold_out_loses_no_image_and_takes_none_twice(labels: np.ndarray, share: int) -> None:
    split = result_or_sentence(lambda: hold_out(labels, share, "abcd"))
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    assert (split is None) == bool((sizes == 1).any())
    if split:
        kept, held = split
        assert sorted([*kept, *held]) == list(range(len(labels)))
        assert set(labels[held]) == set(classes)
        assert set(labels[kept]) >= set(classes)


@given(any_labels, st.floats(0, 1, exclude_min=True), st.integers(0, 2**32 - 1))
def test_a_fraction_of_any_labels_is_of_every_class_or_refused(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    chosen = result_or_sentence(lambda: label_subset(labels, fraction, seed))
    if chosen is not None:
        assert sorted(set(chosen)) == list(chosen)
        assert set(labels[chosen]) == set(labels[labels >= 0])


@pytest.fixture(scope="module")
def list_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists") / "list.txt"


@given(any_labels, st.data())
def test_a_list_of_names_gives_these_images_in_any_order(
    list_file: Path, labels: np.ndarray, data: st.DataObject
) -> None:
    names = [f"class {label}/{number}.png" for number, label in enumerate(labels)]
    part = Split(PixelArray(np.zeros((len(labels), 3, 1, 1), np.uint8)), labels, names)
    wanted = data.draw(st.lists(st.sampled_from(range(len(names))), min_size=1) if names else st.just([]))
    list_file.write_text("".join(f"{names[index]}\n" for index in wanted))
    chosen = result_or_sentence(lambda: listed_subset(part, str(list_file)))
    if wanted and (labels[wanted] >= 0).all():
        assert chosen is not None
        assert list(chosen) == sorted(set(wanted))
    else:
        assert chosen is None


# Files of runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "pretrain-0123456789abcdef"


def read_back(folder: Path, content: bytes) -> Run | None:
    """What is read of a run with this as its record, which its checksum confirms."""
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_bytes(content)
    write_run_sums(folder)
    return result_or_sentence(lambda: read_run(folder))


@settings(max_examples=50)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_record_is_no_run(folder: Path, content: bytes) -> None:
    assert read_back(folder, content) is None


REFERENCE = Store(Path(__file__).parents[2] / "results" / "reference", "mini")


@settings(max_examples=50)
@given(st.sampled_from(["stage", "key", "config", "metrics", "provenance", "history"]), st.none() | JSON)
def test_a_changed_record_is_a_run_or_is_named(folder: Path, name: str, value: Any) -> None:
    record = REFERENCE.all()[0].record
    changed = {other: kept for other, kept in record.items() if other != name} | (
        {name: value} if value else {}
    )
    run = read_back(folder.with_name(f"{record['stage']}-{record['key']}"), json.dumps(changed).encode())
    assert run is None or run.record == changed


@settings(max_examples=20)
@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_note_of_progress_is_told_by_the_plan(folder: Path, one: int, other: int) -> None:
    done, total = sorted((one, other))
    assert noted(folder.parent, {"step": done, "total": total}) == ("partial", done / total)


@pytest.mark.parametrize(
    "note", [{"step": 1, "total": 0}, {"step": 1}, [1, 2], "half", {"step": "1", "total": 2}]
)
def test_a_note_of_progress_that_is_none_is_as_good_as_no_note(folder: Path, note: Any) -> None:
    state = noted(folder.parent, note)
    assert state is None or state == ("missing", 0.0)


def noted(results: Path, note: Any) -> tuple[str, float] | None:
    """What a plan tells of a run whose note of progress is this."""
    store, stage = Store(results, "smoke"), preset("smoke").pretrain
    partial = partial_of(store.path(stage))
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "progress.json").write_text(json.dumps(note))
    return result_or_sentence(lambda: store.state(stage))


def test_a_record_nested_beyond_reason_is_no_run(folder: Path) -> None:
    assert read_back(folder, b"[" * 100_000) is None


# The command line


def made_elsewhere(*_: Any) -> Any:
    raise RunError("Nothing is trained in this test.")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder where nothing is trained and no network is reached."""

    def unreachable(*_: Any) -> None:
        raise OSError("no network in this test")

    with pytest.MonkeyPatch.context() as patched:
        place = tmp_path_factory.mktemp("sandbox")
        patched.chdir(place)
        patched.setattr(making, "run_or_load", made_elsewhere)
        patched.setattr(local_workers, "run_all", made_elsewhere)
        patched.setattr(socket.socket, "connect", unreachable)
        yield place


COMMANDS = [
    "plan",
    "run",
    "reproduce",
    "sweep",
    "figures",
    "claims",
    "clean",
    "evaluate",
    "import-official",
    "check",
    "completion",
]
OPTIONS = [
    "--json",
    "--all",
    "--workers",
    "--device",
    "--results",
    "--preset",
    "--help",
    "--dataset",
    "--",
    "-1",
]
PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/~."), max_size=8)
VALUE = st.sampled_from([*ODD, "0", "1", "0.5", "cpu", "yes", "adamw"]) | PLAIN
OPTION = st.sampled_from([f"--{name}" for name in FIELDS])
NAMES = [stage.name for stage in STAGES]


def end_of(words: list[str]) -> tuple[int | str | None, str]:
    """Exit status of a command line, and the last line it wrote on standard error."""
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            status: int | str | None = command_line.main([*words, "--preset", "smoke"])
        except SystemExit as end:
            status = end.code
    return status, errors.getvalue().rstrip("\n").rpartition("\n")[2]


@pytest.mark.slow
@settings(max_examples=80)
@given(st.lists(st.sampled_from([*COMMANDS, *OPTIONS, *NAMES]) | OPTION | VALUE, max_size=5))
def test_any_words_end_in_one_line(sandbox: Path, words: list[str]) -> None:
    status, line = end_of(words)
    assert status in (0, 1, 2)
    assert status == 0 or line.startswith("clrkit: ")


@settings(max_examples=80)
@given(
    st.sampled_from(["run", "sweep"]), st.sampled_from(NAMES), st.lists(st.tuples(OPTION, VALUE), max_size=2)
)
def test_any_settings_of_a_run_end_in_one_line(
    sandbox: Path, command: str, stage: str, fields: list[tuple[str, str]]
) -> None:
    status, line = end_of([command, stage, *itertools.chain(*fields)])
    assert status in (1, 2)
    assert line.startswith("clrkit: ")
