"""Data that are not what they seem: converted as documented or refused, and always counted."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from own_data import decoded, good, numbers, save
from PIL import Image
from toy_runs import carry_out, toy_data, toy_request

from bench.data import Dataset, load_dataset
from bench.errors import BenchError
from bench.recipe import parse_overrides
from bench.recipe.tiers import load_tier
from bench.record import load_record


def rgb(seed: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.fromarray(numbers(size[1], size[0], 3, seed=seed))


def png(path: Path, *, width: int, height: int, bits: int, colour: int, channels: int) -> str:
    """Write a PNG of zeros by hand: Pillow writes no 16-bit colour, and a bomb must not be made in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(1 + width * channels * bits // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve sound images in a folder: 4 a class to train on, 2 a class to test on."""
    seed = 0
    for split, count in (("train", 4), ("test", 2)):
        for name in ("ant", "bee"):
            folder = tmp_path / "pics" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                rgb(seed := seed + 1).save(folder / f"{i}.png")
    return tmp_path / "pics"


def load(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}", root.parent / "data")


# Image files


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_and_counted(colour: int, channels: int, tmp_path: Path) -> None:
    rgb().save(tmp_path / "0.png")
    files = [png(tmp_path / f"{i}.png", width=8, height=8, bits=16, colour=colour, channels=channels) for i in (1, 2)]
    with pytest.raises(BenchError, match=r"1\.png has more than 8 bits a channel.*This applies to 2 of 3 images"):
        decoded([str(tmp_path / "0.png"), *files])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright, exif = np.zeros((16, 16, 3), np.uint8), Image.Exif()
    upright[:4, :8] = 255  # no two orientations look alike
    exif[0x0112] = orientation
    # What the camera stored, so that the tag turns it upright.
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = Image.fromarray(upright)
    stored = stored if turns is None else stored.transpose(Image.Transpose(turns))
    stored.save(tmp_path / "0.png", exif=exif)
    pixels, converted = decoded([str(tmp_path / "0.png")])
    assert np.array_equal(pixels[0], upright)
    assert converted == ({} if orientation == 1 else {"turned upright, as EXIF says": 1})


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([numbers(8, 8, 3), np.zeros((8, 8), np.uint8)])
    rgba[0, 0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "0.png")
    Image.fromarray(rgba).convert("LA").save(tmp_path / "1.png")
    palette = rgb().quantize(4)
    palette.info["transparency"] = 0
    palette.save(tmp_path / "2.png", transparency=0)
    pixels, converted = decoded([str(tmp_path / f"{i}.png") for i in range(3)])
    assert pixels[0, 0, 0].tolist() == [10, 20, 30]
    assert (pixels[0].reshape(-1, 3)[1:] == 255).all(), "the colour under alpha 0 shows through"
    assert (pixels[1].reshape(-1, 3)[1:] == 255).all()
    assert (pixels[2][np.asarray(palette) == 0] == 255).all()
    assert converted == {"grey": 1, "palette": 1, "transparency laid on white": 3}


def test_cmyk_and_frames_are_counted(tmp_path: Path) -> None:
    rgb().convert("CMYK").save(tmp_path / "0.jpg")
    rgb().save(tmp_path / "1.png", save_all=True, append_images=[rgb(1)])
    pixels, converted = decoded([str(tmp_path / "0.jpg"), str(tmp_path / "1.png")])
    assert np.array_equal(pixels[1], numbers(8, 8, 3))
    assert converted == {"CMYK": 1, "first of several frames": 1}


def test_every_kind_of_fault_is_named_with_its_count(root: Path) -> None:
    for i in (1, 2):
        rgb(size=(8, 9)).save(root / "train" / "bee" / f"{i}.png")
    (root / "test" / "ant" / "0.png").write_text("no image")
    with pytest.raises(BenchError) as caught:
        load(root)
    sizes, broken = str(caught.value).splitlines()
    assert "is 8x9 pixels" in sizes
    assert sizes.endswith("This applies to 2 of 12 images.")
    assert "cannot be decoded" in broken


def test_a_picture_that_fills_the_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = png(tmp_path / "0.png", width=13_000, height=13_000, bits=1, colour=0, channels=1)
    with pytest.raises(BenchError, match=r"would become 507 MB"):
        decoded([bomb])


# Folders


def test_what_was_skipped_and_converted_is_counted_also_from_the_cache(root: Path) -> None:
    rgb().save(root / "train" / "ant" / "x.tif")
    (root / "train" / "notes.TXT").touch()
    (root / "test" / "bee" / "more").mkdir()
    (root / "test" / "bee" / ".DS_Store").touch()
    rgb(3).convert("L").save(root / "train" / "bee" / "0.png")
    for _ in range(2):
        inventory = load(root).inventory
        assert inventory is not None
        assert inventory.skipped == {".tif": 1, ".txt": 1, "folder": 1}
        assert inventory.converted == {"grey": 1}
        assert inventory.read == {"train": 8, "test": 4}
        assert "skipped 1 .tif file, 1 .txt file, 1 folder; converted" in inventory.described()


def test_val_in_place_of_test_is_pointed_at(root: Path) -> None:
    (root / "test").rename(root / "val")
    with pytest.raises(BenchError, match=r"There is val/: rename it to test/"):
        load(root)


# Pixels


def test_duplicates_are_counted_within_and_between_splits(tmp_path: Path) -> None:
    arrays = good()
    arrays["x_train"][3] = arrays["x_train"][0]
    arrays["x_test"][1] = arrays["x_test"][2] = arrays["x_train"][5]
    inventory = load_dataset(save(tmp_path / "own.npz", arrays), tmp_path).inventory
    assert inventory is not None
    assert inventory.duplicates == {"train": 1, "test": 1, "test in train": 2}
    assert "2 exact duplicates (test in train)" in inventory.described()


def test_few_images_of_one_colour_are_counted_and_many_refused(tmp_path: Path) -> None:
    arrays = good()
    arrays["x_train"][:3] = 7
    inventory = load_dataset(save(tmp_path / "own.npz", arrays), tmp_path).inventory
    assert inventory is not None
    assert inventory.constant == {"train": 3, "test": 0}
    arrays["x_train"][3] = 9
    with pytest.raises(BenchError, match=r"4 of 6 train images are of one colour.*\(x \* 255\)"):
        load_dataset(save(tmp_path / "own.npz", arrays), tmp_path)


def test_floats_converted_without_scaling_are_refused(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).random((3, 9, 10, 3))
    floats[:, 0, 0] = 1.0
    spec = save(tmp_path / "own.npz", good() | {"x_test": floats.astype("uint8")})
    with pytest.raises(BenchError, match=r"no pixel of the 3 test images is brighter than 1 of 255.*\(x \* 255\)"):
        load_dataset(spec, tmp_path)


# Files that expand


def test_an_npz_that_fills_the_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "own.npz", **good() | {"x_train": np.zeros((6, 2000, 2000, 3), np.uint8)})
    with pytest.raises(BenchError, match=r"x_train holds .* kB and would become 72 MB"):
        load_dataset(f"npz:{tmp_path / 'own.npz'}", tmp_path)


def test_the_limit_is_said_and_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = save(tmp_path / "own.npz", good())
    monkeypatch.setenv("BENCH_MAX_DATA_GB", "0.000001")
    with pytest.raises(BenchError, match=r"the limit is 1e-06 GB.*BENCH_MAX_DATA_GB=1"):
        load_dataset(spec, tmp_path)
    monkeypatch.setenv("BENCH_MAX_DATA_GB", "lots")
    with pytest.raises(BenchError, match="BENCH_MAX_DATA_GB='lots' is not a number"):
        load_dataset(spec, tmp_path)
    monkeypatch.setenv("BENCH_MAX_DATA_GB", "1")
    assert load_dataset(spec, tmp_path).name == "own"


@pytest.mark.parametrize("depth", [17, 100_000])
def test_deep_nesting_is_refused(depth: int, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--set: more than 16 levels"):
        parse_overrides([f"stage1.view={'[' * depth}{']' * depth}"])
    tier = tmp_path / "deep.toml"
    tier.write_text(f"summary = {'[' * depth}{']' * depth}")
    with pytest.raises(BenchError, match=r"deep\.toml: more than 16 levels"):
        load_tier(str(tier))


def test_a_record_keeps_what_was_read(tmp_path: Path) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, tier="tiny")
    ((record, path),) = carry_out(request, tmp_path / "results")
    assert record.data is not None
    assert record.data.read == {"train": 24, "test": 16}
    assert record.pretraining_data is None
    assert "data" not in record.recipe
    assert load_record(path) == record
