"""The data: found, downloaded from a local address, checked, and refused where they are wrong."""

import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosstask.errors import DataError
from crosstask.testing import full_disk
from crosstask_omniglot import arrays as module
from crosstask_omniglot import load_arrays
from crosstask_omniglot.arrays import FILE, reduced

EXCERPT = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data anywhere: an empty cache, which is returned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSTASK_DATA", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache" / "crosstask"


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local address with the two zip files, laid out as the real ones, and their checksums."""
    folder = tmp_path / "published"
    folder.mkdir()
    drawings = {"images_background": ["Greek", "Latin"], "images_evaluation": ["Angelic"]}
    for name, alphabets in drawings.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
            file.writestr(f"__MACOSX/{name}/Greek/character01/._0001_01.png", b"not an image")
            for number, alphabet in enumerate(alphabets):
                for character in (1, 2):
                    for drawer in range(1, 21):
                        stream = io.BytesIO()
                        Image.fromarray(drawing(number, character, drawer)).convert("1").save(stream, "PNG")
                        inside = f"{name}/{alphabet}/character{character:02}/{number:04}_{drawer:02}.png"
                        file.writestr(inside, stream.getvalue())
    digests = {f"{n}.zip": hashlib.sha256((folder / f"{n}.zip").read_bytes()).hexdigest() for n in drawings}
    monkeypatch.setattr(module, "ZIPS", digests)
    return folder.as_uri()


def drawing(*seed: int) -> np.ndarray:
    """105 x 105, black (0) on white (255)."""
    return np.where(np.random.default_rng(seed).random((105, 105)) < 0.2, 0, 255).astype(np.uint8)


def test_downloaded_once_then_read_from_the_cache(publisher: str, nowhere: Path) -> None:
    made = load_arrays(publisher=publisher)
    assert made.names == ("Angelic", "Greek", "Latin")
    assert made.background.tolist() == [False, True, True]
    assert made.images.shape == (120, 28, 28)
    (row,) = np.flatnonzero((made.alphabet == 2) & (made.character == 2) & (made.drawer == 7))
    fine = np.kron(drawing(1, 2, 7) == 0, np.ones((4, 4)))  # 420 x 420: now 28 blocks of 15 fit
    ink = 255 * fine.reshape(28, 15, 28, 15).mean(axis=(1, 3))
    assert abs(made.images[row] - ink).max() <= 0.5 + 1e-9, "ink is high, and each pixel is the mean over its area"
    again = load_arrays(publisher="file:///nowhere")
    assert (again.images == made.images).all()
    assert sorted(path.name for path in nowhere.iterdir()) == sorted([FILE, *module.ZIPS])


def test_zips_put_into_the_cache_by_hand_need_no_network(publisher: str, nowhere: Path) -> None:
    nowhere.mkdir(parents=True)
    for name in module.ZIPS:
        (nowhere / name).write_bytes(Path(publisher.removeprefix("file://"), name).read_bytes())
    assert len(load_arrays(publisher="file:///nowhere").images) == 120


def test_a_wrong_checksum_keeps_nothing(publisher: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.ZIPS, "images_evaluation.zip", "0" * 64)
    with pytest.raises(DataError, match=r"images_evaluation.zip: the file has SHA-256 .* expected 0000") as caught:
        load_arrays(publisher=publisher)
    assert str(nowhere) in str(caught.value)
    assert [path.name for path in nowhere.iterdir()] == ["images_background.zip"], "the good one is kept"


def test_without_a_network_the_error_says_where_to_put_the_file(nowhere: Path) -> None:
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        load_arrays(publisher="file:///nowhere")
    for part in (str(nowhere), "CROSSTASK_DATA", FILE, "images_background.zip"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="not on this machine"):
        load_arrays(download=False)


def test_found_where_the_variable_points_then_in_shared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared" / "data"
    shared.mkdir(parents=True)
    (shared / FILE).write_bytes((EXCERPT / FILE).read_bytes())
    assert load_arrays(download=False).names == ("Angelic", "Futurama", "Greek")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / FILE).write_bytes(b"looked at first")
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path / "given"))
    with pytest.raises(DataError, match="given"):
        load_arrays(download=False)


def raw() -> dict[str, np.ndarray]:
    with np.load(EXCERPT / FILE) as file:
        return dict(file)


class Bomb:
    """Would say so if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("it was unpickled",)


WRONG = {
    "no array 'drawer'": lambda a: a.pop("drawer"),
    "'drawer' has shape": lambda a: a.update(drawer=a["drawer"][:5]),
    "images must be uint8 of 28 x 28": lambda a: a.update(images=a["images"].astype(float)),
    "alphabet that has no name": lambda a: a.update(alphabet=a["alphabet"] + 1),
    "no alphabet of Omniglot": lambda a: a.update(alphabet_names=np.array(["Angelic", "Klingon", "Greek"])),
    "more characters than": lambda a: a.update(character=a["character"] + 90),
    "cannot be read": lambda a: a.update(drawer=np.array([Bomb()] * len(a["drawer"]), dtype=object)),
    "no images": lambda a: a.update({k: a[k][:0] for k in ("images", "alphabet", "character", "drawer")}),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_files_are_refused(tmp_path: Path, message: str) -> None:
    arrays = raw()
    WRONG[message](arrays)
    path = tmp_path / FILE
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_arrays(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"images": 1})], ids=["empty", "text", "pickle"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_arrays(tmp_path / FILE)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    content = bytearray((EXCERPT / FILE).read_bytes())
    content[2000:2100] = bytes(100)
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_arrays(tmp_path / FILE)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*missing.npz"):
        load_arrays(tmp_path / "missing.npz")


def test_reducing_keeps_the_ink() -> None:
    images = np.random.default_rng(0).random((3, 105, 105))
    small = reduced(images, 28)
    assert np.allclose(small.mean(axis=(1, 2)), images.mean(axis=(1, 2)))


def test_on_a_full_disk_nothing_half_written_stays(publisher: str, nowhere: Path) -> None:
    with full_disk(100), pytest.raises(DataError, match=r"cannot write .*\.zip: .* bytes free, [\d,]+ needed\)"):
        load_arrays(publisher=publisher)
    assert not list(nowhere.iterdir())
    load_arrays(publisher=publisher)
    file = nowhere / FILE
    most = file.stat().st_size - 100
    file.unlink()
    with full_disk(most), pytest.raises(DataError, match=rf"cannot write .*{FILE}: .* free, more than [\d,]+ needed\)"):
        load_arrays(publisher=publisher)
    assert all(each.suffix == ".zip" for each in nowhere.iterdir()), "what was loaded as a whole is kept"
