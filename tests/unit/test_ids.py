import os
import shutil

import pytest

from rayapp.ids import path_id

MEGABYTE = 1 << 20


@pytest.fixture
def model(tmp_path):
    """A folder with settings and 40 MB of weights."""
    folder = tmp_path / "model"
    (folder / "tokens").mkdir(parents=True)
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "tokens" / "vocabulary.txt").write_text("a\nb\n")
    (folder / "weights.bin").write_bytes(os.urandom(40 * MEGABYTE))
    return folder


def test_the_same_contents_have_the_same_id_wherever_they_lie(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "elsewhere" / "copy")
    os.utime(copy / "weights.bin", (0, 0))
    assert path_id(copy) == path_id(model)
    assert path_id(copy / "weights.bin") == path_id(model / "weights.bin") != path_id(model)


def test_a_file_that_names_its_own_folder_may_lie_anywhere(model, tmp_path, monkeypatch):
    copy = shutil.copytree(model, tmp_path / "elsewhere" / "copy")
    for folder in (model, copy):
        (folder / "config.json").write_text(f'{{"speakers": "{folder}/speakers.pth"}}')
    assert path_id(copy) == path_id(model)
    monkeypatch.chdir(tmp_path)
    assert path_id(copy.relative_to(tmp_path)) == path_id(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model / "config.json").write_text('{"layers": 3}'),
        lambda model: (model / "config.json").rename(model / "settings.json"),
        lambda model: (model / "tokens" / "vocabulary.txt").unlink(),
        lambda model: (model / "adapter.bin").write_bytes(b"low rank"),
    ],
)
def test_what_a_folder_holds_decides(model, change):
    before = path_id(model)
    change(model)
    assert path_id(model) != before


@pytest.mark.parametrize("start", [0, 17 * MEGABYTE + 1, 40 * MEGABYTE - 1])
def test_changed_weights_are_noticed_wherever_they_are(model, start):
    before, weights = path_id(model), model / "weights.bin"
    content = bytearray(weights.read_bytes())
    length = min(len(content) // 255 + 1, len(content) - start)
    content[start : start + length] = bytes(255 - byte for byte in content[start : start + length])
    weights.write_bytes(content)
    assert path_id(model) != before


def test_a_file_that_grew_is_another(model):
    before = path_id(model)
    with (model / "weights.bin").open("ab") as file:
        file.write(b"\0")
    assert path_id(model) != before


def test_hidden_files_do_not_count(model):
    before = path_id(model)
    (model / ".cache").mkdir()
    (model / ".cache" / "fetched_at").write_text("today")
    assert path_id(model) == before


def test_what_is_not_there_has_no_id(tmp_path):
    with pytest.raises(FileNotFoundError):
        path_id(tmp_path / "none")
