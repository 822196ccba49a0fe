"""How a cohort is shared out."""

from dataclasses import dataclass

from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class CohortSettings:
    """How many slides are worked on at once, where, and what happens after a failure."""

    workers: int = setting(
        0,
        "Slides worked on at once; 0 takes one worker per GPU, or one per four CPU cores. One "
        "worker needs no Dask.",
        minimum=0,
        maximum=1024,
        zero="auto",
    )
    dask: str | None = setting(
        None,
        "Address of a running Dask scheduler (tcp://host:8786), or its scheduler file (.json), "
        "instead of workers on this machine.",
        label="Dask scheduler",
        advanced=True,
    )
    apart: bool = setting(
        False,
        "Work in a process of its own also with one worker, so that a slide that takes it down "
        "(no memory, a broken library) takes nothing else with it. Needs Dask.",
        label="Own process",
        advanced=True,
    )
    retries: int = setting(
        1,
        "How often a slide that failed is tried again, after the others.",
        minimum=0,
        maximum=20,
        advanced=True,
    )
    full_paths: bool = setting(
        False,
        "Write whole paths into summary.csv, which else names files only, for it is handed on.",
        advanced=True,
    )
    publish: str | None = setting(
        None,
        "Copy the results of every finished slide, and the table, into a bucket: "
        "s3://bucket/folder. Work is done in the folder of the results first.",
        label="Publish to",
        advanced=True,
    )
    fresh: bool = setting(
        False,
        "Do slides again that are done, and compute their features anew.",
        label="Start again",
        advanced=True,
    )
