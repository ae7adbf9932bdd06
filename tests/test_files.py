"""Files that are whole or absent: a write that fails leaves what was there, damage is noticed."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from bench import files
from bench.errors import BenchError
from bench.files import (
    check_output,
    make_writable,
    read_json,
    remove_unfinished,
    set_aside,
    write_bytes,
    write_json,
    write_output,
)
from bench.folders import check_new, new_folder, replaced_folder
from bench.zoo import digest, load_tensors, save_tensors

TENSORS = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "flag": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


def refuse(code: int) -> Callable[..., Any]:
    def raise_it(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return raise_it


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_written_values_are_read_back_and_folders_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": [1, 2.5, None, "ä"]})
    write_json(path, {"x": [0.1 + 0.2]})
    assert read_json(path) == {"x": [0.1 + 0.2]}
    assert listing(tmp_path) == ["a", "a/b.json"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "state.json"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, call, refuse(code))
    with pytest.raises(BenchError, match=r"state\.json") as raised:
        write_bytes(path, b"new")
    assert os.strerror(code) in str(raised.value)
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["state.json"]


def test_a_disk_that_is_full_while_the_bytes_are_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "state.json"
    write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(BenchError, match="cannot write"):
            write_bytes(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["state.json"]


def test_a_folder_that_cannot_be_synchronised_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", refuse(errno.EINVAL))
    files._sync_folder(tmp_path)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BenchError, match=r"cannot write .*file.* is not a folder\. Move it away; then run"):
        write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(BenchError, match=r"cannot write .*file.* is not a folder\. Move it away; then run"):
        make_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_make_writable_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    make_writable(tmp_path / "a" / "b")
    assert listing(tmp_path) == ["a", "a/b"]


def test_values_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert listing(tmp_path) == []


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slf").mkdir()
    kept = [".lock", "run.json", "slf/.hidden", "slf/evaluation.json"]
    for name in kept:
        (tmp_path / name).touch()
    # Killed between writing the temporary file and renaming it: the program's last act is to fail there.
    monkeypatch.setattr(os, "replace", refuse(errno.EIO))
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
    for name in ("run.json", "slf/evaluation.json"):
        with pytest.raises(BenchError):
            write_bytes(tmp_path / name, b"half")
    monkeypatch.undo()
    assert len(listing(tmp_path)) == len(kept) + 1 + 2
    remove_unfinished(tmp_path)
    assert listing(tmp_path) == sorted([*kept, "slf"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_unreadable_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"cannot read .*x\.json"):
        read_json(path)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(BenchError, match=r"x\.json: it is a pipe or a device, not a file"):
        read_json(tmp_path / "x.json")


def test_a_pipe_or_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(BenchError, match=r"x\.json: it is a pipe or a device, not a file"):
        write_bytes(tmp_path / "x.json", b"x")
    assert stat.S_ISFIFO((tmp_path / "x.json").stat().st_mode)


def test_an_output_goes_to_where_it_was_asked_for(tmp_path: Path) -> None:
    pipe, target, link = (tmp_path / name for name in ("pipe", "shared/real.json", "link.json"))
    screen, terminal = os.openpty()  # a device that no mistake can replace
    write_output(Path(os.ttyname(terminal)), b"shown")
    assert os.read(screen, 5) == b"shown"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        write_output(pipe, b"through")
        assert reader.read() == b"through"
    target.parent.mkdir()
    link.symlink_to(target)
    write_output(link, b"followed")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"followed")
    with (tmp_path / "opened").open("wb") as opened:
        opened.write(b"first, ")
        opened.flush()
        write_output(Path(f"/proc/self/fd/{opened.fileno()}"), b"then")
    assert (tmp_path / "opened").read_bytes() == b"first, then"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="it is a folder"):
        check_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match=r"it is not a folder\. Move it away"):
        check_output(tmp_path / "file" / "x.json")
    for fine in (Path("/dev/stdout"), tmp_path / "new" / "x.json", tmp_path / "file"):
        check_output(fine)
    assert listing(tmp_path) == ["file"]


def test_what_is_set_aside_never_overwrites_what_was_before(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for content, name in (("a", "w.safetensors.damaged"), ("b", "w.safetensors.damaged.2")):
        path.write_text(content)
        assert set_aside(path) == tmp_path / name
        assert not path.exists()
    assert [(tmp_path / f"w.safetensors.damaged{end}").read_text() for end in ("", ".2")] == ["a", "b"]


def test_tensors_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tied = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    tensors = {**TENSORS, "view": tied[::2, 1], "tied": tied, "twin": tied, "last": tied.T}
    save_tensors(path, tensors, {"epoch": 3, "history": [0.1 + 0.2]})
    found = load_tensors(path)
    assert found.metadata == {"epoch": 3, "history": [0.1 + 0.2]}
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, TENSORS, {"epoch": 3, "owner": "me"})
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        path.write_bytes(whole[:place] + bytes([byte ^ 1 << place % 8]) + whole[place + 1 :])
        with suppress(BenchError):
            # Taken is only a change that means nothing, such as another kind of blank.
            assert load_tensors(path).metadata == {"epoch": 3, "owner": "me"}
            assert digest(load_tensors(path).tensors) == digest(TENSORS)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BenchError, match=r"w\.safetensors"):
            load_tensors(path)


def test_another_programs_tensors_are_not_taken_for_ours(tmp_path: Path) -> None:
    from safetensors.torch import save

    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"x": torch.zeros(2)}, metadata={"format": "pt"}))
    with pytest.raises(BenchError, match="not written by this program"):
        load_tensors(path)


def test_checksum_covers_names_types_shapes_and_metadata(tmp_path: Path) -> None:
    x = torch.arange(4, dtype=torch.int32)
    variants = [
        digest({"x": x}),
        digest({"y": x}),
        digest({"x": x.reshape(2, 2)}),
        digest({"x": x.view(torch.float32)}),
        digest({"x": x + 1}),
        digest({"x": x}, json.dumps({"epoch": 1})),
    ]
    assert len(set(variants)) == len(variants)


# Folders as a whole


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_folder_is_replaced_as_a_whole_and_lists_what_is_in_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replaced_folder(tmp_path / "deep" / "out", "a site") as folder:
            (folder / text).write_text(text)
            if text == "new":
                assert contents(tmp_path / "deep" / "out") == {"old": "old", "CONTENTS": "old\n"}
    assert contents(tmp_path / "deep" / "out") == {"new": "new", "CONTENTS": "new\n"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_two_calls_for_one_folder_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("bench.folders.warn", said.append)

    def second() -> None:
        with replaced_folder(tmp_path / "out", "a site") as folder:
            (folder / "index").write_text("second")

    other = Thread(target=second)
    with replaced_folder(tmp_path / "out", "a site") as folder:
        (folder / "index").write_text("first")
        other.start()
        other.join(0.1)
        (folder / "page").write_text("first")
    other.join()
    assert said == [f"waiting for another process, which has locked {tmp_path}"]
    assert contents(tmp_path / "out") == {"index": "second", "CONTENTS": "index\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_of_a_new_folder_is_deleted_and_what_another_writes_is_not(tmp_path: Path) -> None:
    (left := tmp_path / ".out.a1.unfinished" / "out").mkdir(parents=True)
    (left / "weights").touch()
    with new_folder(tmp_path / "out") as other:
        assert not left.parent.exists()
        with new_folder(tmp_path / "out") as folder:
            assert other.is_dir()
            (folder / "page").write_text("whole")
        with pytest.raises(BenchError, match="out is not empty, and stays as it is"):
            check_new(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_that_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="out is not empty, and stays as it is"), new_folder(tmp_path / "out"):
        write_json(tmp_path / "out" / "theirs", 1)
    assert listing(tmp_path) == ["out", "out/theirs"]


def test_a_failure_leaves_the_folder_as_it_was_and_nothing_else(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "out", "a site") as folder:
        (folder / "page").write_text("good")
    with pytest.raises(UnicodeEncodeError), replaced_folder(tmp_path / "out", "a site") as folder:
        (folder / "page").write_text("half of what \ud800 stops", "utf-8")
    assert contents(tmp_path / "out") == {"page": "good", "CONTENTS": "page\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("left", [".out.unfinished", ".out.unfinished.old"])
def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, left: str) -> None:
    (tmp_path / left).mkdir()
    (tmp_path / left / "page").write_text("half")
    with replaced_folder(tmp_path / "out", "a site") as folder:
        (folder / "page").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_files_of_others_is_refused(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "out", "a site") as folder:
        (folder / "page").write_text("ours")
    (tmp_path / "out" / "mine").write_text("yours")
    with pytest.raises(BenchError, match=r"out holds mine, which is not from a site made here"):
        replaced_folder(tmp_path / "out", "a site").__enter__()
    assert (tmp_path / "out" / "mine").read_text() == "yours"
    (tmp_path / "file").write_text("yours")
    with pytest.raises(BenchError, match=r"file is a file"):
        replaced_folder(tmp_path / "file", "a site").__enter__()
    (tmp_path / "empty").mkdir()
    with replaced_folder(tmp_path / "empty", "a site"):
        pass
