"""The patches of a run as AnnData: what scanpy, squidpy and LazySlide's users work with.

One observation per patch. ``X`` holds the features, ``obs`` places and scores with units in their
names, ``obsm["spatial"]`` the centres of the patches in level-0 pixels, as squidpy wants them, and
``obsm["spatial_um"]`` the same in µm. ``uns["spatial"]`` has a thumbnail, never a label or macro
image, and ``uns["napari_2dmamba"]`` what made it all, as JSON without places of files.
"""

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import display_for
from napari_2dmamba.export.content_hash import features_hash
from napari_2dmamba.export.patches import PatchScores
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.features.file_facts import OWN_ATTRIBUTE

if TYPE_CHECKING:
    from anndata import AnnData

    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.slide import Slide

_THUMBNAIL = 1200  # px


def write_anndata(
    saved: SavedRun,
    scores: PatchScores,
    path: str | os.PathLike[str],
    *,
    slide: "Slide",
    features: "FeatureBag | None" = None,
) -> Path:
    """Write the patches of a run to ``.h5ad``.

    Parameters
    ----------
    saved, scores
        The run, and its patches with their scores.
    path
        Ends in ``.h5ad``.
    slide
        For the thumbnail.
    features
        Those of the run, where they are in memory.

    Raises
    ------
    ExportError
        When anndata is not installed, the features are not those of the run, or the file cannot be
        written.
    """
    import h5py

    table = patches_as_anndata(saved, scores, slide=slide, features=features)
    from anndata.io import write_elem

    # Made in memory: where a disk is full, the HDF5 library takes the process down with it
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        write_elem(file, "/", table)
    with atomic_write(path) as part:
        part.write_bytes(whole.getbuffer())
    return Path(path)


def patches_as_anndata(
    saved: SavedRun,
    scores: PatchScores,
    *,
    slide: "Slide",
    features: "FeatureBag | None" = None,
) -> "AnnData":
    """Return the patches of a run as AnnData; without features, ``X`` has no columns.

    Raises
    ------
    ExportError
        See `write_anndata`.
    """
    try:
        import pandas as pd
        from anndata import AnnData
    except ImportError:
        raise ExportError(
            'AnnData needs anndata: run pip install "napari-2dmamba[anndata]"'
        ) from None
    saved.check_slide(slide)
    bag = features_of(saved, features, slide)
    names = [str(number) for number in range(len(scores))]
    columns = {name.replace("/", "∕"): values for name, values in scores.columns().items()}
    x = np.zeros((len(scores), 0), np.float32) if bag is None else bag.features
    table = AnnData(
        X=x,
        obs=pd.DataFrame(columns, index=names),
        var=pd.DataFrame(index=[f"feature_{number}" for number in range(x.shape[1])]),
    )
    centres = scores.coords + scores.patch_size_level0 / 2
    table.obsm["spatial"] = centres
    if scores.mpp is not None:
        table.obsm["spatial_um"] = centres * scores.mpp
    thumbnail = slide.thumbnail(_THUMBNAIL)
    table.uns["spatial"] = {
        saved.record.slide.name.replace("/", "∕"): {
            "images": {"hires": thumbnail},
            "scalefactors": {
                "tissue_hires_scalef": thumbnail.shape[1] / slide.dimensions[0],
                "spot_diameter_fullres": float(scores.patch_size_level0),
            },
        }
    }
    table.uns[OWN_ATTRIBUTE] = json.dumps(about_run(saved, has_features=bag is not None))
    return table


def features_of(saved: SavedRun, given: "FeatureBag | None", slide: "Slide") -> "FeatureBag | None":
    """Return the features of a run; None where they were not kept.

    Raises
    ------
    ExportError
        When there are features, but not those the run was made of.
    """
    if given is None:
        return saved.read_features(slide) if saved.find_features() is not None else None
    bag = given.at(saved.grid.coords)
    if features_hash(bag) != saved.record.features.content_sha256:
        raise ExportError(
            "the features in memory are not those of the run; open the run again and export it"
        )
    return bag


def about_run(saved: SavedRun, *, has_features: bool) -> dict[str, Any]:
    """Return what a store says of its run, as JSON: facts by which it is read again, and all else.

    Parameters
    ----------
    has_features
        Whether the store holds features; those of a run may be gone.
    """
    record = saved.record.without_paths()
    maps = {}
    for one in saved.maps:
        display = display_for(one, saved.display)
        maps[one.name] = {
            "meaning": one.meaning,
            "quantity": one.quantity,
            "colormap": display.colormap_for(one),
            "transform": display.transform,
        }
    width, height = record.slide.dimensions_level0_px or (None, None)
    return {
        "written_by": f"napari-2dmamba {__version__}",
        "features": "in X" if has_features else "not kept with the run",
        "encoder": record.features.encoder,
        "patch_size": saved.grid.patch_size,
        "patch_size_level0": saved.grid.patch_size_level0,
        "mpp": saved.grid.mpp,
        "slide_mpp": record.slide.mpp,
        "slide_id": record.slide.fingerprint,
        "slide_name": record.slide.name,
        "slide_width": width,
        "slide_height": height,
        "source": record.features.source,
        "coordinates": "level-0 pixels; columns with um in their names in µm",
        "maps": maps,
        "record": record.to_json(),
    }
