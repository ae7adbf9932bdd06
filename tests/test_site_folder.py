"""The site on disk and on the loopback address: replaced as a whole, reproducible, quick, and gone with Ctrl-C."""

import re
import shutil
import signal
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from programs import Program
from site_records import add, fill, template

from bench.errors import BenchError
from bench.files import json_bytes
from bench.record import load_record
from bench.report.site import serving, write_site

# The folder


def test_the_same_records_give_the_same_folder_to_the_byte(tmp_path: Path) -> None:
    results = fill(tmp_path / "results")
    folder, again = (write_site(results, tmp_path / name).folder for name in ("here", "elsewhere"))
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}


def test_a_site_is_replaced_as_a_whole(tmp_path: Path) -> None:
    first = add(tmp_path / "results", template())
    folder = write_site(tmp_path / "results", tmp_path / "out").folder
    add(tmp_path / "results", template(), seed=1)
    first.unlink()
    write_site(tmp_path / "results", tmp_path / "out")
    assert [path.stem.split("-")[3] for path in (folder / "records").rglob("*.html")] == ["s1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "results"]


def test_a_folder_that_is_not_a_site_stays_as_it_is(tmp_path: Path) -> None:
    add(tmp_path / "results", template())
    with pytest.raises(BenchError, match=r"results holds digits/.*so it stays. Choose another --output"):
        write_site(tmp_path / "results", tmp_path / "results")
    out = write_site(tmp_path / "results", tmp_path / "out").folder
    (out / "CNAME").write_text("my.domain")
    before = (out / "index.html").stat().st_mtime_ns
    with pytest.raises(BenchError, match="out holds CNAME"):
        write_site(tmp_path / "results", out)
    assert (out / "index.html").stat().st_mtime_ns == before


def test_no_results_folder_is_an_error_and_leaves_no_site(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no results folder"):
        write_site(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_records_the_site_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    folder = write_site(tmp_path / "results", tmp_path / "out").folder
    assert "bench run deacl --dataset digits" in (folder / "index.html").read_text()


# The command


def test_serving_answers_on_the_loopback_address_until_interrupted(tmp_path: Path) -> None:
    add(tmp_path / "results", template())
    program = Program(tmp_path, "site", "--serve", "--port", "0")
    program.wait_for(lambda: program.output().count("\n") == 2)
    lines = program.output().splitlines(keepends=True)
    assert lines[0].startswith("site/index.html written (records: 1, methods: ")
    address = re.findall(r"http://127\.0\.0\.1:\d+/", lines[1])[0]
    assert b"<h1>" in urlopen(f"{address}index.html").read()
    time.sleep(0.1)
    assert program.end(signal.SIGINT) == (0, f"{''.join(lines)}stopped\n", "")


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with (
            pytest.raises(BenchError, match=rf"cannot listen on 127.0.0.1:{server.server_port}.*another --port"),
            serving(tmp_path, server.server_port),
        ):
            pass


def test_a_hundred_records_take_seconds(tmp_path: Path) -> None:
    # perf/board.py measures ten thousand; a quadratic step would show here already.
    path = add(tmp_path / "results", template())
    record = load_record(path)
    for i in range(100):
        own = {"seed": i % 5, "protocol_sha256": f"{i // 5:064}", "classifier_sha256": f"{i:064}"}
        seed = record.model_copy(update=own).sealed()
        path.with_name(f"{i}.json").write_bytes(json_bytes(seed.content()))
    write_site(tmp_path / "results", tmp_path / "warm")
    shutil.rmtree(tmp_path / "warm")
    start = time.process_time()
    assert write_site(tmp_path / "results", tmp_path / "out").records == 101
    assert time.process_time() - start < 5
