"""Features in the stores of the single-cell world: AnnData (``.h5ad``), SpatialData and LazySlide.

A table of AnnData has one row per patch: features are its ``X``, dense or sparse. Where patches lie
is told by

- columns ``x_level0_px`` and ``y_level0_px`` of ``obs``: their corners, as this program writes;
- LazySlide's ``tile_spec`` in ``uns``: then ``obsm["spatial"]`` holds corners in level-0 pixels;
- in a SpatialData store, the squares of the shapes that the table is about.

``obsm["spatial"]`` alone does not say whether it holds corners or centres, nor in which unit, and
is refused. Only numbers are read, never objects: an array that would be unpickled is refused
before it is touched. HDF5 needs no extra, a ``.zarr`` folder needs the extra ``zarr``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.encoder_names import is_known
from napari_2dmamba.features.file_facts import OWN_ATTRIBUTE, FileFacts, facts_of
from napari_2dmamba.features.hdf5 import check_size, read_safely
from napari_2dmamba.slide.zarr_backend import PLAIN_CODECS, codec_names

H5AD, ZARR = ".h5ad", ".zarr"

_GROUP_FILES = ("zarr.json", ".zgroup", ".zattrs")
_LARGEST_TEXT = 2**24
_COLUMNS = "x_level0_px", "y_level0_px"

Arrays = dict[str, NDArray[Any]]


def is_store(path: Path) -> bool:
    """Tell a Zarr group from other folders."""
    return path.is_dir() and any((path / name).is_file() for name in _GROUP_FILES)


def table_in_store(path: Path) -> tuple[Path, str | None]:
    """Return the folder of a store, and the name of the table if the path is of one table."""
    if path.parent.name == "tables" and is_store(path.parent.parent):
        return path.parent.parent, path.name
    return path, None


def read_h5ad(path: Path, *, data: bool = True) -> tuple[Arrays, FileFacts]:
    """Return ``features`` and ``coords`` of an AnnData file, and what it says of them.

    Parameters
    ----------
    data
        False tells the shape of the features alone.

    Raises
    ------
    FeatureError
        When it is no AnnData, is damaged, or does not say where its patches lie.
    """

    def read(file: h5py.File) -> tuple[Arrays, FileFacts]:
        _refuse_links(path, file)
        return _Table(path, file).read(data=data)

    return read_safely(path, read)


def read_store(path: Path, *, data: bool = True) -> tuple[Arrays, FileFacts]:
    """Return ``features`` and ``coords`` of a SpatialData, LazySlide or AnnData store.

    Parameters
    ----------
    path
        The store, or one of its tables (``STORE.zarr/tables/NAME``) where it has several.
    data
        False tells the shape of the features alone.

    Raises
    ------
    FeatureError
        As `read_h5ad`; also when zarr is not installed, or nobody says which table is meant.
    """
    try:
        import zarr
    except ImportError:
        raise FeatureError(
            f'{path} is a Zarr store, and zarr is not installed: run pip install "'
            'napari-2dmamba[zarr]"'
        ) from None
    root, name = table_in_store(path)
    try:
        group: Any = zarr.open_group(str(root), mode="r")
        if name is None and "tables" in group:
            name = _only_table(path, [str(key) for key in group["tables"]])
        if name is None:
            return _Table(path, group).read(data=data)
        return _Table(path, group[f"tables/{name}"], root, group, name).read(data=data)
    except FeatureError:
        raise
    except Exception as error:  # zarr passes on whatever JSON, codecs and Arrow raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FeatureError(
            f"{path} cannot be read as a Zarr store ({reason}); copy or make it again"
        ) from error


def _only_table(path: Path, names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise FeatureError(f"{path} holds no table, so no features; extract them into it")
    listed = ", ".join(str(path / "tables" / name) for name in sorted(names)[:10])
    raise FeatureError(f"{path} holds {len(names)} tables; give the one that is meant: {listed}")


class _Table:
    """One AnnData table, in HDF5 or Zarr, alone or in a SpatialData store."""

    def __init__(
        self,
        path: Path,
        table: Any,
        root: Path | None = None,
        store: Any = None,
        name: str = "",
    ) -> None:
        self._path, self._table = path, table
        self._root, self._store, self._name = root, store, name
        self._store_says: Mapping[str, Any] = {} if store is None else dict(store.attrs)

    def read(self, *, data: bool) -> tuple[Arrays, FileFacts]:
        if "X" not in self._table:
            raise FeatureError(
                f"{self._path} holds no matrix X of features; give the table that has them"
            )
        features = self._matrix(self._table["X"], data=data)
        if features.ndim == 2 and features.shape[1] == 0:
            raise FeatureError(
                f"{self._path} holds scores and no features (they were not kept with the run); "
                "extract them again"
            )
        coords, facts = self._places(data=data)
        return ({"features": features} | ({} if coords is None else {"coords": coords})), facts

    # -- where patches lie, and how large they are --------------------------------------------

    def _places(self, *, data: bool) -> tuple[NDArray[Any] | None, FileFacts]:
        own = self._own()
        spec, slide = self._lazyslide()
        obs = self._table.get("obs", {})
        region = self._region()
        facts = facts_of(self._path, {OWN_ATTRIBUTE: json.dumps(own)}) if own else None
        if all(name in obs for name in _COLUMNS):
            coords = None
            if data:
                coords = np.stack([self._column(obs, name) for name in _COLUMNS], axis=1)
            if facts is None:
                said = {}
                if "size_level0_px" in obs and data:
                    sizes = np.unique(self._column(obs, "size_level0_px"))
                    if len(sizes) == 1:
                        said["patch_size_level0"] = sizes[0]
                facts = facts_of(self._path, said)
            return coords, facts
        if region is not None:
            if not data:
                return None, facts or self._lazy_facts(spec, slide, None)
            coords, side = self._squares(region, obs)
            return coords, facts or self._lazy_facts(spec, slide, side)
        if spec is not None and "obsm" in self._table and "spatial" in self._table["obsm"]:
            coords = self._matrix(self._table["obsm"]["spatial"], data=True) if data else None
            return coords, self._lazy_facts(spec, slide, None)
        raise FeatureError(
            f"{self._path} does not say where its patches lie: columns {' and '.join(_COLUMNS)} in "
            "obs, with the corner of each patch in level-0 pixels, LazySlide's tile_spec, or the "
            "squares of a SpatialData store are needed (obsm['spatial'] does not tell corners from "
            "centres, nor its unit); add them with anndata"
        )

    def _own(self) -> dict[str, Any] | None:
        """Return what this program said when it wrote the table."""
        told = self._store_says.get(OWN_ATTRIBUTE)
        if told is None and "uns" in self._table and OWN_ATTRIBUTE in self._table["uns"]:
            told = self._text(self._table["uns"][OWN_ATTRIBUTE])
            try:
                told = json.loads(told)
            except (ValueError, RecursionError):
                told = None
            if told is None:
                raise FeatureError(
                    f"{self._path} has a damaged entry {OWN_ATTRIBUTE!r}; export the run again"
                )
        return dict(told) if isinstance(told, Mapping) else None

    def _lazyslide(self) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
        """Return ``tile_spec`` of the tiles, and ``slide_properties``."""
        if self._store is not None:
            specs, slide = self._store_says.get("tile_spec"), self._store_says.get(
                "slide_properties"
            )  # fmt: skip
            spec = specs.get(self._region() or "") if isinstance(specs, Mapping) else None
        else:
            uns = self._table.get("uns", {})
            spec = self._numbers_in(uns["tile_spec"]) if "tile_spec" in uns else None
            slide = self._numbers_in(uns["slide_properties"]) if "slide_properties" in uns else {}
        return (
            spec if isinstance(spec, Mapping) else None,
            slide if isinstance(slide, Mapping) else {},
        )

    def _lazy_facts(
        self, spec: Mapping[str, Any] | None, slide: Mapping[str, Any], side: int | None
    ) -> FileFacts:
        said: dict[str, Any] = {}
        if side is not None:
            said["patch_size_level0"] = side
        spec = spec or {}
        for ours, theirs in (("patch_size", "width"), ("mpp", "mpp")):
            if spec.get(theirs) is not None:
                said[ours] = spec[theirs]
        if {"width", "height"} <= spec.keys() and spec["width"] != spec["height"]:
            raise FeatureError(
                f"{self._path} holds tiles of {spec['width']} x {spec['height']} px, and patches "
                "are squares here; tile the slide again"
            )
        down = spec.get("base_downsample")
        if side is None and isinstance(down, int | float) and "width" in spec:
            said["patch_size_level0"] = float(spec["width"]) * float(down)
        if slide.get("mpp") is not None:
            said["slide_mpp"] = slide["mpp"]
        shape = np.asarray(slide.get("shape", ())).ravel()
        if len(shape) == 2:
            said["level0_height"], said["level0_width"] = shape[0], shape[1]
        encoder = self._name.removesuffix(f"_{self._region()}")
        if is_known(encoder):
            said["encoder"] = encoder
        return facts_of(self._path, said)

    def _region(self) -> str | None:
        """Return the shapes that the table is about."""
        if self._store is None:
            return None
        told = dict(self._table.attrs).get("region")
        if isinstance(told, list | tuple) and len(told) == 1:
            told = told[0]
        if isinstance(told, list | tuple):
            raise FeatureError(
                f"{self._path}: its table {self._name!r} is about several shapes "
                f"({', '.join(map(str, told[:5]))}); write a table per slide"
            )
        return told if isinstance(told, str) and told in self._store.get("shapes", {}) else None

    def _squares(self, region: str, obs: Any) -> tuple[NDArray[np.int64], int]:
        """Return the corners of the squares of the table's rows, and their side."""
        import pyarrow.parquet
        import shapely

        assert self._root is not None
        self._refuse_transform(region)
        table = pyarrow.parquet.read_table(self._root / "shapes" / region / "shapes.parquet")
        key = str(dict(self._table.attrs).get("instance_key"))
        wanted = self._column(obs, key)
        boxes = shapely.bounds(shapely.from_wkb(table.column("geometry").to_pylist()))
        names = self._names_of(table, key)
        order = np.argsort(names, kind="stable")
        at = np.searchsorted(names[order], wanted)
        found = at < len(order)
        found[found] = names[order][at[found]] == wanted[found]
        if not found.all() or len(np.unique(names)) < len(names):
            raise FeatureError(
                f"{self._path}: {int((~found).sum())} rows of its table have no shape of their own "
                f"in {region!r}; make the table again"
            )
        boxes = boxes[order[at]]
        sides = boxes[:, 2:] - boxes[:, :2]
        side = float(np.median(sides)) if len(sides) else math.nan
        if not (
            np.isfinite(boxes).all() and np.abs(sides - side).max(initial=0) < 0.5 and side > 0
        ):
            raise FeatureError(
                f"{self._path}: its shapes {region!r} are no squares of one size, as the tiles of "
                "a slide are; give a table of tiles"
            )
        return boxes[:, :2], round(side)

    def _names_of(self, table: Any, key: str) -> NDArray[Any]:
        """Return by what name the rows of shapes are known: a column, or their index."""
        if key in table.column_names:
            return np.asarray(table.column(key))
        told = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        for index in told.get("index_columns", []):
            if isinstance(index, dict) and index.get("kind") == "range":
                return np.arange(index["start"], index["stop"], index["step"])
            if index in table.column_names:
                return np.asarray(table.column(index))
        return np.arange(len(table))

    def _refuse_transform(self, region: str) -> None:
        """Refuse shapes that lie elsewhere than their numbers say.

        In ``global`` they are to be where they are: in level-0 pixels.
        """
        told = dict(self._store["shapes"][region].attrs).get("coordinateTransformations", [])
        for one in told:
            if isinstance(one, Mapping) and one.get("output", {}).get("name") == "global":
                if _is_identity(one):
                    return
                raise FeatureError(
                    f"{self._path}: the shapes {region!r} are moved or scaled into the coordinate "
                    "system 'global'; write them in level-0 pixels, with the identity"
                )

    # -- numbers ------------------------------------------------------------------------------

    def _column(self, obs: Any, name: str) -> NDArray[Any]:
        if name not in obs:
            raise FeatureError(f"{self._path} has no column {name!r} in obs; make the table again")
        column = self._matrix(obs[name], data=True)
        if column.ndim != 1 or column.dtype.kind not in "iuf":
            raise FeatureError(f"{self._path}: its column {name!r} holds no numbers")
        return column

    def _matrix(self, node: Any, *, data: bool) -> NDArray[Any]:
        """Return a dense or sparse matrix; without ``data`` a stand-in for its shape."""
        if not hasattr(node, "shape"):
            return self._sparse(node, data=data)
        self._check(node)
        if not data:
            return np.broadcast_to(np.empty((), "V1"), node.shape)
        return np.asarray(node[...])

    def _sparse(self, group: Any, *, data: bool) -> NDArray[Any]:
        from scipy import sparse

        kind = str(group.attrs.get("encoding-type", ""))
        kinds = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}
        shape = tuple(int(side) for side in np.ravel(group.attrs.get("shape", ())))
        if kind not in kinds or len(shape) != 2 or min(shape) < 0:
            raise FeatureError(
                f"{self._path}: a matrix of kind {kind[:40]!r} is not read; write it dense, as "
                "float32"
            )
        if not data:
            return np.broadcast_to(np.empty((), "V1"), shape)
        parts = []
        for name in ("data", "indices", "indptr"):
            self._check(group[name])
            parts.append(np.asarray(group[name][...]))
        check_size(self._path, "X", shape, parts[0].dtype, None)
        made = kinds[kind](tuple(parts), shape=shape)
        made.check_format(full_check=True)
        return made.toarray()

    def _check(self, node: Any) -> None:
        """Refuse objects, and what cannot be held, before anything is read."""
        if isinstance(node, h5py.Dataset):
            check_size(self._path, node.name, node.shape, node.dtype, node)
            if node.dtype.kind not in "iufb":
                raise FeatureError(f"{self._path}: {node.name!r} holds {node.dtype} and no numbers")
            return
        codecs = sorted(codec_names(node.metadata.to_dict()) - PLAIN_CODECS)
        if node.dtype.kind not in "iufb" or codecs:
            raise FeatureError(
                f"{self._path}: {node.path!r} holds {', '.join(codecs) or node.dtype} and no plain "
                "numbers, and objects of other programs are not unpacked here; write it as float32"
            )
        check_size(self._path, node.path, node.shape, node.dtype, None)

    def _text(self, node: Any) -> str:
        """Return a text of HDF5; in Zarr texts are objects, which are not read."""
        if not isinstance(node, h5py.Dataset) or node.shape != ():
            raise FeatureError(f"{self._path}: its entry {OWN_ATTRIBUTE!r} is no text")
        if node.id.get_storage_size() > _LARGEST_TEXT:
            raise FeatureError(f"{self._path}: its entry {OWN_ATTRIBUTE!r} is too large")
        value = node[()]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _numbers_in(self, group: Any) -> dict[str, Any]:
        """Return the numbers of a group by their names; all else is left aside."""
        found: dict[str, Any] = {}
        if hasattr(group, "shape"):
            return found
        for name in list(group)[:100]:
            node = group[name]
            if not hasattr(node, "shape") or node.dtype.kind not in "iuf" or node.size > 100:
                continue
            self._check(node)
            value = np.asarray(node[...])
            found[str(name)] = value.item() if value.ndim == 0 else value
        return found


def _is_identity(transform: Mapping[str, Any]) -> bool:
    kind = transform.get("type")
    if kind == "identity":
        return True
    if kind == "scale":
        return bool(np.allclose(transform.get("scale", [0]), 1))
    if kind == "translation":
        return bool(np.allclose(transform.get("translation", [1]), 0))
    if kind == "affine":
        matrix = np.atleast_2d(np.asarray(transform.get("affine", [[0]]), np.float64))
        return bool(np.allclose(matrix, np.eye(*matrix.shape)))
    if kind == "sequence":
        return all(_is_identity(one) for one in transform.get("transformations", [{}]))
    return False


def _refuse_links(path: Path, file: h5py.File) -> None:
    """Refuse a file whose parts lie in other files."""
    for where in ("", "X", "obs", "obsm", "uns"):
        group = file if not where else file.get(where, getlink=False) if where in file else None
        if not isinstance(group, h5py.Group):
            continue
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise FeatureError(
                    f"{path}: {name!r} lies in another file, which is not followed; give that file"
                )
