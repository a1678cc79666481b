import threading

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from werkzeug import Request, Response
from werkzeug.serving import make_server

from rayapp.errors import UserError
from rayapp.shards import read_shards
from rayapp.storage import (
    finish_publishing,
    join,
    key_of,
    list_files,
    open_filesystem,
    open_output,
    published_location,
    remove_location,
    require_complete,
    write_file,
)


def read(location):
    filesystem, path = open_filesystem(location)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def publish(location, key, **files):
    with published_location(location, key) as staging:
        for name, text in files.items():
            write_file(join(staging, "data", name), text.encode())


def test_a_folder_on_an_object_store_appears_complete_and_leaves_nothing_beside_it(s3):
    location = s3("whole/out")
    publish(location, "key", a="1", b="2")
    assert key_of(location) == "key"
    assert list_files(join(location, "data"), "") == ["a", "b"]
    assert read(join(location, "data", "b")) == b"2"
    filesystem, path = open_filesystem(s3("whole"))
    from pyarrow import fs

    assert [info.base_name for info in filesystem.get_file_info(fs.FileSelector(path))] == ["out"]


def test_a_new_folder_replaces_the_earlier_one_without_a_file_of_it_left(s3):
    location = s3("replaced/out")
    publish(location, "first", old="1")
    publish(location, "second", new="2")
    assert key_of(location) == "second"
    assert list_files(join(location, "data"), "") == ["new"]


def test_a_failure_leaves_the_earlier_folder(s3):
    location = s3("failed/out")
    publish(location, "first", good="1")
    with pytest.raises(RuntimeError), published_location(location, "second") as staging:
        write_file(join(staging, "data", "half"), b"x")
        raise RuntimeError
    assert key_of(location) == "first"
    assert list_files(join(location, "data"), "") == ["good"]


def test_a_run_that_was_killed_while_it_published_publishes_again(s3):
    location = s3("killed/out")
    publish(location, "first", old="1")
    with pytest.raises(KeyboardInterrupt), published_location(location, "second", resume=True) as staging:
        write_file(join(staging, "data", "new"), b"2")
        write_file(join(staging, "blocks", "shard"), b"3")
        write_file(join(staging, "_COMPLETE"), b"second")  # as far as a publishing run gets …
        remove_location(location)
        write_file(join(location, "data", "new"), b"2")  # … before it marks what it copied
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="is not complete"):
        require_complete(location, "manifest")
    assert finish_publishing(location, "second", ["blocks"])
    assert key_of(location) == "second"
    assert list_files(join(location, "data"), "") == ["new"]
    assert not list_files(join(location, "blocks"), "")
    assert not finish_publishing(location, "second", ["blocks"])


def test_objects_of_somebody_else_are_not_replaced(s3):
    write_file(s3("theirs/out/precious"), b"x")
    with pytest.raises(UserError, match="was not made by rayapp"), published_location(s3("theirs/out"), "key"):
        pass
    assert read(s3("theirs/out/precious")) == b"x"


@pytest.fixture
def asked(monkeypatch):
    """A location on a store that takes what comes whole and nothing in parts, and the list of what it was asked."""
    requests = []

    @Request.application
    def takes(request):
        request.get_data()
        requests.append((request.method, request.path))
        return Response(headers={"ETag": '"x"'}, status=200 if request.method == "PUT" else 403)

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "tests")
    server = make_server("127.0.0.1", 0, takes, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"s3://b/out?endpoint_override=127.0.0.1:{server.port}&scheme=http&region=eu-west-1", requests
    server.shutdown()


def test_a_small_file_is_one_request(asked):
    location, requests = asked
    write_file(join(location, "blocks", "round-00", "shard.parquet"), b"x" * 1_000_000)
    with open_output(join(location, "data", "train.parquet")) as stream:
        stream.write(b"x")
    assert requests == [("PUT", "/b/out/blocks/round-00/shard.parquet"), ("PUT", "/b/out/data/train.parquet")]


def test_a_large_file_that_fails_leaves_what_was_there(asked):
    location, requests = asked
    with pytest.raises(OSError, match="initiating multiple part upload"):
        write_file(join(location, "shard.parquet"), b"x" * 30_000_000)
    assert ("PUT", "/b/out/shard.parquet") not in requests


def test_shards_are_read_in_the_order_of_their_names(s3):
    folder = s3("shards")
    for number in range(20):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"slot_id": [str(number)], "audio": [b"x"]}), sink)
        write_file(join(folder, f"{number:02d}.parquet"), sink.getvalue())
    write_file(join(folder, "07.parquet"), b"half of one")
    names, broken = list_files(folder, ".parquet"), []
    shards = list(read_shards(folder, names, ["slot_id"], broken.append))
    assert [shard.name for shard in shards] == [name for name in names if name != "07.parquet"]
    assert [shard.table.to_pylist() for shard in shards[:2]] == [[{"slot_id": "0"}], [{"slot_id": "1"}]]
    assert broken == ["07.parquet"]
    with pytest.raises(pa.ArrowInvalid):
        list(read_shards(folder, names, ["slot_id"]))


def test_a_bucket_that_is_not_there_is_named(s3):
    elsewhere = s3("out").replace("s3://speech/", "s3://nowhere/")
    with pytest.raises(UserError, match=r"nowhere/out.*cannot be written"), published_location(elsewhere, "key"):
        pass


def test_a_location_of_no_known_kind_is_refused():
    with pytest.raises(UserError, match="gopher://x/y is no location"):
        key_of("gopher://x/y")
