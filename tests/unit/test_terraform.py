"""The cloud's part of a cluster, checked without a cloud."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "cluster" / "terraform"
EXAMPLE = FOLDER.parent / "manifests/overlays/eks-prod/settings/settings.env"


@pytest.fixture(scope="module")
def terraform(tmp_path_factory):
    """Runs Terraform on a copy of the folder, which it writes into."""
    plugins = os.environ.get("RAYAPP_TF_PLUGINS")
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed")
    if not plugins:
        pytest.skip("RAYAPP_TF_PLUGINS names no folder that `terraform providers mirror` has put the provider into")
    copy = tmp_path_factory.mktemp("terraform") / "copy"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "terraform.tfvars"))

    def run(*arguments):
        return subprocess.run(
            ["terraform", *arguments, "-no-color"], cwd=copy, capture_output=True, text=True, check=False,
            env={**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1"},
        )  # fmt: skip

    started = run("init", "-backend=false", f"-plugin-dir={plugins}")
    assert started.returncode == 0, started.stderr
    return run


@pytest.mark.parametrize("command", [("fmt", "-check", "-recursive"), ("validate",)])
def test_the_configuration_is_in_form(terraform, command):
    answer = terraform(*command)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
def test_what_would_be_made_is_what_was_meant(terraform):
    answer = terraform("test")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_manifests_are_told_all_that_they_read():
    settings = re.search(r'output "settings" \{.*?<<-EOT\n(.*?)\n\s*EOT', (FOLDER / "outputs.tf").read_text(), re.S)
    told = [line.strip().partition("=")[0] for line in settings[1].splitlines()]
    assert told == re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.MULTILINE)


def test_there_is_no_secret_and_no_account_in_the_files():
    for file in FOLDER.rglob("*"):
        if file.suffix not in (".tf", ".hcl", ".tfvars") or file.name in (".terraform.lock.hcl", "terraform.tfvars"):
            continue
        text = file.read_text()
        assert set(re.findall(r"(?<!\d)\d{12}(?!\d)", text)) <= {"000000000000"}, file
        assert not re.search(r"AKIA|ASIA|BEGIN [A-Z ]*PRIVATE KEY|secret_key|password\s*=", text), file
