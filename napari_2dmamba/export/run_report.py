"""A run on one page for a case conference: an HTML file that needs nothing else.

Whoever opens it has no viewer, so it holds what the viewer shows: slide and map with their scales,
the patches that scored highest, every number with its unit, what made them, and what to mistrust.
Like all exports it names files and no places, and holds neither label nor macro image.
"""

import base64
import io
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.display import display_for, format_value, top_patches
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.raster import OverlayPainter, Raster, SlidePainter, raster_at
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.export.report_figures import Mark, colour_bar, slide_figure
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.redaction import file_names_only
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide.regions import Regions

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

TOP = 8
"""Patches that are shown as pictures."""

_LONGEST_SIDE = 1500  # pixels of the two large pictures
_LONGEST_SIDE_OF_MORE = 900
_PATCH_SIDE = 300
_ROWS = 256

_STYLE = """
@page{size:A4;margin:14mm}
*{box-sizing:border-box}
body{font:14px/1.45 system-ui,"Segoe UI","DejaVu Sans",sans-serif;color:#1d2129;max-width:1120px;
margin:1.6em auto;padding:0 1.2em;-webkit-print-color-adjust:exact;print-color-adjust:exact}
header{border-bottom:2px solid #1d2129;padding-bottom:.5em}
h1{font-size:1.55em;margin:0;overflow-wrap:anywhere}
h2{font-size:1.1em;margin:1.7em 0 .5em;border-bottom:1px solid #d5d9e0;break-after:avoid}
.quiet{color:#5b6472;font-size:.88em}
.use{background:#fff4d6;border-left:4px solid #d99a00;padding:.45em .8em;margin:.9em 0}
.verdict{font-size:1.45em;font-weight:650;margin:.5em 0 .3em;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th,td{padding:.2em .9em .2em 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{color:#5b6472;font-weight:600;white-space:nowrap}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap;width:6em;text-align:right}
.bar{background:#e8ebf0;height:.85em;border-radius:2px;min-width:9em;margin-top:.28em}
.bar div{background:#3b6ea8;height:100%;border-radius:2px}
.two{display:grid;grid-template-columns:1fr 1fr;gap:1.2em;align-items:start}
.facts{display:grid;grid-template-columns:1fr 1fr;gap:0 2em;align-items:start}
.facts th{width:34%}
.patches{display:grid;grid-template-columns:repeat(4,1fr);gap:.9em}
figure{margin:0;break-inside:avoid}
figcaption{font-size:.86em;margin-top:.25em;overflow-wrap:anywhere}
figure>svg{width:100%;height:auto;max-height:200mm;display:block}
.patches img{width:100%;display:block;border:1px solid #d5d9e0}
code{font:.86em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
li{margin:.2em 0}
@media(max-width:640px){.two,.facts{grid-template-columns:1fr}
.patches{grid-template-columns:1fr 1fr}}
@media print{body{font-size:9.5pt;margin:0;padding:0;max-width:none}section{break-inside:auto}
figure>svg{max-height:105mm}tr,li{break-inside:avoid}}
"""


def write_run_report(
    saved: SavedRun,
    slide: "Slide",
    path: str | os.PathLike[str],
    *,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    saved
        The run. The first of its maps stands beside the slide, the others follow.
    slide
        The slide of the run, opened with the run's µm per pixel.
    path
        Ends in ``.html``.
    on_progress, should_stop
        Called between pictures, and between strips of the large ones.

    Raises
    ------
    ExportError
        When the slide is not that of the run or has no natural colours, or the file cannot be
        written.
    SlideError
        When a patch that is shown cannot be decoded.
    Cancelled
        When ``should_stop`` says so; no file is left.
    """
    saved.check_slide(slide)
    page = _Page(saved, slide, on_progress, should_stop)
    text = page.text()
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


class _Page:
    def __init__(
        self,
        saved: SavedRun,
        slide: "Slide",
        on_progress: ProgressCallback | None,
        should_stop: StopCallback | None,
    ) -> None:
        self.saved, self.slide = saved, slide
        self.record: RunRecord = saved.record.without_paths()
        self.mpp = self.record.slide.mpp
        self._on_progress, self._should_stop = on_progress, should_stop
        self.top = top_patches(saved.prediction.attention, TOP)
        self._steps, self._done = 2 + len(self.top) + len(saved.maps[1:]), 0

    def text(self) -> str:
        title = escape(f"{self.record.slide.name}: report of a run")
        parts = (
            self._head(), self._verdict(), self._pictures(), self._patches(), self._more_maps(),
            self._numbers(), self._regions(), self._caveats(), self._provenance(),
        )  # fmt: skip
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
            f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
            + "\n".join(part for part in parts if part)
            + f'\n<p class="quiet">Written by napari-2dmamba {escape(__version__)}. Research use '
            "only.</p></body></html>\n"
        )

    # -- what the run says --------------------------------------------------------------------

    def _head(self) -> str:
        record, model = self.record, self.record.model
        words = [f"Run of {record.started:%d %B %Y, %H:%M %Z}", f"model {model.name}"]
        if record.title:
            words.insert(0, record.title)
        use = "Research use only: not for diagnosis or any other medical use."
        if model.intended_use:
            use += f" What the model says of itself: {model.intended_use}"
        notes = f"<p>{_lines(record.notes)}</p>" if record.notes else ""
        return (
            f"<header><h1>{escape(record.slide.name)}</h1>"
            f'<div class="quiet">{escape(" · ".join(words))}</div></header>'
            f'<p class="use">{escape(use)}</p>{notes}'
        )

    def _verdict(self) -> str:
        result = self.record.result
        if result.probabilities is not None:
            rows = [
                _bar_row(name, value)
                for name, value in zip(result.class_names, result.probabilities, strict=True)
            ]
            best = int(np.argmax(result.probabilities))
            words = f"{result.class_names[best]}: {_percent(result.probabilities[best])}"
            what = "Probability of each class, as the model computes it. It is no frequency in "
            what += "patients unless the model was calibrated on such."
        else:
            rows = [
                _bar_row(f"to the end of {name}", value)
                for name, value in self.saved.prediction.survival_by_bin.items()
            ]
            words = "" if result.risk is None else f"Risk {result.risk:.3f}"
            what = "Share that survives, by time bin; the risk is minus the sum of these shares."
            if len(result.class_names) == 1:
                what = "The risk is the logarithm of a hazard relative to the model's baseline."
            elif len(rows) < len(result.class_names):
                spare = len(result.class_names) - len(rows)
                what = "Share that survives, by time bin. The risk is minus the sum of these and "
                what += f"of {spare} outputs that no time bin was trained on, as published."
        return (
            f'<section><h2>Answer of the model</h2><p class="verdict">{escape(words)}</p>'
            f'<table>{"".join(rows)}</table><p class="quiet">{what}</p></section>'
        )

    def _pictures(self) -> str:
        raster = raster_at(self.slide, None, longest_side=_LONGEST_SIDE)
        slide = self._painted(SlidePainter(self.slide, raster), raster)
        marks = [
            Mark(str(number), *(int(v) for v in self.saved.grid.coords[index]))
            for number, index in enumerate(self.top, start=1)
        ]
        side = self.saved.grid.patch_size_level0
        left = slide_figure(_jpeg(slide), raster, marks=marks, patch_size=side)
        said = f"The slide. Numbers: the {len(marks)} patches of highest attention, shown below."
        figures = f"<figure>{left}<figcaption>{said}</figcaption></figure>"
        if self.saved.maps:
            figures += self._map_figure(self.saved.maps[0], _LONGEST_SIDE)
        else:
            self._step()
        return f'<section><h2>Slide and map</h2><div class="two">{figures}</div></section>'

    def _map_figure(self, grid_map: GridMap, longest_side: int) -> str:
        raster = raster_at(self.slide, None, longest_side=longest_side)
        display = display_for(grid_map, self.saved.display)
        painter = OverlayPainter(self.slide, grid_map, display, raster, lines=True)
        picture = slide_figure(_jpeg(self._painted(painter, raster)), raster)
        said = f"{grid_map.name}: {grid_map.meaning.rstrip('.')}."
        return (
            f"<figure>{picture}{colour_bar(grid_map, display)}"
            f"<figcaption>{escape(file_names_only(said))}</figcaption></figure>"
        )

    def _patches(self) -> str:
        figures = []
        for number, index in enumerate(self.top, start=1):
            x, y = (int(value) for value in self.saved.grid.coords[index])
            row, col = (int(value) for value in self.saved.grid.cells[index])
            words = [f"attention {format_value(float(self.saved.prediction.attention[index]))}"]
            tissue = float(self.saved.grid.tissue_fraction[index])
            if math.isfinite(tissue):
                words.append(f"{tissue:.0%} tissue")
            place = f"row {row}, column {col}; corner at x {x}, y {y} px of level 0"
            if self.mpp is not None:
                place += f" ({x * self.mpp / 1e3:.2f}, {y * self.mpp / 1e3:.2f} mm)"
            figures.append(
                f'<figure><img src="{_jpeg(self._patch(x, y))}" alt="patch {number}"/>'
                f"<figcaption><b>{number}</b> · {escape(', '.join(words))}<br/>"
                f'<span class="quiet">{escape(place)}</span></figcaption></figure>'
            )
            self._step()
        side = self.saved.grid.patch_size_level0
        width = f"{side} px of level 0"
        if self.mpp is not None:
            width = f"{side * self.mpp:.4g} µm ({width})"
        return (
            f"<section><h2>The {len(figures)} patches of highest attention</h2>"
            f'<div class="patches">{"".join(figures)}</div>'
            f'<p class="quiet">Each is {escape(width)} wide. Attention: '
            f"{escape(file_names_only(self.saved.prediction.attention_meaning))}.</p></section>"
        )

    def _more_maps(self) -> str:
        if len(self.saved.maps) < 2:
            return ""
        figures = [self._map_figure(one, _LONGEST_SIDE_OF_MORE) for one in self.saved.maps[1:]]
        return f'<section><h2>Further maps</h2><div class="two">{"".join(figures)}</div></section>'

    def _numbers(self) -> str:
        record, grid = self.record, self.saved.grid
        size = record.slide.dimensions_level0_px or self.slide.dimensions
        pixels = f"{size[0]:,} x {size[1]:,} px".replace(",", " ")
        resolution = "unknown: everything is counted in pixels"
        if self.mpp is not None:
            pixels += f" ({size[0] * self.mpp / 1e3:.2f} x {size[1] * self.mpp / 1e3:.2f} mm)"
            resolution = (
                f"{self.mpp:.6g} µm/px ({record.slide.mpp_source or 'source not recorded'})"
            )
        patch = f"{grid.patch_size} px"
        if grid.mpp is not None:
            patch += f" at {grid.mpp:.6g} µm/px"
        patch += f" = {grid.patch_size_level0} px of level 0"
        features = f"{record.features.encoder or 'encoder not stated'}, {record.features.size} each"
        features += ", from a file" if record.features.given else ", computed by the run"
        rows, cols = self.saved.prediction.canvas
        mass = record.result.background_mass
        facts = {
            "Slide, level 0": pixels,
            "Resolution": resolution,
            "Patches": f"{len(grid):,}".replace(",", " "),
            "Patch": patch,
            "Tissue": self._tissue(),
            "Canvas of the model": f"{rows} rows x {cols} columns",
            "Features": features,
            "Attention on background": None if mass is None else f"{mass:.1%}",
        }
        return f'<section><h2>Numbers</h2><div class="facts">{_facts(facts)}</div></section>'

    def _tissue(self) -> str:
        grid = self.saved.grid
        if not np.isfinite(grid.tissue_fraction).all():
            return "not measured (the features came from a file)"
        share = float(grid.tissue_fraction.astype(np.float64).mean())
        if self.mpp is None:
            return f"{share:.0%} of the patches' area"
        area = share * len(grid) * (grid.patch_size_level0 * self.mpp / 1e3) ** 2
        return f"{area:.3g} mm² within the patches ({share:.0%} of their area)"

    def _regions(self) -> str:
        regions = self.saved.regions or Regions()
        said = ""
        if not regions.include:
            said = "<p>All tissue of the slide was analysed"
            said += ", but for what is left out.</p>" if regions.exclude else ".</p>"
        if not regions:
            return f"<section><h2>Regions</h2>{said}</section>"
        words = {"include": "analysed", "exclude": "left out"}
        rows = []
        for region in regions.regions:
            area = float(region.geometry.area)
            unit = "px of level 0"
            if self.mpp is not None:
                area, unit = area * self.mpp**2 / 1e6, "mm²"
            named = [file_names_only(text) for text in (region.name, region.classification) if text]
            cells = [
                ", ".join(named) or "unnamed",
                words.get(region.role, "a note, which restricts nothing"),
                f"{area:.4g} {unit}" if area else "",
            ]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "<tr><th>Region</th><th>Role</th><th>Area</th></tr>"
        return f"<section><h2>Regions</h2>{said}<table>{head}{''.join(rows)}</table></section>"

    def _caveats(self) -> str:
        record = self.record
        found = [
            "Attention says which patches the model weighed. It does not say that they show "
            "disease, nor that the answer would change without them.",
            *record.warnings,
            *_texts(record.features.source.get("remarks")),
        ]
        told = {**record.model.told, **_given(record.settings.get("feature_file"))}
        if told:
            words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
            found.append(f"Given by the user, since no file says it: {words}.")
        if self.mpp is None:
            found.append("The slide states no µm per pixel: the model may see another scale than "
                         "it was trained on.")  # fmt: skip
        items = "".join(f"<li>{escape(text)}</li>" for text in dict.fromkeys(found))
        return f"<section><h2>What to mistrust</h2><ul>{items}</ul></section>"

    def _provenance(self) -> str:
        record, model = self.record, self.record.model
        header = model.header
        versions = {**{k: v for k, v in record.software.items() if isinstance(v, str)}}
        packages = record.software.get("packages")
        if isinstance(packages, dict):
            versions |= {k: v for k, v in packages.items() if isinstance(v, str)}
        versions.pop("executable", None)
        seconds = None if record.seconds is None else f"{record.seconds:.1f} s"
        facts = {
            "Slide, fingerprint": _Code(record.slide.fingerprint),
            "Read by": record.slide.backend,
            "Checkpoint": model.checkpoint,
            "Checkpoint, SHA-256": _Code(model.checkpoint_sha256 or "not recorded"),
            "Architecture": header.get("architecture"),
            "Trained on": _trained(header),
            "Features, SHA-256": _Code(record.features.content_sha256 or "not recorded"),
            "Computed on": f"{model.device} ({model.device_name})" if model.device else None,
            "Started, finished": f"{record.started.isoformat()}, {record.finished.isoformat()}",
            "Time": seconds,
            **{f"Settings, {stage}": _settings(said) for stage, said in record.settings.items()},
            "Versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        }
        return f"<section><h2>What made it</h2>{_facts(facts, columns=1)}</section>"

    # -- pixels -------------------------------------------------------------------------------

    def _painted(self, painter: Any, raster: Raster) -> NDArray[np.uint8]:
        strips = []
        for top in range(0, raster.height, _ROWS):
            self._stop_if_asked()
            strips.append(painter((0, top, raster.width, min(top + _ROWS, raster.height))))
        self._step()
        return np.vstack(strips)

    def _patch(self, x: int, y: int) -> NDArray[np.uint8]:
        """Return a patch at the resolution the model saw it, or a little less."""
        self._stop_if_asked()
        side = self.saved.grid.patch_size_level0
        shown = min(self.saved.grid.patch_size, _PATCH_SIDE)
        level = self.slide.best_level(side / shown)
        down = self.slide.level_downsamples[level]
        pixels = self.slide.read_region(
            x, y, level, max(1, round(side / down)), max(1, round(side / down)), strict=True
        )
        picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        return np.asarray(picture.resize((shown, shown), Image.Resampling.BOX))

    def _stop_if_asked(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise Cancelled("the report was not written")

    def _step(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._steps, "Writing the report")


class _Code(str):
    """A text that is shown letter by letter, such as a checksum."""


def _facts(facts: dict[str, Any], columns: int = 2) -> str:
    """Return names and values as tables, one beside the other; without what is not known."""
    rows = []
    for name, value in facts.items():
        if value in (None, ""):
            continue
        shown = escape(str(value))
        if isinstance(value, _Code):
            shown = f"<code>{shown}</code>"
        rows.append(f"<tr><th>{escape(name)}</th><td>{shown}</td></tr>")
    size = -(-len(rows) // columns)
    parts = [rows[start : start + size] for start in range(0, len(rows), max(size, 1))]
    return "".join(f"<table>{''.join(part)}</table>" for part in parts)


def _percent(share: float) -> str:
    """Return a share in percent that never looks like certainty where there is none."""
    if 0 < share < 5e-5:
        return "< 0.01%"
    return "> 99.99%" if 1 - 5e-5 < share < 1 else f"{share:.2%}"


def _bar_row(name: str, share: float) -> str:
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<tr><td>{escape(name)}</td><td class="n">{escape(_percent(share))}</td>'
        f'<td><div class="bar"><div style="width:{width:.2f}%"></div></div></td></tr>'
    )


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    """Return pixels as an address that holds them; colours are not thinned out."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=90, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def _lines(text: str) -> str:
    return "<br/>".join(escape(line) for line in text.splitlines())


def _texts(value: Any) -> Iterable[str]:
    return [str(one) for one in value] if isinstance(value, Sequence) and value else []


def _given(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {}
    return {name: value for name, value in settings.items() if value is not None}


def _trained(header: dict[str, Any]) -> str:
    words = [str(header["encoder"])] if header.get("encoder") else []
    if header.get("patch_size"):
        words.append(f"patches of {header['patch_size']} px")
    if header.get("mpp"):
        words.append(f"{header['mpp']} µm/px")
    training = header.get("training")
    if isinstance(training, dict) and isinstance(training.get("data"), str):
        words.append(training["data"])
    return ", ".join(words)


def _settings(said: Any) -> str:
    if not isinstance(said, dict):
        return str(said)
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in said.items() if value is not None
    )
