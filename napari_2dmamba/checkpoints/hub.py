"""Checkpoints in Hugging Face repositories: listed by their headers, fetched when used.

Only safetensors files are listed and fetched. Of a file that is not on this machine a few
kilobytes are read, its header; without a network, or with ``HF_HUB_OFFLINE=1``, what the cache of
``huggingface_hub`` holds is all there is.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari_2dmamba.checkpoints.index import SummaryCache
from napari_2dmamba.checkpoints.summary import (
    HUB_PREFIX,
    CheckpointSummary,
    of_safetensors,
    summarise,
)
from napari_2dmamba.errors import Cancelled, CheckpointError
from napari_2dmamba.huggingface import explained, is_offline, missing_extra
from napari_2dmamba.settings import ProgressCallback, StopCallback

_ENDING = ".safetensors"
_PATIENCE = 10.0  # seconds until a server that does not answer counts as not there


def parts_of(location: str) -> tuple[str, str | None, str]:
    """Return repository, revision and file of a ``hub:owner/name@revision:file``."""
    source, _, file = location.removeprefix(HUB_PREFIX).partition(":")
    repo, _, revision = source.partition("@")
    return repo, revision or None, file


def index_repository(source: str, cache: SummaryCache) -> Iterator[CheckpointSummary]:
    """Yield a summary of every safetensors file of a repository.

    A repository that cannot be read yields one summary of itself that says why.
    """
    repo, revision, _ = parts_of(source)
    try:
        summaries = (
            _cached_files(source, repo, revision)
            if is_offline()
            else _listed_files(source, repo, revision, cache)
        )
        empty = True
        for summary in summaries:
            empty = False
            yield summary
    except CheckpointError as error:
        yield CheckpointSummary(source, problem=str(error))
        return
    if empty:
        yield CheckpointSummary(
            source,
            problem=f"{repo} holds no safetensors file, and other kinds are not fetched; ask its "
            "owner for one",
        )


def fetch(
    location: str,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Return the local path of a file on Hugging Face, downloading it where it is not here yet.

    A stopped download goes on from where it was when asked for again.

    Raises
    ------
    CheckpointError
        Saying how to get access or what to do without a network.
    Cancelled
        When ``should_stop()`` said so.
    """
    repo, revision, file = parts_of(location)
    if not file.endswith(_ENDING):
        raise CheckpointError(f"{file} of {repo} is no safetensors file, so it is not fetched")
    hub = _library()
    offline = is_offline()
    try:
        found = hub.hf_hub_download(
            repo,
            file,
            revision=revision,
            local_files_only=offline,
            tqdm_class=_bar(file, on_progress, should_stop),
        )
    except Cancelled:
        raise
    except Exception as error:
        raise CheckpointError(explained(error, repo, offline=offline)) from error
    if should_stop is not None and should_stop():
        raise Cancelled
    return Path(found)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra(error, CheckpointError, "reading from Hugging Face", "hub") from error
    return huggingface_hub


def _listed_files(
    source: str, repo: str, revision: str | None, cache: SummaryCache
) -> Iterator[CheckpointSummary]:
    """Read headers over the network, and of each file only those.

    Raises
    ------
    CheckpointError
        When the repository cannot be read.
    """
    hub = _library()
    try:
        # One request without retries: the library's errors differ by version and HTTP library
        info = hub.HfApi().model_info(
            repo, revision=revision, files_metadata=True, timeout=_PATIENCE
        )
    except Exception as error:
        from_cache = list(_cached_files(source, repo, revision, absent_is_error=False))
        if not from_cache:
            raise CheckpointError(explained(error, repo, offline=False)) from error
        yield from from_cache
        return
    changed = info.last_modified.isoformat(timespec="seconds") if info.last_modified else ""
    for entry in sorted(info.siblings or (), key=lambda entry: entry.rfilename):
        file = entry.rfilename
        if not file.endswith(_ENDING):
            continue
        bare = CheckpointSummary(f"{source}:{file}", size=entry.size or 0, created=changed)
        state = f"{entry.blob_id}"
        summary = cache.get(bare.location, state)
        if summary is None:
            try:
                summary = _read_remotely(hub, bare, repo, info.sha, file)
            except CheckpointError as error:
                yield dataclasses.replace(bare, problem=str(error))
                continue
            cache.put(state, summary)
        yield summary


def _read_remotely(
    hub: Any, bare: CheckpointSummary, repo: str, revision: str | None, file: str
) -> CheckpointSummary:
    try:
        read = hub.HfApi().parse_safetensors_file_metadata(repo, file, revision=revision)
    except hub.errors.SafetensorsParsingError as error:
        reason = str(error).splitlines()[0]
        return dataclasses.replace(bare, problem=f"{file} of {repo} is damaged: {reason}")
    except Exception as error:
        raise CheckpointError(explained(error, repo, offline=False)) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in read.tensors.items()}
    try:
        return of_safetensors(bare, read.metadata, shapes)
    except CheckpointError as error:
        return dataclasses.replace(bare, problem=str(error))


def _cached_files(
    source: str, repo: str, revision: str | None, *, absent_is_error: bool = True
) -> Iterator[CheckpointSummary]:
    """Read what was downloaded before.

    Raises
    ------
    CheckpointError
        When nothing of the repository was, and that is an error.
    """
    hub = _library()
    try:
        caches = hub.scan_cache_dir(hub.constants.HF_HUB_CACHE).repos
    except hub.errors.CacheNotFound:
        caches = frozenset()
    wanted = revision or "main"
    for cached in caches:
        if cached.repo_id != repo or cached.repo_type != "model":
            continue
        for one in cached.revisions:
            if wanted not in one.refs and not one.commit_hash.startswith(wanted):
                continue
            for file in sorted(one.files, key=lambda file: str(file.file_path)):
                name = file.file_path.relative_to(one.snapshot_path).as_posix()
                if name.endswith(_ENDING):
                    here = summarise(file.file_path)
                    yield dataclasses.replace(here, location=f"{source}:{name}")
            return
    if absent_is_error:
        raise CheckpointError(
            f"{repo} is not on this machine, and we are offline; fetch it where there is a "
            f"network with `hf download {repo}`"
        )


def _bar(file: str, on_progress: ProgressCallback | None, should_stop: StopCallback | None) -> type:
    """Return what huggingface_hub takes for a progress bar, made of our two callbacks."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any):
            super().__init__(total=total, initial=initial, disable=True)
            self.n, self.total = initial, total

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if should_stop is not None and should_stop():
                raise Cancelled
            if on_progress is not None:
                done, total = int(self.n), int(self.total or 0)
                on_progress(done, total, f"fetching {file}, {done / 1e6:.0f} MB")

    return Bar
