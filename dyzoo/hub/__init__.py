"""The Hugging Face Hub: fetching single files of one commit, and committing files; every failure in one line.

Cache, offline mode, endpoint and token are huggingface_hub's: `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`.
"""

from dyzoo.hub.failures import missing_file
from dyzoo.hub.fetching import download, is_cached, mend_hint
from dyzoo.hub.ids import Token, has_prefix, is_hub_id, split_id
from dyzoo.hub.upload import commit, is_private, prepare_repo, read_text, require_token

__all__ = [
    "Token",
    "commit",
    "download",
    "has_prefix",
    "is_cached",
    "is_hub_id",
    "is_private",
    "mend_hint",
    "missing_file",
    "prepare_repo",
    "read_text",
    "require_token",
    "split_id",
]
