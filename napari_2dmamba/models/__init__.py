"""Aggregators: from a feature bag to a prediction with a score per patch."""
