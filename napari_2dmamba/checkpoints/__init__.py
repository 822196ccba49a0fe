"""Which checkpoints there are, what each says of itself, and which fit a slide's features.

Nothing here loads weights: files are read as far as their headers.
"""
