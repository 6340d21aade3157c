"""Environment variables that dyzoo reads: each has one function here, and nothing else looks at the environment."""

from __future__ import annotations

import os

CUDA_GRAPHS = "DYZOO_CUDA_GRAPHS"
HOME = "DYZOO_HOME"
HUB_PATIENCE = "DYZOO_HUB_PATIENCE"
MIRROR = "DYZOO_MIRROR"


def is_debugging() -> bool:
    """Whether `DYZOO_DEBUG` asks for tracebacks in place of one line for each error."""
    return bool(os.environ.get("DYZOO_DEBUG"))


def cuda_graphs_are_wanted() -> bool:
    """Whether predictions on a GPU may replay CUDA graphs: unless `DYZOO_CUDA_GRAPHS` is 0."""
    return os.environ.get(CUDA_GRAPHS, "1") != "0"


def ask_for_large_pages() -> None:
    """Let PyTorch, before it allocates, have large tensors on Linux's pages of 2 MB, where nobody has chosen otherwise
    (`THP_MEM_ALLOC_ENABLE`): a picture touches thousands of small pages anew, which is a tenth of its time on a CPU.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def home() -> str:
    """Folder of what dyzoo keeps (`DYZOO_HOME`), in place of `dyzoo` beside huggingface_hub's own; "" if unset."""
    return os.environ.get(HOME, "")


def mirror() -> str:
    """Folder, or address of one on a server, where files are looked for first (`DYZOO_MIRROR`); "" if unset."""
    return os.environ.get(MIRROR, "")


def hub_patience() -> str:
    """Seconds that the Hub is waited for (`DYZOO_HUB_PATIENCE`), as the user wrote them; "" if unset."""
    return os.environ.get(HUB_PATIENCE, "")


def launched_processes() -> int:
    """Number of processes that `torchrun` or `accelerate launch` started, on all machines (`WORLD_SIZE`); else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_index() -> int:
    """Index of this process among those of all machines (`RANK`); 0 if no launcher started it."""
    return int(os.environ.get("RANK", "0"))


def processes_of_machine() -> int:
    """Number of processes that the launcher started on this machine (`LOCAL_WORLD_SIZE`); else 1."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def index_on_machine() -> int:
    """Index of this process among those of this machine (`LOCAL_RANK`); 0 if no launcher started it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launcher_precision() -> str | None:
    """Precision given to `accelerate launch --mixed_precision` (`ACCELERATE_MIXED_PRECISION`), such as "bf16"."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION")


def chosen_wandb_mode() -> str | None:
    """Mode of Weights & Biases (`WANDB_MODE`): "online", "offline" or "disabled"; None if unset or empty."""
    return os.environ.get("WANDB_MODE") or None


def wandb_project(default: str) -> str:
    """Project that Weights & Biases files a run under (`WANDB_PROJECT`)."""
    return os.environ.get("WANDB_PROJECT", default)


def has_wandb_key() -> bool:
    """Whether `WANDB_API_KEY` logs the user in to Weights & Biases."""
    return bool(os.environ.get("WANDB_API_KEY"))
