"""The standalone window: the application, its menu, its keys."""
