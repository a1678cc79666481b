"""rayapp makes a speech recogniser good at a domain's words.

This package is the shared vocabulary: the records that flow, the stages that change them, storage,
tracking, the registry and the recognisers. It imports nothing from `pipelines`, `serve` or
`cluster`, which build on it; only `rayapp.cli` stands above them.
"""

__version__ = "0.1.0"
