"""Write the tables of docs/encoders.md from the catalogue: python docs/encoder_table.py."""

from pathlib import Path

from napari_2dmamba.features.encoder_catalog import BY_FILE, CATALOG
from napari_2dmamba.features.encoder_names import Access, grouped_encoders

PAGE = Path(__file__).with_name("encoders.md")
BEGIN, END = "<!-- made by encoder_table.py -->\n", "<!-- end -->\n"


def tables() -> str:
    """Return the tables in Markdown."""
    groups = grouped_encoders()
    parts = [
        _catalogued("Public: fetched at first use, no account", groups[Access.PUBLIC]),
        _catalogued("Behind a licence: accept it on the page, then log in", groups[Access.GATED]),
        "### Code of its maker: export it to a file first\n\n"
        "| name | encoder | features | input, px | licence |\n|---|---|--:|--:|---|\n",
    ]
    parts += [
        f"| `{name}` | [{e.title}]({e.page}) | {e.feature_size} | {e.input_size} | {e.licence} |\n"
        for name, e in BY_FILE.items()
    ]
    return "".join(parts)


def _catalogued(title: str, names: tuple[str, ...]) -> str:
    rows = [
        f"### {title}\n\n",
        "| name | encoder | network | features | input, px | µm/px | parameters | in memory "
        "| licence of the weights |\n|---|---|---|--:|--:|--:|--:|--:|---|\n",
    ]
    for name in names:
        e = CATALOG[name]
        mpp = "not stated" if e.mpp is None else f"{e.mpp:g}"
        rows.append(
            f"| `{name}` | [{e.title}]({e.page}) | {e.network} | {e.feature_size} | {e.input_size} "
            f"| {mpp} | {e.millions:,} M | {e.megabytes:,} MB | {e.licence} |\n"
        )
    return "".join(rows) + "\n"


def page_with_tables(text: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
