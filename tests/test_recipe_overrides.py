"""``--set``: how values are read, that they reach every setting and no other, and what is refused."""

import pytest
from cifar_recipes import make_facts, recipe_of, values_of

from bench.errors import BenchError
from bench.method import METHODS
from bench.recipe import build_recipe, load_tier, parse_overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1e-5", 1e-5),
        ("5", 5),
        ("-3", -3),
        ("true", True),
        ("false", False),
        ('"8 of 255"', "8 of 255"),
        ("[1, 2]", [1, 2]),
        ("[0.08, 1.0]", [0.08, 1.0]),
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("-1/4", -0.25),
        ("1e1/4", 2.5),
        ("scratch", "scratch"),
        ("deacl-2024", "deacl-2024"),
        ("a=b", "a=b"),
        ("none", "none"),
        ("null", None),
        ("", ""),
    ],
)
def test_values_are_toml_fractions_or_bare_words(text: str, value: object) -> None:
    parsed = parse_overrides([f"stage2.key={text}"])
    assert parsed == {"stage2.key": value}
    assert type(parsed["stage2.key"]) is type(value)


@pytest.mark.parametrize("item", ["stage2.lr", "=1", "stage2.=1", ".lr=1", "a b=1", "a..b=1", "--set=1"])
def test_what_is_not_key_equals_value_is_refused(item: str) -> None:
    with pytest.raises(BenchError, match=r"is not of the form key=value\. Type, for example, --set stage2\.epochs=5"):
        parse_overrides([item])


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BenchError, match="--set: a number has thousands of digits"):
        parse_overrides([f"stage2.epochs={'1' * 5000}"])


@pytest.mark.parametrize("value", ["1/0", "1e/2", "./3", "--1/2"])
def test_a_fraction_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(BenchError, match=f"'{value}' is not a number; write, for example, 8/255"):
        parse_overrides([f"stage2.lr={value}"])


@pytest.mark.parametrize("value", ["8//255", "1/2/3", "eight/255"])
def test_what_only_looks_like_a_fraction_never_becomes_a_number(value: str) -> None:
    with pytest.raises(BenchError, match=rf"stage2\.lr: must be a number \(given: '{value}'\)"):
        recipe_of(f"stage2.lr={value}")


@pytest.mark.parametrize("item", ["stage2.epochs=true", "slf.lr=true", "evaluate.pgd_steps=false"])
def test_true_and_false_are_no_numbers(item: str) -> None:
    with pytest.raises(BenchError, match=f"--set {item}: must be a number, such as "):
        recipe_of(item)


def test_a_key_given_twice_has_one_value() -> None:
    assert parse_overrides(["stage2.lr=1", " stage2.lr =1.0"]) == {"stage2.lr": 1}
    with pytest.raises(BenchError, match=r"--set stage2\.lr is given twice, as 1 and as 2"):
        parse_overrides(["stage2.lr=1", " stage2.lr =2"])


def test_overrides_reach_every_depth_and_nothing_else() -> None:
    sets = {
        **{
            "student_init": "scratch",
            "stage2.lr": 0.25,
            "stage1.view.blur_prob": 0,
            "stage1.view.crop_scale": [0.2, 1],
        },
        **{"encoder.width": 32, "threat.eps": 4 / 255, "slf.lr": 0.01, "evaluate.pgd_steps": 50},
        "evaluate.autoattack_images": 300,
    }
    cls = METHODS.get("deacl")
    recipe = build_recipe(
        method="deacl",
        config_type=cls.config_type,
        native_encoder=cls.native_encoder,
        dataset=make_facts(),
        tier=load_tier("mini"),
        overrides=sets,
    )
    plain, changed = values_of(recipe_of(tier="mini")), values_of(recipe)
    written = {key: tuple(value) if isinstance(value, list) else value for key, value in sets.items()}
    shared = ("encoder.", "threat.", "slf.", "evaluate.")
    expected = {key if key.startswith(shared) else f"config.{key}": value for key, value in written.items()}
    expected |= {f"overrides.{key}": value for key, value in sets.items()}
    assert {key: value for key, value in changed.items() if key not in plain or plain[key] != value} == expected
    assert plain.keys() <= changed.keys()
    assert recipe.overrides == sets


def test_the_users_word_beats_tier_data_and_native_settings() -> None:
    facts = make_facts(mirror=False)
    sets = ["stage1.epochs=7", "stage2.view.flip_prob=0.5", "slf.batch_size=99", "encoder.normalisation=none"]
    recipe = recipe_of(*sets, tier="tiny", fidelity="native", facts=facts)
    values = values_of(recipe)
    assert [values[f"config.{item.split('=')[0]}"] for item in sets[:2]] == [7, 0.5]
    assert (recipe.protocol("slf").batch_size, recipe.encoder.normalisation) == (99, "none")


def test_an_eps_may_be_a_fraction_in_quotes_too() -> None:
    assert recipe_of('threat.eps="4/255"').threat.eps == recipe_of("threat.eps=4/255").threat.eps == 4 / 255


def test_a_section_cannot_be_set() -> None:
    for section in ("stage2", "stage1.view", "encoder", "evaluate"):
        with pytest.raises(BenchError, match=f"--set {section}: that is a section; set one of its keys"):
            recipe_of(f"{section}=5")


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"unknown setting 'stage2\.epoch'\. Did you mean .*'stage2\.epochs'"):
        recipe_of("stage2.epoch=5")
    for key in ("dataset.eps", "method", "config.stage2.lr", "stage2.lr.x", "encoder.optionsx"):
        with pytest.raises(BenchError, match=f"unknown setting '{key}'"):
            recipe_of(f"{key}=1")
    with pytest.raises(BenchError, match="--set tier: that is an option of its own: --tier short"):
        recipe_of("tier=short")


def test_all_unknown_keys_are_named_together() -> None:
    with pytest.raises(BenchError) as caught:
        recipe_of("stage2.epoch=5", "stage1=2", "encoder.wdth=3", "stage2.lr=-1")
    for fault in ("'stage2.epoch'", "--set stage1: that is a section", "'encoder.wdth'"):
        assert fault in str(caught.value)


def test_all_bad_values_are_named_together_with_what_was_given() -> None:
    sets = ["stage2.lr=-1", "stage1.view.blur_prob=2", "encoder.width=0", "student_init=random", "slf.epochs=many"]
    with pytest.raises(BenchError, match=r"recipe of tier paper: 5 faults") as caught:
        recipe_of(*sets)
    for item in sets:
        key, given = item.split("=")
        assert f"{key}: " in str(caught.value)
        assert f"(given: {given!r})" in str(caught.value) or f"(given: {given})" in str(caught.value)


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ("threat.eps=8", "write 8/255"),
        ("threat.eps=-0.1", "eps"),
        ('threat.eps="eight"', "write 8/255 or 0.031"),
        ("stage2.lr=nan", "stage2.lr: must be a finite number"),
        ("stage2.lr=inf", "stage2.lr: must be a finite number"),
        ("stage2.warmup_epochs=101", "warmup_epochs 101 exceed epochs 100"),
        ("stage1.batch_size=1", "stage1.batch_size: must be at least 2"),
        ("stage2.epochs=2.5", "stage2.epochs: must be a whole number"),
        ("stage1.view.crop_scale=[1.0, 0.1]", "the lower end comes first"),
        ("slf.preset=advlc", "slf.preset: unknown preset 'advlc'. Did you mean 'advcl'?"),
        ("slf.preset=[1]", "slf.preset"),
        ("evaluate.pgd_start=random", "evaluate.pgd_start"),
    ],
)
def test_a_value_out_of_range_is_refused(item: str, complaint: str) -> None:
    with pytest.raises(BenchError) as caught:
        recipe_of(item)
    assert complaint in str(caught.value)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(BenchError, match="nesterov needs momentum above 0"):
        recipe_of("stage2.nesterov=true", "stage2.momentum=0")


@pytest.mark.parametrize(
    ("method", "key"),
    [
        (method, f"{stage}.{field}")
        for method in METHODS
        for stage, plan in METHODS.get(method).config_type().plans().items()
        for field, value in plan
        if isinstance(value, tuple) and {*map(type, value)} <= {int}
    ],
)
def test_lists_of_numbers_have_bounds(method: str, key: str) -> None:
    """Widths are 1 or more, epochs of decay 0 or more."""
    low = -1 if key.endswith("decay_epochs") else 0
    with pytest.raises(BenchError, match=rf"{key}.*must be"):
        recipe_of(f"{key}=[8, {low}]", method=method)
