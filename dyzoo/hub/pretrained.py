"""Detectors on disk and on the Hugging Face Hub: `config.json` beside `model.safetensors`, and a model card."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dyzoo.config import DetectorConfig
from dyzoo.config.training import RUNS_FOLDER
from dyzoo.errors import CheckpointError, HubError, UnknownModelError, first_line
from dyzoo.files import check_regular, read_regular, replacing, write_text
from dyzoo.hub.building import BUILDING_FAILS, SPARE_PARAMETERS, at_most
from dyzoo.hub.cards import (
    CARD_NAME,
    CardDetails,
    CardKeptWarning,
    adapt_card,
    inherit,
    is_hand_written,
    terms_of,
    write_card,
)
from dyzoo.hub.failures import missing_file
from dyzoo.hub.fetching import download, mend_hint
from dyzoo.hub.ids import CONFIG_NAME, WEIGHTS_NAME, Token, is_hub_id, split_id
from dyzoo.hub.remote_code import remote_files
from dyzoo.hub.upload import commit, prepare_repo, read_text, require_token

_MAX_CARD_BYTES = 1 << 22
_MAX_CONFIG_BYTES = 1 << 24  # limit for a file that is a few kB: labels may be many, and are there three times

ModelT = TypeVar("ModelT", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """Saving and loading of a model that its configuration describes.

    Raises:
        CheckpointError: a setting is out of its range, so that what is saved could not be loaded.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self._card_text: str | None = None  # that `write_card` wrote of these weights

    def train(self: ModelT, mode: bool = True) -> ModelT:
        """As in torch; what a card said of the weights is no longer true once they are trained."""
        if mode:
            self._card_text = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """As in torch; what a card said was of the weights before."""
        self._card_text = None
        return super().load_state_dict(*args, **options)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; predicted labels index into them."""
        return self.config.labels

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, card: bool | CardDetails = True
    ) -> None:
        """Write `config.json`, `model.safetensors` and a model card into `folder`, each aside and then renamed.

        Beside them go two small files by which transformers loads the same folder, see docs/transformers.md.

        Args:
            folder: made if absent.
            dtype: store floating-point weights in this type (`torch.float16` halves the file); None keeps theirs.
            card: write `README.md`, saying this besides; True: what the card said that the weights were loaded with.
                One that somebody wrote or edited is left alone.

        Raises:
            CheckpointError: a weight is too large for `dtype`.
        """
        folder = Path(folder)
        weights = self._stored_weights(dtype)
        with replacing(folder / CONFIG_NAME) as config_aside, replacing(folder / WEIGHTS_NAME) as weights_aside:
            config_aside.write_text(self.config.to_json(for_transformers=True), encoding="utf-8")
            try:
                # one entry: safetensors writes several in any order, and the same weights are to give the same file
                save_file(weights, weights_aside, metadata={"format": "pt"})
            except SafetensorError as error:
                raise CheckpointError(f"{folder / WEIGHTS_NAME} cannot be written: {first_line(error)}") from None
        for name, text in remote_files(self.config).items():
            write_text(folder / name, text)
        if card is not False:
            path = folder / CARD_NAME
            if not (path.is_file() and is_hand_written(path.read_text(encoding="utf-8", errors="replace"))):
                details = None if card is True else card
                write_text(path, self.model_card(folder.resolve().name, details, self._rounded_to(dtype)))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: Token = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        dtype: torch.dtype | None = None,
        card: CardDetails | str | None = None,
        replace_card: bool = False,
        files: Mapping[str, str | Path] | None = None,
    ) -> CommitInfo:
        """Upload the detector to the Hugging Face Hub in one commit; the repository is made if absent.

        Args:
            repo_id: org/name; a name alone means your own.
            private: who may see a new repository; None: your account's default.
            token: None: the one you are logged in with.
            revision: branch, made if absent (not for a pull request); None: main.
            commit_message: None: one that names the architecture.
            create_pr: open a pull request instead of changing the branch.
            dtype: as for `save_pretrained`.
            card: facts for the model card beyond the configuration, or its whole text. One that `save_pretrained`
                wrote is told the new name; None: the one that the weights were loaded with. Licence and data sets that
                are not given stay as they are there.
            replace_card: also in place of a README.md that somebody wrote or edited there, which is kept otherwise,
                with a warning.
            files: more files to put beside, by their names in the repository.

        Returns:
            The commit's URL, and more as attributes.

        Raises:
            HubError: no access, no network, or `private` asked for a repository that is public.
            CheckpointError: a weight is too large for `dtype`.
        """
        repo_id, revision = split_id(repo_id, revision)
        require_token(token)
        card = self._card_text if card is None else card
        more = {name: Path(path) for name, path in (files or {}).items()}
        for path in more.values():
            if not path.is_file():
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        with TemporaryDirectory() as staging:
            folder = Path(staging)
            self.save_pretrained(folder, dtype, card=False)
            branch = None if create_pr else revision
            repo_id, is_new = prepare_repo(repo_id, private=private, token=token, branch=branch)
            there = None if is_new else read_text(repo_id, CARD_NAME, revision=revision, token=token)
            if there is not None and is_hand_written(there) and not replace_card:
                warnings.warn(
                    f"{repo_id} has a {CARD_NAME} that somebody wrote or edited, it is kept: replace_card=True, or "
                    "--replace-card, puts a new one in its place",
                    CardKeptWarning,
                    stacklevel=2,
                )
            else:
                if isinstance(card, str) and card.strip():
                    terms, rounded_to = inherit(terms_of(card), there), self._rounded_to(dtype)
                    text = card if is_hand_written(card) else adapt_card(card, repo_id, terms, rounded_to)
                else:
                    details = card if isinstance(card, CardDetails) else CardDetails()
                    text = self.model_card(repo_id, inherit(details, there))
                write_text(folder / CARD_NAME, text)
            staged = {path.name: path for path in sorted(folder.iterdir())}
            return commit(
                repo_id,
                {**more, **staged},
                commit_message or f"Upload {self.config.architecture}",
                token=token,
                revision=revision,
                create_pr=create_pr,
            )

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        name_or_folder: str | Path,
        device: str | torch.device = "cpu",
        *,
        revision: str | None = None,
        token: Token = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> ModelT:
        """Load what `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Weights of any type become float32, so that a file of half the size predicts as its original; `half()` or
        `to(torch.bfloat16)` on the result takes them back.

        From the Hub only `config.json` and `model.safetensors` are fetched, both of one commit, into huggingface_hub's
        cache; without network what the cache holds is used.

        Args:
            name_or_folder: a folder, or a repository of the Hugging Face Hub: `org/name`, `org/name@revision`.
            device: where the model goes.
            revision: branch, tag or commit of the repository; None: main.
            token: for private repositories; None: the one you are logged in with, False: none.
            cache_dir: in place of huggingface_hub's.
            local_files_only: do not ask the Hub, use what the cache holds.
            force_download: fetch again what the cache holds.

        Raises:
            CheckpointError: a file is missing or damaged, or the weights are of another architecture than
                `config.json` describes.
            HubError: the repository is not there, not yours to see, or neither reachable nor in the cache.
            UnknownModelError: it is neither a folder nor an id.
        """
        folder = Path(name_or_folder)
        if folder.is_dir():
            for path in (folder / CONFIG_NAME, folder / WEIGHTS_NAME):
                if not path.exists():
                    raise missing_file(str(folder), path.name, [other.name for other in folder.iterdir()])
            model = cls.from_files(folder / CONFIG_NAME, folder / WEIGHTS_NAME, device)
            model.adopt_card(folder / CARD_NAME)
            return model
        if not is_hub_id(name_or_folder):
            raise UnknownModelError(
                f"{str(name_or_folder)!r} is neither a folder nor an id of the Hugging Face Hub, org/name; "
                "dyzoo.load knows the names of checkpoints too"
            )
        repo_id, revision = split_id(str(name_or_folder), revision)
        try:
            config_path, weights_path = download(
                repo_id,
                (CONFIG_NAME, WEIGHTS_NAME),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        except HubError as error:
            if folder.parent != RUNS_FOLDER and not folder.parent.is_dir():
                raise
            raise HubError(f"there is no folder {folder}, and {error}") from error
        return cls.from_files(config_path, weights_path, device, repo_id, mend_hint(repo_id, revision))

    @classmethod
    def from_files(
        cls: type[ModelT],
        config_path: Path,
        weights_path: Path,
        device: str | torch.device = "cpu",
        repo_id: str | None = None,
        mend_hint: str | None = None,
    ) -> ModelT:
        """Load two files that belong together, in evaluation mode.

        Nothing is built that has far more parameters than the file has weights, and no code of the files is run.

        Args:
            config_path, weights_path: two files that `save_pretrained` wrote.
            device: where the model goes.
            repo_id: where they come from, in place of their paths in error messages.
            mend_hint: advice for a damaged file.

        Raises:
            CheckpointError: one is damaged, of a newer version, or they do not belong together.
        """
        config_name, weights_name = (
            f"{path.name} of {repo_id}" if repo_id else str(path) for path in (config_path, weights_path)
        )
        try:
            config = read_config(config_path, config_name)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; if it is damaged, {mend_hint}" if mend_hint else str(error)) from error
        with _reading_weights(weights_name, mend_hint):
            size = check_regular(weights_path)
            with safe_open(weights_path, "pt") as file:
                names = set(file.keys())
        try:
            with at_most(size + SPARE_PARAMETERS):  # a weight takes a byte and more
                model = cls(config)
        except BUILDING_FAILS as error:
            raise CheckpointError(f"{config_name} describes no detector: {first_line(error)}") from error
        model._check_names(names, weights_name)  # before each of 300,000 becomes a tensor
        with _reading_weights(weights_name, mend_hint):
            weights = load_file(weights_path)
        model.load_weights(weights, weights_name)
        return model.eval().to(device)

    def load_weights(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Fill every parameter and buffer from `weights`, cast to their types; `source` leads error messages.

        Raises:
            CheckpointError: a tensor is missing, unknown, complex, of another shape, or holds infinity or NaN; nothing
                has been changed then.
        """
        own = self.state_dict()
        self._check_names(weights.keys(), source)
        for name, value in own.items():
            if value.shape != weights[name].shape:
                raise CheckpointError(
                    f"{source}: {name!r} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}: "
                    f"{self._not_these()}"
                )
            if weights[name].is_complex():
                raise CheckpointError(f"{source}: {name!r} is {weights[name].dtype}, expected {value.dtype}")
        for name, value in own.items():
            # a buffer may be made with infinities, such as an attention mask
            if not _is_finite(weights[name].to(value.dtype)) and _is_finite(value):
                raise CheckpointError(
                    f"{source}: {name!r} holds infinity or NaN, nothing can be detected with it: use weights that were "
                    "saved before training went wrong, or of a wider type"
                )
        self.load_state_dict(weights)

    def adopt_card(self, path: Path) -> None:
        """Keep what a card of these weights says, if `write_card` wrote it, for where they are saved or pushed to."""
        text = ""
        with suppress(OSError):  # it is not there, or no file that could be one
            text = read_regular(path, _MAX_CARD_BYTES).decode("utf-8", "replace")
        self._card_text = text if text.strip() and not is_hand_written(text) else None

    def describe(self, details: CardDetails) -> None:
        """Have the cards of these weights say this, wherever they are saved or pushed to, until they are changed."""
        self._card_text = self.model_card(self.config.architecture, details)

    def model_card(self, name: str, details: CardDetails | None = None, rounded_to: str = "") -> str:
        """The text of a model card.

        Args:
            name: `org/name`, a folder or a checkpoint, as `dyzoo.load` takes it.
            details: what it says besides; None: what the card said that came with the weights.
            rounded_to: the type that these weights are stored in, if it is narrower than the one that was measured.
        """
        if details is None and self._card_text is not None:
            return adapt_card(self._card_text, name, rounded_to=rounded_to)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return write_card(self.config, name, parameters, details)

    def _check_names(self, names: Set[str], source: str) -> None:
        own = self.state_dict().keys()
        if missing := own - names:
            raise CheckpointError(f"{source} lacks {min(missing)!r} and {len(missing) - 1} more: {self._not_these()}")
        if unknown := names - own:
            raise CheckpointError(
                f"{source} has the unknown {min(unknown)!r:.200} and {len(unknown) - 1} more: {self._not_these()}"
            )

    def _not_these(self) -> str:
        return f"these weights are not of {self.config.architecture} with {len(self.labels)} classes"

    def _stored_weights(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}, expected a floating-point type such as torch.float16")
        weights = {}
        for name, value in self.state_dict().items():
            stored = value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
            if dtype is not None and not _is_finite(stored) and _is_finite(value):
                raise CheckpointError(
                    f"{name!r} has values up to {value.abs().max().item():.3g}, too large for {dtype}: "
                    "use torch.bfloat16, or dtype=None"
                )
            weights[name] = stored
        return weights

    def _rounded_to(self, dtype: torch.dtype | None) -> str:
        """The name of the type that weights are stored in, if it is narrower than theirs."""
        widest = max((p.element_size() for p in self.parameters()), default=0)
        return "" if dtype is None or dtype.itemsize >= widest else str(dtype).removeprefix("torch.")


def read_config(path: Path, name: str = CONFIG_NAME) -> DetectorConfig:
    """The detector's configuration in a file. Raises `CheckpointError`: it is none; `name` leads the message."""
    try:
        content = read_regular(path, _MAX_CONFIG_BYTES)
        return DetectorConfig.from_json(content.decode("utf-8"), name)
    except UnicodeDecodeError:
        raise CheckpointError(f"{name} is not a text file") from None
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read ({error.strerror})") from None


@contextmanager
def _reading_weights(name: str, mend_hint: str | None) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        hint = f": {mend_hint}" if mend_hint else ""
        raise CheckpointError(f"{name} is damaged or no safetensors file ({reason}){hint}") from error


def _is_finite(value: Tensor) -> bool:
    # the extremes tell, without a tensor of truth values as long as the weights
    return not value.is_floating_point() or not value.numel() or all(bool(m.isfinite()) for m in torch.aminmax(value))
