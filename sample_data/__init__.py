"""A synthetic slide, its truth and its demo checkpoints, and the script that makes them."""
