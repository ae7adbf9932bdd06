"""What a record says is text wherever it is shown, and what is served or replaced is the folder alone."""

import csv
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from board_records import fill, make_record

from bench import folders
from bench.errors import BenchError
from bench.files import write_bytes
from bench.folders import replaced_folder
from bench.leaderboard import render_csv
from bench.record import Environment
from bench.report.site import serving
from bench.results import build_leaderboard


@pytest.mark.parametrize("title", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1"])
def test_no_text_is_a_formula(tmp_path: Path, title: str) -> None:
    text = render_csv(build_leaderboard(fill(tmp_path, make_record(title=title))))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert lines
    for line in lines:
        assert line["label"] == f"'{title} 2022"
        assert float(line["accuracy"]) > 0, "numbers stay numbers"


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "index.html").write_text("secret")
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "page.html").write_text("page")
    (site / "link.html").symlink_to(tmp_path / "secret" / "index.html")
    (site / "folder").symlink_to(tmp_path / "secret")
    (site / "sub" / "index.html").symlink_to(tmp_path / "secret" / "index.html")
    (site / "own.html").symlink_to(site / "page.html")
    import threading

    with serving(site, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for page in ("page.html", "own.html"):
                assert urlopen(f"http://127.0.0.1:{server.server_port}/{page}").read() == b"page"
            for page in ("link.html", "folder/index.html", "folder/", "sub/", "..%2fsecret/index.html"):
                with pytest.raises(HTTPError, match="404"):
                    urlopen(f"http://127.0.0.1:{server.server_port}/{page}")
        finally:
            server.shutdown()


# Folders that take another's place


class Killed(BaseException):
    """Stands for SIGKILL: nobody handles it."""


def make(path: Path, text: str) -> None:
    with replaced_folder(path, "a site") as folder:
        (folder / "page").write_text(text)


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_kill_at_any_rename_leaves_a_site_or_the_next_call_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    path = tmp_path / "out"
    make(path, "old")
    if not exchanged:
        monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)
    rename, left = Path.rename, iter([None])

    def once(self: Path, target: Path) -> Path:
        if next(left, "killed") == "killed":
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    monkeypatch.setattr(folders, "_recover", lambda *args: None)  # a killed process tidies nothing
    if exchanged:
        make(path, "new")
        assert (path / "page").read_text() == "new"
        return
    (tmp_path / ".out.unfinished").mkdir(exist_ok=True)
    (tmp_path / ".out.unfinished").rmdir()
    with pytest.raises(Killed):
        make(path, "new")
    assert not path.exists(), "this is where a reader finds nothing"
    monkeypatch.undo()
    with pytest.raises(RuntimeError), replaced_folder(path, "a site"):
        raise RuntimeError("the next call fails too")
    assert (path / "page").read_text() == "old"


def test_a_disk_that_becomes_read_only_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    refused: Callable[..., None] = refuse
    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(BenchError, match=r"cannot write .*state\.json: Read-only file system"):
        write_bytes(tmp_path / "state.json", b"x")


def test_a_commit_or_digest_of_another_form_is_told_the_form() -> None:
    facts = {"bench": "0.1.0", "packages": {}, "python": "3.11", "platform": "any", "device": "cpu", "threads": 1}
    with pytest.raises(BenchError, match=r"commit: must have the form .*\[0-9a-f\]\{40\}"):
        Environment.parse({**facts, "commit": "main; curl x | sh #"}, "environment")
