"""The images' description agrees with the project's; building them takes an engine that tests have not."""

import fnmatch
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "images" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTRUCTIONS = [
    re.sub(r"\\\n\s*", "", text).split(maxsplit=1)
    for text in re.findall(r"^[A-Z]+ (?:.*\\\n)*.*", re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()), re.M)
]
BAKE = (ROOT / "cluster" / "images" / "docker-bake.hcl").read_text()


def arguments(kind):
    return [rest for name, rest in INSTRUCTIONS if name == kind]


def is_sent(path):
    """Whether .dockerignore lets a path reach the engine: the last pattern for it, or for its folder, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        names = [path, *map(str, Path(path).parents)][:-1]
        if line and not line.startswith("#"):
            anywhere = pattern.removeprefix("**/")
            if any(fnmatch.fnmatch(name if anywhere == pattern else Path(name).name, anywhere) for name in names):
                sent = line.startswith("!")
    return sent


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if not hadolint:
        pytest.skip("hadolint is not installed")
    answer = subprocess.run([hadolint, DOCKERFILE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_what_is_copied_is_there_and_is_sent():
    copied = [rest.split()[:-1] for rest in arguments("COPY") if not rest.startswith("--from")]
    assert copied == [[".python-version", "pyproject.toml"], [".python-version", "pyproject.toml"], ["."]]
    code = subprocess.run(["git", "ls-files", "rayapp", "pipelines", "serve", "cluster/*.py", "configs"],
                          cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    for path in (".python-version", "pyproject.toml", "README.md", "LICENSE", *code):
        assert (ROOT / path).exists(), path
        assert is_sent(path), path


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".env", ".venv/bin/python", "runs/model.nemo", "notes.txt", "tests/unit/test_images.py"),
        *("cluster/terraform/terraform.tfvars", "rayapp/cli/__pycache__/main.pyc"),
    ],
)
def test_nothing_else_is_sent(path):
    assert not is_sent(path)


def test_cuda_is_that_of_torch():
    (wanted,) = (line for line in importlib.metadata.requires("torch") if line.startswith("cuda-toolkit"))
    version = re.search(r"==(\S+);", wanted)[1]
    assert arguments("FROM")[0].startswith(f"nvidia/cuda:{version}-base-")
    short = "-".join(version.split(".")[:2])
    packages = re.findall(r"\b(?:cuda|libcu\w+)-[a-z-]*(\d+-\d+)\b", DOCKERFILE.read_text())
    assert set(packages) == {short}
    assert f"nemo_toolkit[cu{version.split('.')[0]}]" in PROJECT["project"]["optional-dependencies"]["cuda"][0]


def test_python_is_pinned_once():
    python = (ROOT / ".python-version").read_text().strip()
    assert python == PROJECT["tool"]["mypy"]["python_version"]
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + python.replace(".", "")
    assert not re.search(r"python\s*=?3\.\d|python3\.\d", DOCKERFILE.read_text())


def test_packages_and_ray_among_them_are_pinned_in_the_project_alone():
    (light,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("ray["))
    (full,) = (line for line in PROJECT["project"]["optional-dependencies"]["platform"] if line.startswith("ray["))
    assert light.partition("==")[2] == full.partition("==")[2]
    assert "==" not in DOCKERFILE.read_text()


def test_the_tracker_is_of_the_version_of_its_clients():
    extras = PROJECT["project"]["optional-dependencies"]
    server, client = (
        [line for line in extras[name] if line.startswith("mlflow==")] for name in ("tracker", "platform")
    )
    assert server == client


def test_extras_that_are_installed_exist():
    extras = set(re.findall(r"--extra (\S+)", DOCKERFILE.read_text()))
    assert extras == {"platform", "cuda", "vllm", "tracker"}
    assert extras <= PROJECT["project"]["optional-dependencies"].keys()


def test_nobody_is_root():
    assert INSTRUCTIONS[-1] == ["USER", "1000"]
    assert any("useradd --uid 1000 " in rest for rest in arguments("RUN"))


def test_only_aws_installer_is_downloaded_and_no_secret_is_wanted():
    text = DOCKERFILE.read_text()
    assert set(re.findall(r"https?://([^/\s]+)", text)) == {"efa-installer.amazonaws.com"}
    assert not re.search(r"(?i)hugging|hub_download|from_pretrained|\.nemo|safetensors|\bcurl\b", text)
    assert not any(re.search(r"(?i)token|secret|password", rest) for kind in ("ARG", "ENV") for rest in arguments(kind))
    assert any("gpg" in rest and "VALIDSIG" in rest for rest in arguments("RUN"))


def test_the_images_have_a_stage_a_repository_and_the_projects_version():
    images = re.findall(r'"(\w+)"', re.search(r"matrix\s*=.*", BAKE)[0])
    registry = (ROOT / "cluster" / "terraform" / "registry.tf").read_text()
    repositories = re.findall(r'"(\w+)"', re.search(r"toset\(\[.*", registry)[0])
    stages = dict(re.findall(r'(\w+) = "(\w+)"', re.search(r"ENVIRONMENT = \{.*", BAKE)[0]))
    assert images == repositories == list(stages)
    assert set(stages.values()) <= {rest.rpartition(" AS ")[2] for rest in arguments("FROM")}
    assert re.search(r'"VERSION" \{\s*default = "(.*)"', BAKE)[1] == PROJECT["project"]["version"]
