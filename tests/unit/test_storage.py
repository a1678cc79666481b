import errno

import pytest

from rayapp.config import StepConfig
from rayapp.errors import UserError
from rayapp.storage import key_of, published_folder, require_complete, require_writable, step_key


class Settings(StepConfig):
    value: int = 1


def test_a_folder_appears_whole_under_its_name_and_key(tmp_path):
    with published_folder(tmp_path / "out", "key") as staging:
        (staging / "data").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "data").read_text() == "x"
    assert key_of(tmp_path / "out") == "key"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_earlier_folder_and_nothing_else(tmp_path):
    with published_folder(tmp_path / "out", "first") as staging:
        (staging / "data").write_text("good")
    with pytest.raises(RuntimeError), published_folder(tmp_path / "out", "second") as staging:
        (staging / "data").write_text("half")
        raise RuntimeError
    assert (tmp_path / "out" / "data").read_text() == "good"
    assert key_of(tmp_path / "out") == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_an_interrupted_run_left_goes_when_another_publishes(tmp_path):
    with pytest.raises(KeyboardInterrupt), published_folder(tmp_path / "out", "a", resume=True) as staging:
        (staging / "half").touch()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), published_folder(tmp_path / "out.v2", "a", resume=True):
        raise KeyboardInterrupt
    with published_folder(tmp_path / "out", "b", resume=True):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.v2.a.partial", "out"]


def test_an_interrupted_run_finds_what_it_left_but_only_under_its_own_key(tmp_path):
    for key in ("a", "b", "a"):
        with pytest.raises(KeyboardInterrupt), published_folder(tmp_path / "out", key, resume=True) as staging:
            found = sorted(p.name for p in staging.iterdir())
            (staging / key).touch()
            raise KeyboardInterrupt
    assert found == ["a"]


def test_a_full_disk_is_said_plainly(tmp_path):
    with pytest.raises(UserError, match="the disk is full while writing"), published_folder(tmp_path / "out", "key"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/work cannot be written"):
        require_writable(tmp_path / "file" / "work")


def test_too_little_room_is_said_with_the_figures(tmp_path):
    with pytest.raises(UserError, match=r"GB free; 1e\+09 GB are needed"):
        require_writable(tmp_path, free_gb=1e9)


def test_a_folder_that_was_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        require_complete(tmp_path / "none", "manifest")
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match="is not complete"):
        require_complete(tmp_path / "half", "manifest")


def test_a_key_changes_with_the_settings_and_with_what_is_read(tmp_path):
    keys = {step_key(Settings()), step_key(Settings(value=2)), step_key(Settings(), tmp_path / "input")}
    with published_folder(tmp_path / "input", "first"):
        pass
    keys.add(step_key(Settings(), tmp_path / "input"))
    assert len(keys) == 4
    assert step_key(Settings()) in keys
