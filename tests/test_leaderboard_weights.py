"""The page of weights: every published encoder with its file, which `bench verify` then takes."""

import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from toy_runs import carry_out, toy_data, toy_request

from bench.errors import BenchError
from bench.leaderboard import write_weights_page
from bench.record import correct, load_record, record_files


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A run of SimCLR on toy data, whose records are published."""
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, protocols=("slf", "knn"))
    carry_out(request, tmp_path / "results")
    return tmp_path


def test_the_page_names_size_and_digest_of_each_file_and_its_records(published: Path) -> None:
    page, (run,) = published / "results" / "WEIGHTS.md", (published / "runs").glob("*/encoder.safetensors")
    assert write_weights_page(page, published / "runs", published / "results") == (1, 0, [])
    digest = sha256(run.read_bytes()).hexdigest()
    start = f"| {run.parent.name}-{digest[:8]}.safetensors"
    (row,) = [line for line in page.read_text().splitlines() if line.startswith(start)]
    assert f"| {run.stat().st_size:,} | `{digest}` |" in row
    links = re.findall(r"\[(\w+)[^]]*\]\(([^)]+)\)", row)
    assert [name for name, _ in links] == ["knn", "slf"]
    assert all((page.parent / target).is_file() for _, target in links)
    assert write_weights_page(page, published / "runs", published / "results") == (1, 0, [])  # over the page of before


def test_lines_of_encoders_that_are_not_here_stay_while_a_record_of_theirs_counts(published: Path) -> None:
    results = published / "results"
    page, (first, second) = results / "my page.md", record_files(results)
    write_weights_page(page, published / "runs", results)
    text = page.read_text()
    shutil.rmtree(published / "runs")
    assert write_weights_page(page, published / "runs", results) == (0, 1, [])
    assert page.read_text() == text
    correct(first, load_record(first), results, reason="authors", note="asked")
    assert write_weights_page(page, published / "runs", results) == (0, 1, [])
    assert first.name not in page.read_text()
    assert second.name in page.read_text()
    other = results / "other.md"
    assert write_weights_page(other, published / "runs", results) == (0, 0, [second.name])
    correct(second, load_record(second), results, reason="authors", note="asked")
    assert write_weights_page(page, published / "runs", results) == (0, 0, [])
    assert page.read_text() == other.read_text()
    page.write_text("mine")
    with pytest.raises(BenchError, match="is not a page of weights, so it is kept"):
        write_weights_page(page, published / "runs", results)
    assert page.read_text() == "mine"


def test_a_folder_or_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "page.md").write_bytes(b"\xff")
    for name, message in (("results", "it is a folder"), ("page.md", "cannot read")):
        with pytest.raises(BenchError, match=message):
            write_weights_page(tmp_path / name, tmp_path / "runs", tmp_path / "results")
