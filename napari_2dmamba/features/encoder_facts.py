"""What a user weighs when choosing an encoder: one record for every kind. Loads no torch.

Forms and the page of the docs (`docs/encoder_table.py`) are made from these; how fast an encoder
is on this machine is measured, and in `encoder_speed`.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from napari_2dmamba.features.encoder_catalog import BY_FILE, CATALOG
from napari_2dmamba.features.encoder_names import EMBEDDED_ENCODER, Access


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of an encoder before it is loaded.

    Attributes
    ----------
    name
        As `load_encoder` takes it.
    title, network
        What it is called, and its architecture as papers write it; "" where it is not stated.
    access
        What it takes to use it.
    licence
        Of the weights.
    page
        Where the maker gives it out, "" for the embedded one.
    feature_size
        D, features per patch.
    input_size
        Side in pixels of what the network sees; None where it takes any.
    mpp
        µm per pixel it was made for; None where the maker states none.
    millions
        Parameters in millions; None where they are not known here.
    """

    name: str
    title: str
    network: str
    access: Access
    licence: str
    page: str
    feature_size: int
    input_size: int | None
    mpp: float | None
    millions: float | None

    @property
    def megabytes(self) -> int | None:
        """Size of the weights in float32, in MB; what is fetched may be smaller or larger."""
        return None if self.millions is None else round(4 * self.millions)

    @property
    def size_words(self) -> str:
        """Its size in a few words."""
        if self.millions is None:
            return "not known here"
        if not self.millions:
            return "no weights, nothing to download"
        return f"{self.millions:,} M parameters, {self.megabytes:,} MB in float32"

    @property
    def input_words(self) -> str:
        """What it sees, in a few words."""
        pixels = "any size" if self.input_size is None else f"{self.input_size} px"
        scale = "scale not stated" if self.mpp is None else f"{self.mpp:g} µm/px"
        return f"{pixels}, {scale}"

    def needs(self, *, has_weights: bool = False) -> str:
        """Say in a few words what it takes to use it here.

        Parameters
        ----------
        has_weights
            Whether a file with its weights is given.
        """
        if self.access is Access.AT_ONCE:
            return "nothing: works at once, without a network"
        if self.access is Access.BY_FILE:
            return "an export to a file first"
        if not _runs_networks():
            return "what runs it to be installed first"
        if has_weights:
            return "nothing more: weights from the file you gave"
        if self.access is Access.GATED:
            return "its licence accepted, a login, and a network at first use"
        return "a network at first use, no account"

    def to_do(self, *, has_weights: bool = False) -> str:
        """Say what the user has to do before it can be used; empty where that is nothing."""
        if self.access is Access.AT_ONCE:
            return ""
        if self.access is Access.BY_FILE:
            return BY_FILE[self.name].how
        if not _runs_networks():
            return f'install what runs {self.title}: pip install "napari-2dmamba[encoders]"'
        if self.access is Access.PUBLIC or has_weights:
            return ""
        return (
            f"{self.title} is behind a licence. Accept it with your Hugging Face account at "
            f"{self.page}, then log in once with `hf auth login`; or give the weights as a file"
        )


def _runs_networks() -> bool:
    return find_spec("timm") is not None


def about_encoder(name: str) -> str:
    """Say what an encoder is and what it takes to use it; empty where nothing is known of it."""
    facts = facts_of(name)
    if facts is None:
        return ""
    network = f"{facts.network}, " if facts.network else ""
    what = (
        f"{facts.title} ({network}{facts.feature_size} features; {facts.input_words}; "
        f"{facts.size_words}; {facts.licence}). It needs {facts.needs()}"
    )
    return ". ".join(filter(None, (what, facts.page, facts.to_do())))


def facts_of(name: str) -> EncoderFacts | None:
    """Return the facts of an encoder; None for those of files, timm and other packages."""
    if name == EMBEDDED_ENCODER:
        return EncoderFacts(
            name, "Stain and texture", "", Access.AT_ONCE, "MIT (part of napari-2dmamba)", "", 102,
            None, 0.5, 0.0,
        )  # fmt: skip
    if name in BY_FILE:
        out = BY_FILE[name]
        return EncoderFacts(
            name, out.title, "", Access.BY_FILE, out.licence, out.page, out.feature_size,
            out.input_size, None, None,
        )  # fmt: skip
    if name not in CATALOG:
        return None
    entry = CATALOG[name]
    return EncoderFacts(
        name,
        entry.title,
        entry.network,
        Access.GATED if entry.gated else Access.PUBLIC,
        entry.licence,
        entry.page,
        entry.feature_size,
        entry.input_size,
        entry.mpp,
        entry.millions,
    )


def catalogued() -> dict[Access, list[EncoderFacts]]:
    """Return the facts of all encoders that have them, by what they take."""
    found: dict[Access, list[EncoderFacts]] = {access: [] for access in Access}
    for name in (EMBEDDED_ENCODER, *CATALOG, *BY_FILE):
        facts = facts_of(name)
        assert facts is not None
        found[facts.access].append(facts)
    return found


@dataclass(frozen=True)
class Wanted:
    """What wants a certain encoder, and what it states of it.

    Attributes
    ----------
    encoder, feature_size, mpp
        Its name, how many features a patch has, and the resolution of the patches in µm per
        pixel; None where it is not stated.
    by
        A checkpoint that was trained on it, or slides whose features are there already.
    """

    encoder: str | None
    feature_size: int | None
    mpp: float | None
    by: Literal["checkpoint", "slides"] = "checkpoint"


_WORDS = {
    "checkpoint": ("trained on", "states", "takes", "its"),
    "slides": ("computed by", "state", "have", "their"),
}


def against(name: str, wanted: Wanted) -> tuple[bool | None, str]:
    """Say whether an encoder, by its name, is what is wanted.

    Returns
    -------
    Whether it is (None where not enough is stated), and a sentence.
    """
    facts = facts_of(name)
    trained_on, states, takes, its = _WORDS[wanted.by]
    encoder, size = wanted.encoder, wanted.feature_size
    if encoder == name:
        if facts is not None and size not in (None, facts.feature_size):
            return False, (
                f"mismatch: {trained_on} {name}, but {takes} {size} features, and {name} gives "
                f"{facts.feature_size}"
            )
        scale = "" if wanted.mpp is None else f", on patches at {wanted.mpp:g} µm/px"
        return True, f"match: {trained_on} {name}{scale}"
    if encoder is not None:
        return False, f"mismatch: {trained_on} {_printable(encoder)}"
    if size is None:
        return None, f"{states} neither encoder nor number of features"
    if facts is None:
        return None, f"{states} no encoder; {takes} {size} features"
    if facts.feature_size != size:
        return False, f"mismatch: {takes} {size} features, and {name} gives {facts.feature_size}"
    return None, f"{states} no encoder; {its} {size} features agree"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name[:120])
