"""Tables on every width of screen: no name and no number is cut."""

import io

import pytest
from rich.console import Console

from bench.cli._tables import Column, DataTable, digits, show

NAME = "digits-deacl-tiny-uniform-s0-abaade99"
WIDTHS = (40, 80, 100, 200)


def printed(table: DataTable, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as capture:
        show(table, console=console)
    return capture.get().splitlines()


def example() -> DataTable:
    table = DataTable(
        Column("name"),
        Column("passes", drop=2),
        Column("seconds", number=True),
        Column("empty"),
        Column("words", prose=True),
        Column("link", drop=1),
        title="What a table is called, in more words than a narrow screen has room for on one line",
        caption=f"in runs/{NAME}",
    )
    table.add(
        NAME, "2 fb + 1 f", 12345.678, None, "some words that may stand on several lines", "https://a.b/" + "x" * 30
    )
    table.add("[b]acl", "14 fb", 1.5, "", "a\x1b[31mred", "")
    return table


@pytest.mark.parametrize("width", WIDTHS)
def test_names_and_numbers_are_whole(width: int) -> None:
    lines = printed(example(), width)
    text = "\n".join(lines)
    assert "…" not in text
    for whole in (NAME, f"runs/{NAME}", "12345.678", "[b]acl", "1.5", "a\\x1b[31mred", "several"):
        assert any(whole in line for line in lines)
    assert "empty" not in text


def test_what_a_row_loses_first() -> None:
    text = "\n".join(printed(example(), 100))
    assert "https" not in text
    assert "2 fb + 1 f" in text
    assert "no room for: link. A wider screen, or --json, shows all." in text
    text = "\n".join(printed(example(), 86))
    assert "2 fb + 1 f" not in text
    assert "no room for: passes; link." in text


def test_a_narrow_screen_gets_a_block_a_row() -> None:
    lines = printed(example(), 40)
    start = lines.index(NAME)
    assert lines[start + 1 : start + 4] == [
        "  passes   2 fb + 1 f",
        "  seconds  12345.678",
        "  words    some words that may stand on",
    ]
    assert lines[start + 4] == "           several lines"
    assert "[b]acl" in lines


@pytest.mark.parametrize(("methods", "borders"), [(1, True), (2, True), (5, False)])
def test_long_headings_are_wrapped_and_the_numbers_below_them_are_not(methods: int, borders: bool) -> None:
    name = "SimCLR 2020 (encoder.width=4, slf.epochs=2, stage1.batch_size=16), seed 0"
    table = DataTable(Column("eps", number=True), *[Column(name, number=True, prose=True)] * methods)
    table.add("8", *["9.1 [3.6, 21.2]"] * methods)
    lines = printed(table, 80)
    assert max(map(len, lines)) <= 80
    assert sum(line.count("9.1 [3.6, 21.2]") for line in lines) == methods
    assert any("│" in line for line in lines) == borders


def test_every_line_of_a_table_fits() -> None:
    for width in range(60, 200):
        lines = printed(example(), width)
        assert max(map(len, lines)) <= max(width, len(NAME) + 8)


def test_what_is_repeated_is_said_once_but_not_in_blocks() -> None:
    table = DataTable(Column("method", once=True), Column("seeds", once=True), "stage")
    for row in (("DeACL", 1, "ssl"), ("DeACL", 1, "pseudo_at"), ("ACL", 1, "pretrain")):
        table.add(*row)
    rows = [line.replace(" ", "") for line in printed(table, 80) if "│" in line]
    assert rows == ["│DeACL│1│ssl│", "│││pseudo_at│", "│ACL│1│pretrain│"]
    assert printed(table, 20).count("DeACL") == 2


def test_nobody_looks_at_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    show(example(), console=Console(file=file))
    assert "no room" not in file.getvalue()
    assert any(NAME in line and "https" in line for line in file.getvalue().splitlines())


def test_a_number_has_three_digits_and_no_exponent() -> None:
    written = {0.1234: "0.123", 9.6: "9.6", 960: "960", 1223: "1,220", 1234567: "1,230,000"}
    assert {value: digits(value) for value in written} == written


@pytest.mark.parametrize(("width", "shown"), [(200, True), (86, False), (40, True)])
def test_the_note_of_a_column_stands_below_where_the_column_is_shown(width: int, shown: bool) -> None:
    table = DataTable("name", Column("time", drop=1, note="(a) a CPU"), caption="percent")
    table.add("x" * 80, "0:12 (a)")
    lines = printed(table, width)
    assert ("(a) a CPU" in lines) == shown
    assert lines[-1] == "percent"
