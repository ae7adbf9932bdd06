"""bench compare: what may be compared, what a name means, and what is said about the difference."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_records import fill, make_record
from scipy.stats import binomtest
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import compare_records, find_record, find_seeds
from bench.errors import BenchError
from bench.recipe import ALL_PROTOCOLS
from bench.record import LOCAL, NoGradient, Outcome, Record, correct, load_record, record_files, save_record
from bench.results import NEW_RECORD, Group, Measured, load_measured


def measured(folder: Path, record: Record) -> Measured:
    return load_measured(save_record(folder, record))


def group(folder: Path, *records: Record) -> Group:
    return Group(tuple(measured(folder, record) for record in records), ())


def coin(n: int, seed: int) -> list[bool]:
    return [bool(flip) for flip in np.random.default_rng(seed).random(n) < 0.6]


# Two records


def test_two_records_are_compared_on_the_images_that_both_met(tmp_path: Path) -> None:
    ra_a, ra_b, aa_a, aa_b = coin(200, 1), coin(200, 2), coin(100, 3), coin(60, 4)
    a = measured(tmp_path, make_record(method="a", title="A", sa=150, ra=ra_a, aa=aa_a))
    b = measured(tmp_path, make_record(method="b", title="B", sa=160, ra=ra_b, aa=aa_b, aa_n=60, seed=3))
    found = compare_records(a, b)
    assert (found.a, found.b) == ("A 2022, SLF, seed 0", "B 2022, SLF, seed 3")
    for measure, left, right in [("ra", ra_a, ra_b), ("aa", aa_a[:60], aa_b)]:
        one = found.measures[measure]  # type: ignore[index]
        assert one.n == len(left)
        assert (one.a, one.b) == (sum(left) / len(left), sum(right) / len(right))
        assert one.difference == pytest.approx(one.a - one.b, abs=1e-12)
        assert one.only_a == tuple(i for i, (x, y) in enumerate(zip(left, right, strict=True)) if x and not y)
        assert one.only_b == tuple(i for i, (x, y) in enumerate(zip(left, right, strict=True)) if y and not x)
        assert one.both + one.neither + len(one.only_a) + len(one.only_b) == one.n
        assert one.p_value == pytest.approx(binomtest(len(one.only_a), len(one.only_a) + len(one.only_b)).pvalue)
        assert one.interval[0] < one.difference < one.interval[1]
    sa = found.measures["sa"]
    assert (sa.only_a, sa.only_b, sa.both, sa.neither) == ((), tuple(range(150, 160)), 150, 40)


def test_what_was_not_measured_is_said_and_not_compared(tmp_path: Path) -> None:
    a, b = measured(tmp_path, make_record(aa=None)), measured(tmp_path, make_record(seed=1))
    found = compare_records(a, b)
    assert (set(found.measures), found.missing) == ({"sa", "ra"}, {"aa": "not measured for A"})


def test_all_other_differences_are_listed(tmp_path: Path) -> None:
    plain = make_record()
    recipe = {**plain.recipe, "slf": {"lr": 0.1}, "config": {"stage2": {"lam": 2.0}}}
    other = {**recipe, "slf": {"lr": 0.01}, "config": {"stage2": {"lam": 3.0}}}
    a = measured(tmp_path, plain.model_copy(update={"recipe": recipe}))
    b = measured(tmp_path, plain.model_copy(update={"recipe": other, "seed": 4, "tier": "tiny"}))
    c = measured(tmp_path, plain.model_copy(update={"recipe": other, "method": "simclr"}))
    expected = [("tier", "mini", "tiny"), ("seed", "0", "4"), ("config.stage2.lam", "2.0", "3.0")]
    assert [*compare_records(a, b).differences] == [*expected, ("slf.lr", "0.1", "0.01")]
    # Two methods have settings of their own, which is what is being compared.
    assert [*compare_records(a, c).differences] == [("method", "deacl", "simclr"), ("slf.lr", "0.1", "0.01")]


def test_budgets_that_differ_are_never_shown_as_one(tmp_path: Path) -> None:
    plain = make_record()
    a, b, none = (
        measured(tmp_path, plain.model_copy(update={"recipe": {**plain.recipe, "budget": budget}}))
        for budget in (1.56e12, 1.5601e12, None)
    )
    assert compare_records(a, b).differences == (("budget", "1560000000000.0", "1560100000000.0"),)
    assert compare_records(b, none).differences == (("budget", "1.56e12", "absent"),)


def test_an_older_recipe_differs_in_no_setting_that_had_no_name_yet(tmp_path: Path) -> None:
    old = make_record()
    sections: dict[str, Any] = {
        "slf": {"crop": "padded"},
        "config": {"stage1": {"beta2": 0.999, "views_together": True}},
    }
    sections |= {"evaluate": {"attack": "pgd", "eps": 4 / 255}, "encoder": {"constants": None}}
    new = old.model_copy(update={"recipe": {**old.recipe, **sections}, "sha256": "0" * 64})
    a, b = measured(tmp_path, old), Measured(tmp_path / "b" / "new.json", new, new.read_recipe())
    assert compare_records(a, b).differences == (("evaluate.eps", "8/255", "4/255"),)
    sections |= {"slf": {"crop": "resized"}, "evaluate": {"eps": 8 / 255, "autoattack_images": 9}}
    sections |= {"config": {"stage1": {"views_together": False}}}
    b = b._replace(record=new.model_copy(update={"recipe": {**old.recipe, **sections}}))
    assert sorted(compare_records(a, b).differences) == [
        ("config.stage1.views_together", "True", "False"),
        ("evaluate.autoattack_images", "all", "9"),
        ("slf.crop", "padded", "resized"),
    ]


def attack(*, aa: int | None = 71, **changes: Any) -> Record:
    record = make_record(method="b", aa=aa)
    ra = record.ra.model_copy(update=changes)
    return record.model_copy(update={"ra": ra, "recipe": {**record.recipe, "evaluate": {"eps": ra.eps}}})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (make_record(data="e" * 64), r"A was evaluated on cifar10 .*d{12}\), B on cifar10 .*e{12}\)"),
        (make_record(protocol="aff"), r"A was evaluated under SLF, B under AFF.*--across-protocols"),
        (attack(eps=4 / 255), r"RA was .* eps 8/255 and 4/255\. Compare the rest with --measures sa,aa"),
        (attack(eps=4 / 255, aa=None), r"RA was .* eps 8/255 and 4/255\. Compare the rest with --measures sa\.$"),
        (attack(steps=10), r"RA was .* attacks: steps 20 and 10\."),
        (attack(step_size=1 / 255), r"RA was .* attacks: step_size 2/255 and 1/255\."),
        (attack(precision="bf16"), r"RA was .* attacks: precision fp32 and bf16\."),
        (attack(restarts=5, start="clean"), r"RA was .* attacks: start uniform and clean; restarts 1 and 5\."),
        (make_record(eps=4 / 255), r"(?s)RA was .*--measures sa.*AA was .* eps 8/255 and 4/255"),
    ],
)
def test_what_would_mean_nothing_is_refused_with_the_reason(tmp_path: Path, other: Record, reason: str) -> None:
    a, b = measured(tmp_path, make_record()), measured(tmp_path, other)
    with pytest.raises(BenchError, match=reason):
        compare_records(a, b)
    with pytest.raises(BenchError, match="the same record"):
        compare_records(a, a)


def test_a_refused_part_leaves_the_rest_and_protocols_can_be_crossed(tmp_path: Path) -> None:
    a, b = measured(tmp_path, make_record()), measured(tmp_path, attack(steps=10))
    assert set(compare_records(a, b, measures=("sa", "aa")).measures) == {"sa", "aa"}
    counted = measured(tmp_path, attack(no_gradient=NoGradient(first=1, last=2)))  # no setting of the attack
    assert set(compare_records(a, counted).measures) == {"sa", "ra", "aa"}
    c = measured(tmp_path, make_record(protocol="aff"))
    assert compare_records(a, c, across_protocols=True).differences[0] == ("protocol", "slf", "aff")
    both = {"slf": {"lr": 0.1, "own": 1}, "aff": {"lr": 0.01, "steps": 5}}
    a, c = (
        one._replace(record=one.record.model_copy(update={"recipe": {**one.record.recipe, **both}})) for one in (a, c)
    )
    a = a._replace(record=a.record.model_copy(update={"sha256": "0" * 64}))
    differences = compare_records(a, c, across_protocols=True).differences  # without what one protocol has no name for
    assert differences == (("protocol", "slf", "aff"), ("protocol.lr", "0.1", "0.01"))


# Seeds


def test_the_recipe_as_it_stands_is_what_a_method_means(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *(make_record(seed=seed) for seed in (0, 1)),
        make_record(overrides={"stage2.lam": 3.0}, protocol_sha256="6" * 64),
        make_record(tier="tiny", protocol_sha256="7" * 64),
        make_record(protocol="aff"),
    )
    where = {"dataset": "cifar10"}
    assert [one.record.seed for one in find_seeds("deacl", tmp_path, tier="mini", **where).seeds] == [0, 1]
    assert find_seeds("deacl", tmp_path, protocol="aff", **where).seeds[0].record.protocol == "aff"
    with pytest.raises(BenchError, match=r"(?s)records of 2 recipes there:.*s0.*s1.*\nChoose with --tier, or comp"):
        find_seeds("deacl", tmp_path, **where)
    with pytest.raises(BenchError, match=r"unknown method 'decal'. Did you mean 'deacl'"):
        find_seeds("decal", tmp_path, **where)
    with pytest.raises(BenchError, match=r"unknown dataset 'cifar'. Did you mean 'cifar10'"):
        find_seeds("deacl", tmp_path, dataset="cifar")
    with pytest.raises(
        BenchError, match=r"'npz:own\.npz'. Allowed: cifar10. Own data are named after their file or fol"
    ):
        find_seeds("deacl", tmp_path, dataset="npz:own.npz")
    with pytest.raises(BenchError, match=r"unknown tier 'zz'. Allowed: mini, tiny. Those are all with records on cif"):
        find_seeds("deacl", tmp_path, tier="zz", **where)


def test_recipes_that_no_option_tells_apart_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    recipes = [{"stage2.lam": 3.0}, {"stage2.lam": 4.0}]
    for one, sign in zip(recipes, "67", strict=True):
        fill(tmp_path, make_record(overrides=one, protocol_sha256=sign * 64))
    told = (
        r"json \(stage2\.lam=3\.0\)\n.*json \(stage2\.lam=4\.0\)\n"
        r"Choose with settings, as in 'deacl stage2\.lam=3\.0', or compare two of these files\.$"
    )
    with pytest.raises(BenchError, match=told):
        find_seeds("deacl", tmp_path, dataset="cifar10")


def test_a_name_that_only_lacks_records_is_not_called_unknown(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^there are no records in .*\. `bench run deacl --dataset digits` makes one"):
        find_record("some", tmp_path)
    with pytest.raises(
        BenchError, match=r"^there are no records of dataset digits\. `bench run deacl --dataset digits`"
    ):
        find_seeds("deacl", tmp_path, dataset="digits")
    fill(tmp_path, make_record(dataset="digits"), make_record(dataset="digits", tier="tiny"))
    for changes, said in [
        ({"dataset": "cifar10"}, "dataset cifar10; there are of: digits."),
        ({"tier": "short"}, "tier short on digits; there are of: mini, tiny."),
        (
            {"protocol": "knn"},
            "method deacl on digits, knn, uniform. `bench run deacl --dataset digits --protocols knn`",
        ),
        (
            {"method": "local/deacl"},
            "method local/deacl on digits, slf, uniform; there are of: deacl. `bench run deacl ",
        ),
        (
            {"method": "byol"},
            "method byol on digits, slf, uniform; there are of: deacl. `bench run byol --dataset digits ",
        ),
    ]:
        with pytest.raises(BenchError, match=rf"^{re.escape(f'there are no records of {said}')}"):
            find_seeds(**{"method": "deacl", "results_dir": tmp_path, "dataset": "digits", **changes})  # type: ignore[arg-type]


def test_a_method_whose_records_were_withdrawn_is_not_said_to_have_none(tmp_path: Path) -> None:
    fill(tmp_path / LOCAL, make_record(dataset="toy"), make_record(dataset="toy", protocol="aff"))
    (slf,) = tmp_path.glob("local/toy/*-slf-*")
    correct(slf, load_record(slf), tmp_path, reason="data", note="Wrong labels.")
    said = (
        "every record of deacl on toy, slf, uniform was withdrawn or superseded:\n"
        f"  - slf on toy, seed 0: withdrawn: the data were wrong. Wrong labels.\n{NEW_RECORD}"
    )
    with pytest.raises(BenchError, match=f"^{re.escape(said)}$"):
        find_seeds("deacl", tmp_path, dataset="toy")
    with pytest.raises(BenchError, match="no records of method simclr on toy, slf"):
        find_seeds("simclr", tmp_path, dataset="toy")
    assert find_seeds("local/deacl", tmp_path, dataset="toy", protocol="aff").seeds


def test_methods_are_found_by_the_names_of_files_and_others_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, *(make_record(method=method, seed=seed) for method in ("deacl", "simclr") for seed in (0, 1)))
    own = next(tmp_path.glob("cifar10/deacl-*-s1-*.json"))
    own.rename(own.with_name("renamed.json"))
    read: list[str] = []

    def load(path: Path) -> Record:
        read.append(path.name)
        return load_record(path)

    monkeypatch.setattr("bench.record.trusted.load_record", load)
    assert [one.record.seed for one in find_seeds("deacl", tmp_path, dataset="cifar10").seeds] == [0, 1]
    assert read == ["deacl-mini-uniform-s0-slf-22222222.json", "renamed.json"]
    read.clear()
    for name in ("deacl-mini-uniform-s0-slf-22222222", "cifar10-simclr-mini-uniform-s1-11111111"):
        find_record(name, tmp_path)
    assert [name[:6] for name in read] == ["deacl-", "simclr", "simclr"]  # a run's name holds a digest of its record


# Names


def test_a_record_has_several_names(tmp_path: Path) -> None:
    fill(tmp_path, make_record(), make_record(seed=1), make_record(seed=1, protocol="aff"))
    path = tmp_path / "cifar10" / "deacl-mini-uniform-s1-slf-22222222.json"
    run = "cifar10-deacl-mini-uniform-s1-11111111"
    for name in (str(path), path.name, path.stem, f"cifar10/{path.stem}", "deacl-mini-uniform-s1-slf"):
        assert find_record(name, tmp_path).path.name == path.name
    assert find_record(run, tmp_path, protocol="slf").path == path
    assert find_record(run.rpartition("-")[0], tmp_path, protocol="slf").path == path
    assert find_record(run, tmp_path, protocol="aff").record.protocol == "aff"
    with pytest.raises(BenchError, match=r"(?s)means 2 records:.*-aff-.*-slf-.*--protocol"):
        find_record(run, tmp_path)
    with pytest.raises(BenchError, match="means 3 records"):
        find_record("deacl-mini", tmp_path)
    with pytest.raises(
        BenchError, match=r"unknown record 'deacl-mini-uniform-s2.*mean 'deacl-mini.*`bench runs` lists"
    ):
        find_record("deacl-mini-uniform-s2-slf-22222222", tmp_path)


def test_a_run_is_known_by_any_of_its_protocols_seeds_and_data(tmp_path: Path) -> None:
    run, transferred = "cifar10-deacl-mini-uniform-s1-11111111", "digits-deacl-mini-uniform-s0-11111111"
    fill(tmp_path, *(make_record(seed=1, protocol=name) for name in ALL_PROTOCOLS))
    abroad = make_record(pretrained_on="digits", protocol="knn-200")
    home = {**abroad.recipe["dataset"], "name": "digits", "sha256": "9" * 64}
    finetune = {"dataset": abroad.recipe["dataset"], "threat": abroad.recipe["threat"]}
    recipe = {**abroad.recipe, "dataset": home, "finetune": finetune}
    fill(tmp_path, abroad.model_copy(update={"recipe": recipe}))
    fill(tmp_path / "e", make_record(seed=5, encoder_seed=1, protocol="slf-1pct"))  # the seed is the protocol's alone
    for name in ALL_PROTOCOLS:
        assert find_record(run, tmp_path, protocol=name).record.protocol == name
        assert find_record(f"deacl-mini-uniform-s1-{name}", tmp_path).record.protocol == name
    assert find_record(transferred, tmp_path).record.pretrained_on == "digits"
    with pytest.raises(BenchError, match=f"the run {transferred} has no record of aff. Type --protocol knn-200"):
        find_record(transferred, tmp_path, protocol="aff")
    assert find_record(run, tmp_path / "e").record.seed == 5


# The command


def invoke(results: Path, *arguments: str) -> str:
    wide = {"COLUMNS": "120"}  # on a narrower screen each measure is a block
    done = CliRunner().invoke(app, ["compare", *arguments, "--results-dir", str(results)], env=wide)
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_the_command_says_it_in_words_and_in_json(tmp_path: Path) -> None:
    fill(tmp_path, make_record(aa=50), make_record(method="simclr", title="SimCLR", aa=40))
    names = [path.stem for path in record_files(tmp_path)]
    text = invoke(tmp_path, *names, "--images")
    (line,) = (line for line in text.splitlines() if "+10.00" in line)
    assert (line.strip("│ ").split()[0], line.strip("│ ").split()[-1]) == ("AA", "100")
    assert "they also differ in method: deacl, simclr\n" in text
    assert "AA, only A is right: 40, 41, 42, 43, 44, 45, 46, 47, 48, 49\nAA, only B is right: none\n" in text
    values = json.loads(invoke(tmp_path, *names, "--json", "--measures", "aa"))
    assert values["measures"]["aa"]["only_a"] == [*range(40, 50)]
    assert values["measures"]["aa"]["p_value"] == pytest.approx(binomtest(0, 10).pvalue)
    assert "only A is right" not in invoke(tmp_path, *names)
    wrong = CliRunner().invoke(app, ["compare", *names, "--measures", "ab", "--results-dir", str(tmp_path)])
    assert isinstance(wrong.exception, BenchError)


@pytest.mark.parametrize("name", ["{stem}", "local/{stem}", "{path}"])
def test_a_corrected_record_is_compared_with_its_correction(name: str, tmp_path: Path) -> None:
    fill(tmp_path, make_record(), make_record(method="simclr"))
    fill(tmp_path / LOCAL, make_record())
    path, other = record_files(tmp_path)
    names = (name.format(stem=path.stem, path=path), other.stem)
    assert json.loads(invoke(tmp_path, *names, "--json"))["corrections"] == {}
    correct(path, load_record(path), tmp_path, reason="data", note="Wrong labels.", superseded_by=other)
    correct(other, load_record(other), tmp_path, reason="authors", note="Asked.")
    text = invoke(tmp_path, *names)
    numbers = text.index("SA")
    for said in (
        f"A was superseded by cifar10/{other.name}: the data were wrong. Wrong labels.\n",
        "B was withdrawn: its authors asked for it. Asked.\n",
    ):
        assert text.index(said) < numbers
    assert json.loads(invoke(tmp_path, *names, "--json"))["corrections"]["A"]["note"] == "Wrong labels."


def test_what_neither_measured_is_no_empty_table(tmp_path: Path) -> None:
    fill(tmp_path, *(make_record(method=name, seed=seed, aa=None) for name in ("a", "b") for seed in (0, 1)))
    first, _, third, _ = (path.stem for path in record_files(tmp_path))
    for words in ([first, third], ["a", "b", "--dataset", "cifar10"]):
        done = CliRunner().invoke(app, ["compare", *words, "--measures", "aa", "--results-dir", str(tmp_path)])
        assert isinstance(done.exception, BenchError)
        assert str(done.exception).startswith("there is nothing to compare: AA: not measured for")
        assert str(done.exception).endswith("Type --measures sa,ra")


def test_the_command_compares_methods_over_seeds(tmp_path: Path) -> None:
    for name, aa in [("a", 60), ("b", 50)]:
        fill(tmp_path, *(make_record(method=name, title=name, seed=seed, aa=aa + seed) for seed in (0, 1)))
    text = invoke(tmp_path, "a", "b", "--dataset", "cifar10")
    (line,) = (line for line in text.splitlines() if "60.50 ± 0.71" in line)
    assert line.strip("│ ").split()[0] == "AA"
    assert "\nA: n = 2, seeds 0, 1\n" in text
    assert json.loads(invoke(tmp_path, "a", "b", "--dataset", "cifar10", "--json"))["seeds_b"] == [0, 1]


def test_the_command_tests_nothing_where_seeds_do_not_differ(tmp_path: Path) -> None:
    for name, aa, seeds in [("a", 67, 2), ("b", 66, 3)]:
        fill(tmp_path, *(make_record(method=name, title=name, seed=seed, aa=aa) for seed in range(seeds)))
    text = invoke(tmp_path, "a", "b", "--dataset", "cifar10")
    (line,) = (line for line in text.splitlines() if "67.00 ± 0.00" in line)
    assert "+1.00" in line
    assert line.count("–") == 2
    assert "SA, RA, AA: no spread between seeds: no test." in text
    found = json.loads(invoke(tmp_path, "a", "b", "--dataset", "cifar10", "--json"))["measures"]["aa"]
    assert (found["p_value"], found["interval"]) == (None, None)


def test_a_comparison_of_ten_thousand_images_is_quick(tmp_path: Path) -> None:
    start = time.process_time()
    a, b = (measured(tmp_path, big_record(seed)) for seed in (0, 1))
    compare_records(a, b)
    assert time.process_time() - start < 1


def big_record(seed: int) -> Record:
    record = make_record(seed=seed, aa=None)
    outcomes = Outcome.pack(coin(10_000, seed), test_images=10_000)
    facts = {**record.recipe["dataset"], "test_images": 10_000}
    changes = {"sa": outcomes, "ra": record.ra.model_copy(update={"outcome": outcomes})}
    return record.model_copy(update={**changes, "recipe": {**record.recipe, "dataset": facts}})
