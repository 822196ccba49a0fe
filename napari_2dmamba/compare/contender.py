"""Who takes part in a comparison, and whether all of them can share one bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.errors import CheckpointError, UserError
from napari_2dmamba.models.fit import MPP_TOLERANCE
from napari_2dmamba.models.settings import ModelSettings

if TYPE_CHECKING:
    from napari_2dmamba.models import Aggregator
    from napari_2dmamba.models.header import CheckpointHeader

SCORE = "score"
"""Name of the map that every model has: the score it gives each patch itself."""

FEWEST, MOST = 2, 6
"""Maps that one comparison holds."""


@dataclass(frozen=True)
class Contender:
    """A model and what it is asked for.

    Attributes
    ----------
    label
        Name in tables, maps and figures; each contender has another.
    checkpoint
        File of the model, or the loaded model.
    settings
        How it is run; None for the settings of the whole comparison.
    maps
        Its maps: `SCORE` is the score the model gives each patch (attention, where it has
        attention), other names are those of `explain.maps.MAPS`.
    checkpoint_settings
        What a published checkpoint does not hold, as `load_checkpoint` takes it.
    """

    label: str
    checkpoint: Path | Aggregator
    settings: ModelSettings | None = None
    maps: tuple[str, ...] = (SCORE,)
    checkpoint_settings: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Aggregator:
        """Return the model, loaded where it is not yet.

        Raises
        ------
        CheckpointError
            See `load_checkpoint`.
        """
        from napari_2dmamba.models import Aggregator, load_checkpoint

        if isinstance(self.checkpoint, Aggregator):
            return self.checkpoint
        return load_checkpoint(self.checkpoint, **self.checkpoint_settings)


def contenders_of(
    checkpoints: Sequence[tuple[Path, str | None]],
    maps: Sequence[str] = (SCORE,),
    *,
    settings: ModelSettings | None = None,
    checkpoint_settings: Mapping[str, Any] | None = None,
) -> list[Contender]:
    """Return contenders for files, each with its label or with the name of its architecture.

    Where two without a label are of one architecture, their file names tell them apart, and where
    these are the same, as ``fold0/best`` and ``fold1/best`` are, the names of their folders.

    Raises
    ------
    CheckpointError
        When a file cannot be loaded.
    """
    from napari_2dmamba.models import load_checkpoint

    given = checkpoint_settings or {}
    models = [load_checkpoint(path, **given) for path, _ in checkpoints]
    titles = [model.model.variant for model in models]
    stems = [path.stem for path, _ in checkpoints]

    def name_of(path: Path, title: str) -> str:
        if titles.count(title) == 1:
            return title
        alone = stems.count(path.stem) == 1
        return f"{title} ({path.stem if alone else f'{path.resolve().parent.name}/{path.stem}'})"

    return [
        Contender(label or name_of(path, title), model, settings, tuple(maps))
        for (path, label), model, title in zip(checkpoints, models, titles, strict=True)
    ]


def check_contenders(contenders: Sequence[Contender]) -> None:
    """Refuse what is no comparison, before anything is loaded.

    Raises
    ------
    UserError
        For too few or too many maps, a label that is there twice or empty, an unknown map.
    """
    from napari_2dmamba.explain.maps import MAPS

    if not contenders:
        raise UserError("no model was chosen; choose two to six, or several maps of one")
    labels = [contender.label for contender in contenders]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise UserError(f"two models have the label {twice[0]!r}; give each a label of its own")
    if not all(label.strip() for label in labels):
        raise UserError("a model has an empty label; give each model a label")
    for contender in contenders:
        unknown = [name for name in contender.maps if name != SCORE and name not in MAPS]
        if unknown:
            raise UserError(
                f"there is no map {unknown[0]!r} (asked of {contender.label}); choose from "
                f"{SCORE}, {', '.join(MAPS)}"
            )
        again = [name for name in contender.maps if contender.maps.count(name) > 1]
        if again or not contender.maps:
            raise UserError(
                f"{contender.label} is asked "
                + (f"twice for the map {again[0]!r}" if again else "for no map")
                + f"; name each map once, such as {SCORE}"
            )
    count = sum(len(contender.maps) for contender in contenders)
    if not FEWEST <= count <= MOST:
        raise UserError(
            f"{count} {'map was' if count == 1 else 'maps were'} chosen, and a comparison shows "
            f"{FEWEST} to {MOST}; choose {'another model or map' if count < FEWEST else 'fewer'}"
        )


def refuse_strangers(labels: Sequence[str], headers: Sequence[CheckpointHeader]) -> tuple[str, ...]:
    """Refuse models that cannot share one bag.

    What a model does not state is not compared, as when a single model meets a bag.

    Returns
    -------
    One sentence for each model and thing that could not be compared.

    Raises
    ------
    CheckpointError
        Naming the two models and in what they differ.
    """
    things = (
        ("encoder", [h.encoder for h in headers], ""),
        ("feature size", [h.feature_size for h in headers], ""),
        ("patch size", [h.patch_size for h in headers], " px"),
        ("resolution", [h.mpp for h in headers], " µm/px"),
    )
    unknown = []
    for what, values, unit in things:
        known = [(label, v) for label, v in zip(labels, values, strict=True) if v is not None]
        if not known:
            continue
        unknown += [
            f"{label} does not state its {what}, so it was not compared"
            for label, v in zip(labels, values, strict=True)
            if v is None
        ]
        first_label, first = known[0]
        for label, value in known[1:]:
            alike = (
                abs(value - first) <= MPP_TOLERANCE * first  # type: ignore[operator]
                if what == "resolution"
                else value == first
            )
            if not alike:
                raise CheckpointError(
                    f"{label} was trained with {what} {value}{unit}, and {first_label} with "
                    f"{first}{unit}, so they cannot run on the same patches; compare models "
                    "that were trained on the same features"
                )
    return tuple(unknown)
