"""Classifiers of tiles: trained and tested on folders of images, used on slides."""
