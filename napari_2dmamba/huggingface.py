"""What every use of the Hugging Face hub shares: being offline, and errors as sentences."""

import os

from napari_2dmamba.errors import UserError


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def page_of(repo: str) -> str:
    """Return the address of a repository's page."""
    return f"https://huggingface.co/{repo}"


def explained(error: Exception, repo: str, *, offline: bool, licence: str = "") -> str:
    """Return the sentence for an error of ``huggingface_hub``: how to get what was asked for.

    Parameters
    ----------
    error
        What it raised.
    repo
        ``owner/name``.
    offline
        Whether the network was left alone.
    licence
        Of what is fetched, where it is known.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = page_of(repo)
    if isinstance(error, GatedRepoError):
        terms = f" ({licence})" if licence else ""
        return (
            f"{repo} is given out on request: accept its licence{terms} at {page} with your "
            "Hugging Face account, then log in with `hf auth login` and start again"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"Hugging Face shows no repository {repo!r}: check the name, or log in with "
            "`hf auth login` if it is not public"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no such revision; {page} lists its branches and tags"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled) or _no_answer(error):
        how = "and we are offline" if offline else "and Hugging Face cannot be reached"
        return (
            f"{repo} is not on this machine, {how}; fetch it where there is a network with "
            f"`hf download {repo}`, or give the weights as a file"
        )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"{repo} cannot be fetched from {page}: {reason}"


def missing_extra(
    error: ImportError, refusal: type[UserError], what: str, extra: str = "encoders"
) -> UserError:
    """Return the error that says which extra to install for ``what``."""
    return refusal(
        f"{what} needs a package that is not installed ({error.name or error}); install "
        f'it with: pip install "napari-2dmamba[{extra}]"'
    )


def _no_answer(error: Exception) -> bool:
    """Whether nobody answered at all: the HTTP library of huggingface_hub differs by version."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectError", "TimeoutException", "ConnectionError", "Timeout"})
