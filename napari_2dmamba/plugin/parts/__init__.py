"""Sections and smaller parts that several widgets are made of."""
