"""Published tables of slides and labels, told from their columns.

`docs/training.md` says where each comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from napari_2dmamba.errors import TaskError

ROLES = (
    "slide", "features", "patient", "label", "time", "event", "censored", "fold", "split", "mpp",
    "regions",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How the columns of a published table are meant.

    Attributes
    ----------
    name
        For people.
    columns
        Column of each role, normalised (`normalised`).
    needs
        Roles without which a table is not of this layout.
    kind
        What is learnt from it, or None where that follows from the roles.
    remark
        What a reader of the numbers should know of it.
    """

    name: str
    columns: dict[str, str]
    needs: tuple[str, ...]
    kind: str | None = None
    remark: str = ""


def normalised(column: str) -> str:
    """Return a column's name in lower case with single underscores for what parts words."""
    words = "".join(c if c.isalnum() else " " for c in column.lower()).split()
    return "_".join(words)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


LAYOUTS = (
    Layout(
        "TCGA survival",
        {
            "slide": "slide_id",
            "patient": "case_id",
            "time": "survival_months",
            "censored": "censorship",
        },
        ("slide", "time", "censored"),
        "survival",
    ),
    Layout(
        "CLAM",
        {"slide": "slide_id", "patient": "case_id", "label": "label"},
        ("slide", "patient", "label"),
    ),
    Layout(
        "PANDA",
        {"slide": "image_id", "label": "isup_grade"},
        ("slide", "label"),
        "ordinal",
        "PANDA names no patients, so slides of one patient may stand on both sides of the split",
    ),
    Layout(
        "BRACS",
        {
            "slide": "wsi_filename",
            "patient": "patient_id",
            "label": "wsi_label",
            "split": "set",
        },
        ("slide", "label"),
    ),
    Layout(
        "DHMC",
        {"slide": "file_name", "patient": "patient_id", "label": "class", "split": "data_split"},
        ("slide", "label"),
    ),
    Layout(
        "DHMC kidney",
        {
            "slide": "file_name",
            "patient": "patient_id",
            "label": "diagnosis",
            "split": "data_split",
        },
        ("slide", "label"),
    ),
    Layout(
        "BCNB",
        {"slide": "patient_id", "patient": "patient_id", "label": "aln_status"},
        ("slide", "label"),
        remark="one slide per patient, named by the patient's number",
    ),
)
"""The published ones; the first whose needed columns are all there is taken."""


@dataclass(frozen=True)
class Columns:
    """The column of each role in one table, as the table spells it."""

    layout: Layout
    names: dict[str, str] = field(default_factory=dict)

    def get(self, row: dict[str, str], role: str) -> str:
        """Return the cell of a role, empty where the table has none."""
        return row[self.names[role]].strip() if role in self.names else ""


def columns_of(
    header: Sequence[str],
    where: str,
    *,
    label_column: str | None = None,
    patient_column: str | None = None,
) -> Columns:
    """Tell a table's layout from the names of its columns.

    Raises
    ------
    TaskError
        When it is of no known layout, or a named column is not there.
    """
    spelt = {normalised(name): name for name in header}
    if len(spelt) < len(header):
        raise TaskError(f"{where} has two columns of one name; rename or delete one of them")
    asked = {"label": label_column, "patient": patient_column}
    given = {}
    for role, name in asked.items():
        if name is None:
            continue
        if normalised(name) not in spelt:
            raise TaskError(
                f"{where} has no column {name!r}, only {', '.join(header)}; name one of these"
            )
        given[role] = spelt[normalised(name)]

    def has(layout: Layout, role: str) -> bool:
        return layout.columns.get(role) in spelt or role in given

    for layout in (*_OWN, *LAYOUTS):
        if not all(has(layout, role) for role in layout.needs):
            continue
        names = {role: spelt[column] for role, column in layout.columns.items() if column in spelt}
        names |= given
        if "patient" not in names:
            same = next((spelt[n] for n in _PATIENT if n in spelt), None)
            names |= {} if same is None else {"patient": same}
        return Columns(layout, names)
    raise TaskError(
        f"{where} has the columns {', '.join(header)}, which is no layout known here; name the "
        "columns slide (or features), patient, and label (or time and event), or give the "
        "label's column"
    )


_PATIENT = ("patient", "patient_id", "case", "case_id")
_OWN = tuple(
    Layout("manifest", _same(*ROLES), needs)
    for needs in (
        ("slide", "time", "event"),
        ("features", "time", "event"),
        ("slide", "label"),
        ("features", "label"),
    )
)
