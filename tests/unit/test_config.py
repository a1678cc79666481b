import json
from pathlib import Path

import pytest
import yaml

from pipelines.capacity.config import GroupConfig, NodeConfig, ScaleConfig, SpotConfig
from pipelines.config import QuickstartConfig, SynthesisConfig, TrainConfig
from rayapp.config import StepConfig, load_config, save_config
from rayapp.errors import UserError


@pytest.fixture
def settings(tmp_path):
    """A YAML file with the given text."""

    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_the_command_line_beats_the_environment_and_that_beats_the_file(settings):
    path = settings("training: {learning_rate: 0.1, epochs: 7, workers: 3}")
    environment = {"RAYAPP_TRAINING__LEARNING_RATE": "0.2", "RAYAPP_TRAINING__EPOCHS": "8", "RAYAPP_CACHE": "/tmp"}
    config = load_config(QuickstartConfig, path, ["training.learning_rate=1e-3"], environment)
    assert (config.training.learning_rate, config.training.epochs, config.training.workers) == (1e-3, 8, 3)


def test_one_key_of_a_section_leaves_the_others_as_they_are(settings):
    default = QuickstartConfig()
    by_file = load_config(QuickstartConfig, settings("training: {epochs: 1}\nmedical: {test: 50}"), [], {})
    assert by_file.training == default.training.model_copy(update={"epochs": 1})
    assert by_file.medical == default.medical.model_copy(update={"test": 50})
    whole_section = load_config(QuickstartConfig, None, ["training={epochs: 1}"], {})
    assert whole_section.training == by_file.training
    by_command_line = load_config(QuickstartConfig, None, ["everyday.train_everyday=10"], {})
    assert by_command_line.everyday == default.everyday.model_copy(update={"train_everyday": 10})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", r"unknown key training.lerning_rate; did you mean training.learning_rate\?"),
        ("learning_rate=1", r"unknown key learning_rate; did you mean .*learning_rate\?"),
        ("training.epochs=many", "training.epochs = 'many': input should be a valid integer"),
        ("training.epochs=0", "training.epochs = 0: input should be greater than or equal to 1"),
        ("augmentation.noise.min_snr_db=30", r"min_snr_db \(30.0\) is above max_snr_db \(25.0\); swap them"),
        ("training", "'training' is not KEY=VALUE"),
        ("seed.x=1", "valid keys"),
    ],
)
def test_a_bad_setting_is_named_with_what_to_do(override, message):
    with pytest.raises(UserError, match=message if override != "seed.x=1" else "seed"):
        load_config(QuickstartConfig, None, [override], {})


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", "\x00"])
def test_a_file_that_is_no_settings_is_named(settings, text):
    with pytest.raises(UserError, match=r"settings\.yaml"):
        load_config(QuickstartConfig, settings(text), [], {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_config(QuickstartConfig, tmp_path / "nowhere.yaml", [], {})


def test_the_saved_settings_give_the_same_settings_again(tmp_path):
    config = load_config(QuickstartConfig, None, ["lexicon.take=10", "training.gradient_clipping=0.5"], {})
    path = save_config(config, tmp_path)
    assert load_config(QuickstartConfig, path, [], {}) == config
    assert json.loads(path.read_text())["lexicon"]["take"] == 10


def test_every_shipped_file_is_valid(shipped_configs):
    for path, kind in shipped_configs:
        assert isinstance(load_config(kind, path, [], {}), kind)


def test_the_shipped_quickstart_file_says_what_the_defaults_say(shipped_configs):
    path = next(path for path, kind in shipped_configs if kind is QuickstartConfig)
    assert load_config(QuickstartConfig, path, [], {}) == QuickstartConfig()


@pytest.fixture
def shipped_configs() -> list[tuple[Path, type[StepConfig]]]:
    from pipelines.config import AblateConfig, AdaptConfig
    from pipelines.evaluation.config import EvaluationConfig
    from pipelines.release.config import ReleaseConfig
    from serve.config import ServeConfig

    kinds = {
        "quickstart": QuickstartConfig,
        "synthesize": SynthesisConfig,
        "train": TrainConfig,
        "ablate": AblateConfig,
        "adapt": AdaptConfig,
        "evaluate": EvaluationConfig,
        "release": ReleaseConfig,
        "serve": ServeConfig,
        "scale": ScaleConfig,
    }
    folder = Path(__file__).parents[2] / "configs"
    paths = sorted(folder.glob("*.yaml"))
    assert {path.stem.partition("-")[0] for path in paths} == set(kinds)
    return [(path, kinds[path.stem.partition("-")[0]]) for path in paths]


def test_every_setting_is_explained():
    def unexplained(kind, prefix=""):
        for name, field in kind.model_fields.items():
            if not field.description:
                yield prefix + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, StepConfig):
                yield from unexplained(field.annotation, f"{prefix}{name}.")

    assert list(unexplained(QuickstartConfig)) == []
    assert list(unexplained(SynthesisConfig)) == []
    assert list(unexplained(TrainConfig)) == []
    assert [list(unexplained(kind)) for kind in (ScaleConfig, NodeConfig, SpotConfig, GroupConfig)] == [[]] * 4


def test_numbers_in_yaml_are_numbers_in_every_spelling(settings):
    text = yaml.safe_dump({"training": {"epochs": 2}}) + "seed: 3\n"
    config = load_config(QuickstartConfig, settings(text.replace("epochs: 2", "learning_rate: 2e-4")), [], {})
    assert config.training.learning_rate == 2e-4


def test_a_quickstart_without_one_of_its_tests_is_refused():
    with pytest.raises(UserError, match=r"medical\.test_general is 0"):
        load_config(QuickstartConfig, None, ["medical.test_general=0"], {})


def test_muon_and_sharding_do_not_go_together():
    with pytest.raises(UserError, match=r"muon needs deepspeed\.zero_stage 0, not 1"):
        load_config(QuickstartConfig, None, ["training.optimizer=muon", "training.deepspeed.zero_stage=1"], {})


@pytest.mark.parametrize("key", ["medical.train_per_term", "everyday.train_everyday"])
def test_a_quickstart_that_would_have_nothing_to_learn_from_is_refused_at_once(key):
    with pytest.raises(UserError, match=f"{key} is 0; the .* has nothing to learn from"):
        load_config(QuickstartConfig, None, [f"{key}=0"], {})
