import json
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.errors import GridError, UserError
from napari_2dmamba.explain_slide import explain_run
from tests.tiny import PATCH, write_checkpoint, write_slide


def test_a_slide_is_explained_and_saved(tmp_path: Path) -> None:
    from napari_2dmamba.export.run_folder import open_run

    slide = write_slide(tmp_path / "s.tif")
    model = write_checkpoint(tmp_path / "m.safetensors")
    at = (320 + 7.5 * PATCH, 256 + 4.5 * PATCH)
    names = ("provenance", "feeds", "erf", "gradient-x-input")
    found = explain_run(slide, model, names, at=at, out=tmp_path / "run")
    assert tuple(found.result.bag.coords[found.patch]) == (320 + 7 * PATCH, 256 + 4 * PATCH)
    assert list(found.maps) == list(names)
    provenance = found.maps["provenance"]
    assert provenance.values.shape == found.result.attention_map.values.shape == (10, 13)
    assert provenance.origin == found.result.attention_map.origin
    # the scan is causal: nothing comes from the right or from below
    assert (provenance.values[5:] == 0).all()
    assert (provenance.values[:, 8:] == 0).all()
    assert provenance.values[4, 7] > 0
    # of the slide, as tables and the viewer count: the canvas begins at row 4, column 5
    assert "enters the cell at row 8, column 12 through" in provenance.meaning
    assert "at row 8, column 12 enters each cell" in found.maps["feeds"].meaning
    assert (found.maps["feeds"].values[:4] == 0).all()
    saved = open_run(tmp_path / "run")
    assert [m.name for m in saved.maps][1:] == [m.name for m in found.maps.values()]
    np.testing.assert_array_equal(saved.maps[1].values, provenance.values)
    assert saved.maps[1].queries == ((320 + 7 * PATCH, 256 + 4 * PATCH),)
    assert saved.maps[1].quantity == saved.maps[2].quantity == "weight through the scan"
    record = json.loads((tmp_path / "run" / "run.json").read_text())["explanations"]
    query = record["queries"][0]
    assert (query["row"], query["col"]) == (8, 12), "counted as the maps' own words count"
    assert sorted(query["extents"]) == ["erf", "feeds", "provenance"]
    assert query["extents"]["erf"]["unit"] == "µm"
    assert query["extents"]["provenance"]["right"] == query["extents"]["feeds"]["left"] == 0
    with pytest.raises(GridError, match=r"no patch lies at x 5, y 5 of s\.tif"):
        explain_run(slide, model, names, at=(5, 5))
    with pytest.raises(UserError, match="there is no layer 2; this model has 1 to 1"):
        explain_run(slide, model, names, layer=2)
    with pytest.raises(UserError, match="there is no channel 99; the scan has 0 to 31"):
        explain_run(slide, model, names, channels=99)
    with pytest.raises(UserError, match="there is no map 'nonsense'; choose from provenance"):
        explain_run(slide, model, ("nonsense",))
