"""What napari's manifest names: reader, writer and sample."""
