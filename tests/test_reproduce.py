"""The command that a record says to type is read back as the recipe it was made with."""

import re
import shlex
from math import pi
from typing import Any

import pytest
import typer
from site_records import template

from bench.cli import app
from bench.recipe import load_tier, override_text, parse_overrides
from bench.record import Record
from bench.report.reproduce import reproduction


def parsed(command: str) -> dict[str, Any]:
    """What the command line understands."""
    program, name, *words = shlex.split(command)
    assert program == "bench"
    cli: Any = typer.main.get_command(app)
    options: dict[str, Any] = cli.commands[name].make_context(name, words).params
    return options


@pytest.mark.parametrize(
    "value",
    [
        *(0, -3, 10**20, 0.1, 1e-05, 1e16, 2.5e-300, pi, True, False, None),
        *("byol", "none", "null", "true", "1.5", "8/255", "", " padded ", 'quo"ted', "two words", "a=b", "it's"),
        *("line\nbreak", "tab\t", "back\\slash", "\x7f", "é", "😀", "#no comment", "[not a list", "inf", "2024-01-01"),
        *([], [1, 2], [0.08, 1.0], ["a", "b c"], [[1], [2]], {"a": 1, "b c": [True]}),
    ],
)
def test_an_override_is_read_back_to_the_last_bit(value: Any) -> None:
    text = override_text("stage1.key", value)
    (words,) = parse_overrides(shlex.split(shlex.quote(text))).items()
    assert words == ("stage1.key", value)
    assert type(words[1]) is type(value)


def test_a_radius_is_written_as_papers_write_it_and_nothing_else_is() -> None:
    assert override_text("threat.eps", 8 / 255) == "threat.eps=8/255"
    assert override_text("threat.eps", 0.031) == "threat.eps=0.031"
    assert override_text("stage1.lr", 0.2) == "stage1.lr=0.2"  # which is 51/255 as well
    assert parse_overrides([override_text("threat.eps", 3 / 255)]) == {"threat.eps": 3 / 255}


def test_the_command_gives_the_recipe_of_the_record() -> None:
    overrides = {"threat.eps": 4 / 255, "stage1.lr": 0.1 + 0.2, "ssl": "byol", "stage1.projector": [4, 4], "x": None}
    record = template().model_copy(update={"overrides": overrides, "seed": 7, "fidelity": "native"})
    found = reproduction(record)
    options = parsed(found.command)
    assert parse_overrides(options["set_"]) == overrides
    expected = {"method": "deacl", "dataset": "digits", "tier": "tiny", "fidelity": "native", "protocols": "slf"}
    assert {name: options[name] for name in expected} == expected
    assert options["seed"] == 7
    assert found.commit == record.environment.commit


def test_the_command_names_the_threads_that_all_phases_ran_with() -> None:
    record = template()
    one = record.environment.model_copy(update={"threads": 1})
    two = one.model_copy(update={"threads": 2})
    for ran, expected in [((one,), 1), ((one, two), None), ((one, None), None), ((), None)]:
        found = reproduction(
            record.model_copy(update={"environments": {"stage:ssl": ran, "ra": (one,) if ran else ()}})
        )
        assert parsed(found.command)["threads"] == expected


def test_the_command_names_the_devices_that_all_phases_ran_on_or_a_note_does() -> None:
    """With the statistics of each device's share of a batch, weights depend on the number of devices."""
    record = template()
    one = record.environment
    four, two = (one.model_copy(update={"devices": number}) for number in (4, 2))
    told = "The phases did not all run on the same number of devices (--devices): "
    cases: list[tuple[tuple[Any, ...], tuple[Any, ...], int | None, str]] = [
        ((one,), (one,), None, ""),
        ((one, None), (one,), None, ""),
        ((four, four), (four,), 4, ""),
        ((four, two, two), (four,), None, f"{told}stage:ssl 4 then 2, ra 4."),
        ((four,), (one,), None, f"{told}stage:ssl 4, ra 1."),
        ((four,), (None,), None, f"{told}stage:ssl 4, ra not recorded."),
        ((four,), (), 4, ""),
    ]
    for ssl, ra, expected, note in cases:
        found = reproduction(record.model_copy(update={"environments": {"stage:ssl": ssl, "ra": ra}}))
        assert parsed(found.command)["devices"] == expected
        assert [each for each in found.notes if "devices" in each] == [note] * bool(note)


def test_an_imported_encoder_is_evaluated_again() -> None:
    record = template().model_copy(update={"method": "imported", "title": "Theirs", "fidelity": "native"})
    found = reproduction(record)
    options = parsed(found.command)
    assert found.command.startswith("bench evaluate FILE --dataset digits --protocols slf --seed")
    assert options["protocols"] == "slf"
    assert any("Theirs" in note and record.encoder_sha256 in note for note in found.notes)


def test_own_data_are_named_by_their_digest_for_want_of_their_path() -> None:
    record = template()
    facts = {**record.recipe["dataset"], "name": "mine"}
    found = reproduction(record.model_copy(update={"dataset": "mine", "recipe": {**record.recipe, "dataset": facts}}))
    assert parsed(found.command)["dataset"] == "npz:PATH"
    assert any("mine is a user's own data: npz:PATH" in note and facts["sha256"] in note for note in found.notes)


def test_two_files_of_own_data_have_two_names() -> None:
    record = template()
    home, target = ({**record.recipe["dataset"], "name": name, "sha256": name[0] * 64} for name in ("abroad", "bonn"))
    recipe = {**record.recipe, "dataset": home, "finetune": {"dataset": target, "threat": record.recipe["threat"]}}
    found = reproduction(record.model_copy(update={"dataset": "bonn", "pretrained_on": "abroad", "recipe": recipe}))
    options = parsed(found.command)
    assert (options["dataset"], options["finetune_dataset"]) == ("npz:PATH", "npz:OTHER_PATH")
    notes = [note for note in found.notes if "own data" in note]
    assert [facts["sha256"] in note for facts, note in zip((home, target), notes, strict=True)] == [True, True]
    assert "abroad is a user's own data: npz:PATH, or folder:PATH, stands" in notes[0]
    assert "bonn is a user's own data: npz:OTHER_PATH, or folder:OTHER_PATH, stands" in notes[1]


def test_transfer_budget_and_a_seed_of_its_own_are_said() -> None:
    record = template()
    facts = {**record.recipe["dataset"], "name": "stl10", "sha256": "5" * 64}
    finetune = {"dataset": facts, "threat": record.recipe["threat"]}
    recipe = {**record.recipe, "budget": 1.5e12, "finetune": finetune}
    changes = {"dataset": "stl10", "pretrained_on": "digits", "encoder_seed": 4, "seed": 9, "recipe": recipe}
    found = reproduction(record.model_copy(update=changes))
    options = parsed(found.command)
    expected = {"dataset": "digits", "finetune_dataset": "stl10", "protocols": "slf", "seed": 4}
    assert {name: options[name] for name in expected} == expected
    assert float(options["budget"]) == 1.5e12
    assert any("`bench evaluate` with --protocols slf --seed 9" in note for note in found.notes)


def test_a_threat_model_of_the_evaluation_alone_is_said_beside_the_command() -> None:
    overrides = {"alf.steps": 3, "finetune.threat.eps": 4 / 255}
    record = template().model_copy(update={"overrides": overrides})
    found = reproduction(record)
    assert parsed(found.command)["set_"] == ["alf.steps=3"]
    assert any("`bench evaluate` with --protocols slf --seed 0 --set threat.eps=4/255." in note for note in found.notes)
    four = record.environment.model_copy(update={"devices": 4})
    found = reproduction(record.model_copy(update={"environments": {"stage:ssl": (four,), "ra": (four,)}}))
    assert any("--protocols slf --seed 0 --devices 4 --set" in note for note in found.notes)


def test_corrupted_images_on_disk_are_named_by_their_digest() -> None:
    record = template()
    recipe = {**record.recipe, "evaluate": {**record.recipe["evaluate"], "corruption_files": "f" * 64}}
    overrides = {"evaluate.corruptions": "files", "stage1.epochs": 3}
    found = reproduction(record.model_copy(update={"overrides": overrides, "recipe": recipe}))
    options = parsed(found.command)
    assert (options["corruptions"], options["set_"]) == ("PATH", ["stage1.epochs=3"])
    assert any("f" * 64 in note for note in found.notes)
    generated = reproduction(record.model_copy(update={"overrides": {"evaluate.corruptions": "generate"}}))
    assert parsed(generated.command)["set_"] == ["evaluate.corruptions=generate"]


def test_what_only_settings_name_is_loaded_from_its_file() -> None:
    record, arch, attack = template(), "MyNet+3f2a9c1b", "MyAttack+00000000"
    recipe = {**record.recipe, "encoder": {**record.recipe["encoder"], "arch": arch}}
    recipe["evaluate"] = {**recipe["evaluate"], "attacks": [attack]}
    overrides = {"encoder.arch": arch, "evaluate.attacks": [attack]}
    found = reproduction(record.model_copy(update={"recipe": recipe, "overrides": overrides}))
    assert found.command.startswith("bench --encoder FILE.py:MyNet --attack FILE.py:MyAttack run deacl ")
    assert [sum(name in note for note in found.notes) for name in (arch, attack)] == [1, 1]


def changed(**changes: Any) -> Record:
    record = template()
    return record.model_copy(update={"environment": record.environment.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("record", "note"),
    [
        (changed(dirty=True), "uncommitted changes"),
        (changed(commit=None, dirty=None), r"not run from a checkout; it was version 0\.1\.0"),
        (template().model_copy(update={"tier_sha256": "0" * 64}), "tier has changed since"),
        (template().model_copy(update={"tier": "mine"}), f"user's own file, of digest {template().tier_sha256}"),
    ],
)
def test_what_the_command_cannot_say_stands_beside_it(record: Record, note: str) -> None:
    assert any(re.search(note, text) for text in reproduction(record).notes)


def test_a_record_of_clean_code_on_named_data_needs_no_note() -> None:
    record = changed(commit="1" * 40, dirty=False).model_copy(update={"tier_sha256": load_tier("tiny").digest()})
    assert reproduction(record).notes == ()
