"""What training and evaluation need besides the package itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from napari_2dmamba.errors import TaskError


@contextmanager
def training_installed() -> Iterator[None]:
    """Say how to install what a command of this kind needs, where it is not there.

    Raises
    ------
    TaskError
        In place of an `ImportError`.
    """
    try:
        yield
    except ImportError as error:
        raise TaskError(
            f'training is not installed ({error}); run pip install "napari-2dmamba[training]"'
        ) from error
