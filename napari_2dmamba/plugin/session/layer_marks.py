"""What the metadata of a layer says of whose it is."""

SLIDE_ID = "2dmamba slide id"
"""Every layer holds the key of its slide under this name in its metadata."""

OF_RUN = "2dmamba of a run"
"""Such layers go when another run is shown."""

ADOPTED = "2dmamba adopted"
"""Drawn or opened by the user: never removed by us."""
