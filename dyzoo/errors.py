"""The errors that are a user's to mend: one line saying what came, what was expected and the way out."""


class DyzooError(Exception):
    """Base of the errors below; the command line prints its one line and exits non-zero."""


class ImageError(DyzooError, ValueError):
    """An image that cannot be read, or is of a kind that cannot be used."""


class DatasetError(DyzooError, ValueError):
    """A dataset folder or label file that cannot be used."""


class UnknownModelError(DyzooError, ValueError):
    """A model name that no architecture, checkpoint or folder answers to."""


class CheckpointError(DyzooError, ValueError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class SettingError(DyzooError, ValueError):
    """A setting that is out of its range, or that the detector cannot follow."""


class LabelError(DyzooError, ValueError):
    """Class names that cannot be used."""


class HubError(DyzooError, OSError):
    """The Hugging Face Hub refuses or lacks something, or cannot be reached."""


class WorkerError(DyzooError, RuntimeError):
    """A process that reads images for another has died."""


class TrainingError(DyzooError, RuntimeError):
    """Training that cannot start or go on."""


class ExportError(DyzooError, ValueError):
    """A detector that cannot be exported, or whose exported form answers otherwise."""


class TogetherError(DyzooError, RuntimeError):
    """Processes that a launcher has started cannot work together, or one of them has gone."""


class DyzooWarning(UserWarning):
    """Something worth knowing that is no error; the command line prints it as a note of one line."""


def first_line(error: Exception) -> str:
    """The first line of another library's exception; its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def full_memory(error: Exception) -> str | None:
    """The name of the memory that is full, if that is the error."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, not imported here
        return "the GPU's memory"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory"
    return None
