"""Layers on the canvas: slide, maps and regions. They know no session but by its type."""
