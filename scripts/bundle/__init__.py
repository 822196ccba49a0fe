"""Builds the app: a folder with a Python of its own, and archives of it. See docs/install.md.

``python -m scripts.bundle --out dist`` in a clone, on the system that the app is for.
"""
