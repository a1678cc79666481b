import pytest

from rayapp.errors import UserError
from rayapp.registry import CHALLENGER, CHAMPION, Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def published(registry, tmp_path, request):
    """A name of its own with three versions, none of them promoted."""
    name = f"asr-{abs(hash(request.node.name))}"
    for number in range(3):
        (tmp_path / "model.nemo").write_bytes(b"weights %d" % number)
        registry.publish(
            name, tmp_path / "model.nemo", f"model {number}", {"test.wer": 0.1}, [], f"key {number}", tmp_path
        )
    return name


def test_a_champion_can_be_rolled_back_to_each_one_before(registry, published):
    for version in ("1", "2", "3"):
        registry.crown(published, version, f"why {version}")
    assert registry.roll_back(published, "hears nothing").champion == "2"
    assert registry.roll_back(published, "").champion == "1"
    with pytest.raises(UserError, match="version 1 is the first champion: there is none to go back to"):
        registry.roll_back(published, "")
    assert registry.resolve(published, CHAMPION).read_bytes() == b"weights 0"
    events = registry.history(published)
    assert [event.action for event in events] == ["promoted"] * 3 + ["rolled back"] * 2
    assert (events[3].version, events[3].champion_before, events[3].champion) == ("3", "3", "2")
    assert events[3].why == "hears nothing"
    assert events[3].who


def test_after_going_back_the_next_champion_goes_back_to_that_one(registry, published):
    registry.crown(published, "1", "")
    registry.crown(published, "2", "")
    registry.roll_back(published, "")
    registry.crown(published, "3", "")
    assert registry.roll_back(published, "").champion == "1"


def test_what_was_rolled_back_does_not_come_back_when_it_is_released_again(registry, published):
    registry.crown(published, "1", "")
    registry.crown(published, "2", "")
    registry.roll_back(published, "")
    for version in ("1", "2"):
        registry.crown(published, version, "released again")
    assert registry.champion(published) == "1"
    assert len(registry.history(published)) == 3


def test_a_challenger_that_wins_is_no_challenger_any_more(registry, published):
    registry.promote(published, "1", CHALLENGER)
    registry.crown(published, "1", "good")
    assert registry.version(published, CHALLENGER) is None
    assert registry.champion(published) == "1"


def test_deciding_the_same_again_is_told_once(registry, published):
    for _ in range(2):
        registry.crown(published, "1", "good")
        registry.refuse(published, "2", "bad")
    assert [event.action for event in registry.history(published)] == ["promoted", "refused"]


def test_what_is_not_there_is_named(registry, published):
    with pytest.raises(UserError, match="no model nobody; known: asr-"):
        registry.history("nobody")
    with pytest.raises(UserError, match="no model nobody"):
        registry.roll_back("nobody", "")
    with pytest.raises(UserError, match=f"no {published}@champion to roll back"):
        registry.roll_back(published, "")
