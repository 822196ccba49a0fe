"""Write the tables of docs/encoders.md from the catalogue: python docs/encoder_table.py."""

from pathlib import Path

from napari_2dmamba.features.encoder_facts import EncoderFacts, catalogued
from napari_2dmamba.features.encoder_names import Access

PAGE = Path(__file__).with_name("encoders.md")
BEGIN, END = "<!-- made by encoder_table.py -->\n", "<!-- end -->\n"


HEADINGS = {
    Access.AT_ONCE: "At once, without a network",
    Access.PUBLIC: "Public: fetched at first use, no account",
    Access.GATED: "Behind a licence: accept it on the page, then log in",
    Access.BY_FILE: "Code of its maker: export it to a file first",
}


def tables() -> str:
    """Return the tables in Markdown."""
    return "\n".join(_table(HEADINGS[access], found) for access, found in catalogued().items())


def _table(title: str, encoders: list[EncoderFacts]) -> str:
    rows = [
        f"### {title}\n\n",
        "| name | encoder | network | features | input, px | µm/px | parameters | in memory "
        "| licence of the weights |\n|---|---|---|--:|--:|--:|--:|--:|---|\n",
    ]
    for e in encoders:
        mpp = "not stated" if e.mpp is None else f"{e.mpp:g}"
        size = "not known here" if e.millions is None else f"{e.millions:,} M"
        memory = "" if e.megabytes is None else f"{e.megabytes:,} MB"
        rows.append(
            f"| `{e.name}` | {f'[{e.title}]({e.page})' if e.page else e.title} "
            f"| {e.network or '-'} | {e.feature_size} | {e.input_size or 'any'} | {mpp} "
            f"| {size if e.millions != 0 else 'none'} | {memory} | {e.licence} |\n"
        )
    return "".join(rows)


def page_with_tables(text: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
