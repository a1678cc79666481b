"""What is said of a job before anything is sent."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from cluster.jobs import Cluster, Job
from cluster.profile import ClusterProfile, open_profile
from cluster.working_directory import packed_files, require_what_is_named
from pipelines.evaluation.config import EvaluationConfig
from rayapp.cli.entrypoint import read_entrypoint
from rayapp.errors import UserError
from rayapp.gpus import gpu_demands


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "a.yaml"], "no command; known here: quickstart"),
        (["lexicon", "mien"], "known here: convert, stats"),
        ([], "no command"),
        (["train"], "Missing argument"),
        (["train", "a.yaml", "--epochs", "3"], "No such option"),
        (["train", "--help"], "only explains itself"),
        (["train", "nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_what_is_no_command_is_said(words, message):
    with pytest.raises(UserError, match=message):
        read_entrypoint(words)


def test_settings_are_read_as_the_command_would(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("port: 8080\n")
    entrypoint = read_entrypoint(["serve", str(file), "--set", "ingresses=2"])
    assert (entrypoint.settings.port, entrypoint.settings.ingresses) == (8080, 2)
    with pytest.raises(UserError, match="unknown key prot"):
        read_entrypoint(["serve", str(file), "--set", "prot=1"])


def test_every_command_that_reads_settings_is_known_to_read_them():
    from pathlib import Path

    import rayapp.cli
    from rayapp.cli.entrypoint import SETTINGS_OF

    files = Path(rayapp.cli.__file__).parent.glob("*.py")
    reading = {file.stem.replace("_", "-"): file.read_text() for file in files if "load_config(" in file.read_text()}
    reading.pop("entrypoint")
    assert reading.keys() == SETTINGS_OF.keys()
    for name, kind in SETTINGS_OF.items():
        assert f"load_config({kind.partition(':')[2]}," in reading[name]


def test_the_same_settings_are_the_same_job_whatever_file_they_are_in(tmp_path):
    def job(name, *more):
        (tmp_path / name).write_text("port: 8080\n")
        entrypoint = read_entrypoint(["serve", str(tmp_path / name), *more])
        return Job(entrypoint.words, entrypoint.settings, entrypoint.options)

    same = [job("a.yaml"), job("b.yaml"), job("a.yaml", "--set", "port=8080"), job("a.yaml", "--json")]
    assert len({each.id for each in same}) == 1
    others = [same[0], job("a.yaml", "--set", "port=8081"), job("a.yaml", "--address", "ray://head:10001")]
    assert len({each.id for each in others}) == 3
    assert Job(("lexicon", "stats", "a b.csv")).entrypoint == "python -m rayapp.cli lexicon stats 'a b.csv'"


def test_what_is_ignored_stays_here(tmp_path):
    for name in ("a.yaml", "runs/model.nemo", "big.bin", "speech/a.wav", ".venv/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / ".gitignore").write_text("*.bin\n")
    sizes = packed_files(tmp_path, ["speech"])
    assert {str(path): size for path, size in sizes.items()} == {"a.yaml": 5, ".gitignore": 6}


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(tmp_path, monkeypatch):
    monkeypatch.setattr("ray._private.runtime_env.packaging.GCS_STORAGE_MAX_SIZE", 1_000_000)
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "speech.wav").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match=r"3 MiB, and Ray takes 1 MiB along; the largest: speech.wav \(3 MiB\), a.txt"):
        packed_files(tmp_path, [])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs/model.nemo", "after: runs/model.nemo stays on this machine"),
        ("{outside}", "is on this machine, and the cluster does not see it"),
        ("{inside}", "give it as here.nemo"),
        ("here.nemo", None),
        ("s3://bucket/model.nemo", None),
        ("/fsx/model.nemo", None),
        ("nvidia/parakeet-tdt-0.6b-v2", None),
    ],
)
def test_a_setting_that_names_what_is_only_here_is_refused(tmp_path, model, message):
    folder = tmp_path / "work"
    for path in ("work/runs/model.nemo", "work/here.nemo", "elsewhere.nemo"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    model = model.format(outside=tmp_path / "elsewhere.nemo", inside=folder / "here.nemo")
    settings = EvaluationConfig.model_validate(
        {"after": model, "output": "runs", "sets": {"a": {"manifest": "s3://a"}}}
    )

    def check():
        require_what_is_named(settings, folder, list(packed_files(folder, [])), ["/fsx"])

    if message is None:
        check()
    else:
        with pytest.raises(UserError, match=message):
            check()


def test_a_file_of_settings_that_is_only_here_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for path in (tmp_path / "a.yaml", folder / "a.yaml"):
        path.write_text("port: 8080\n")

    def check(file):
        require_what_is_named(read_entrypoint(["serve", file]).options, folder, list(packed_files(folder, [])), [])

    check("a.yaml")
    with pytest.raises(UserError, match=r"config_file: \.\./a\.yaml is on this machine"):
        check("../a.yaml")
    with pytest.raises(UserError, match=r"give it as a\.yaml"):
        check(str(folder / "a.yaml"))


def test_variables_of_this_machine_are_no_settings_of_a_job(monkeypatch):
    monkeypatch.setenv("RAYAPP_PORT", "8080")
    assert read_entrypoint(["serve"], {"RAYAPP_PORT": "8081"}).settings.port == 8081


@pytest.mark.parametrize(("here", "there"), [("*.internal", None), (None, "*.internal")])
def test_who_is_inside_is_told_by_this_machine_or_by_the_profile(tmp_path, monkeypatch, here, there):
    monkeypatch.setenv("RAYAPP_INSIDE_ONLY", here or "")
    cluster, other = Cluster.__new__(Cluster), {"WANDB_MODE": "online"}
    cluster.profile = ClusterProfile(environment={**other, "RAYAPP_INSIDE_ONLY": there} if there else other)
    job = Job(("train", "a.yaml"), read_entrypoint(["train", "configs/train-parakeet.yaml"], other).settings)
    with pytest.raises(UserError, match="is outside"):
        cluster.submit(job, tmp_path)


class FlakyTail:
    """A Ray client, as far as following goes, whose connection breaks in the midst of a line, and then closes early."""

    def __init__(self):
        self.connections = 0

    async def tail_job_logs(self, _):
        self.connections += 1
        yield "one\ntw"
        if self.connections == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        if self.connections == 3:
            yield "o\nthree\n"


def following(client, statuses, monkeypatch):
    """What is followed of a job that has these statuses, one after the other."""
    cluster, left = Cluster.__new__(Cluster), iter(statuses)
    cluster._client, cluster.profile = client, ClusterProfile()
    monkeypatch.setattr(cluster, "details", lambda _: SimpleNamespace(status=next(left)))
    monkeypatch.setattr("cluster.jobs._RECONNECT_SECONDS", (0, 0, 0))

    async def follow():
        return "".join([lines async for lines in cluster.follow("train-1")])

    return asyncio.run(follow())


def test_a_job_is_followed_over_connections_that_drop(monkeypatch):
    assert following(FlakyTail(), ["RUNNING", "RUNNING", "SUCCEEDED"], monkeypatch) == "one\ntwo\nthree\n"


def test_a_cluster_that_does_not_come_back_while_followed_is_said(monkeypatch):
    class Gone:
        async def tail_job_logs(self, _):
            raise ConnectionError("refused")
            yield

    with pytest.raises(UserError, match="train-1 goes on; once the cluster answers, `rayapp jobs logs -f train-1`"):
        following(Gone(), ["RUNNING"], monkeypatch)


def test_gpus_that_are_asked_for_are_found_wherever_they_are_set_and_used():
    settings = read_entrypoint(["synthesize", "configs/synthesize-cluster.yaml"]).settings
    asked = {demand.setting: (demand.processes, demand.gpus) for demand in gpu_demands(settings)}
    assert asked == {"transcripts.vllm.gpus": (2, 4), "speech.coqui.gpus": (16, 0.5), "verification.gpus": (8, 0.5)}
    assert not list(gpu_demands(read_entrypoint(["synthesize", "configs/synthesize.yaml"]).settings))


def test_a_cluster_that_does_not_answer_is_said():
    from serve.run import free_port

    with pytest.raises(UserError, match=r"nothing answers at http.*kubectl port-forward"):
        Cluster(ClusterProfile(address=f"http://127.0.0.1:{free_port()}"))


def test_a_cluster_that_runs_another_ray_is_said():
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Old(BaseHTTPRequestHandler):
        def do_GET(self):
            told = json.dumps({"version": "4", "ray_version": "2.9.0", "ray_commit": "", "session_name": ""}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UserError, match=r"the cluster runs Ray 2\.9\.0, and this machine 2\."):
        Cluster(ClusterProfile(address=f"http://127.0.0.1:{server.server_port}"))
    server.shutdown()


def test_a_cluster_that_is_not_known_is_said_with_those_that_are():
    with pytest.raises(UserError, match="no cluster 'prod'; in configs/cluster: eks, local"):
        open_profile("prod")
