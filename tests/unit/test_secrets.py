"""What `rayapp cluster secrets` draws."""

import hashlib

import yaml

from cluster.secrets import SECRETS, draw


def test_secrets_are_drawn_anew_and_the_gateway_knows_the_key_that_the_server_takes():
    first, second = draw({"HF_TOKEN": "hf_x"}), draw({})
    values = {secret["metadata"]["name"]: secret["stringData"] for secret in first}
    assert {name: tuple(data) for name, data in values.items()} == {
        name: keys for name, keys in SECRETS.items() if name != "object-store"
    }
    assert values["postgres"] != second[0]["stringData"]
    assert values["huggingface"] == {"token": "hf_x"}
    (entry,) = yaml.safe_load(values["serving-keys"]["keys.yaml"])
    assert entry["sha256"] == hashlib.sha256(values["gateway"]["serving-key"].encode()).hexdigest()
