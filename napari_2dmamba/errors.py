"""Errors a user can act on.

Every message is one sentence or two that name the file, what was found, what was
expected and what to do. The command line prints it, a widget shows it: the same words.
"""


class UserError(Exception):
    """Something the user can mend; the message says how."""


class SlideError(UserError):
    """A slide cannot be opened, or its pixels cannot be read or analysed."""


class MissingMppError(SlideError):
    """The slide states no usable µm per pixel, and none was given."""


class GridError(UserError):
    """Patches do not fit the grid: two in one cell, or some off the canvas."""


class TissueError(UserError):
    """No tissue, or no patch on tissue, was found."""


class FeatureError(UserError):
    """Features cannot be computed, read or written, or do not fit the request."""


class CheckpointError(UserError):
    """A checkpoint is damaged, unsafe, or does not fit the model or the features."""


class BackendError(UserError):
    """A requested device or kernel backend does not work here."""


class ExportError(UserError):
    """A result cannot be written or read back."""


class Cancelled(Exception):
    """The user asked the running job to stop; finished work is kept."""
