"""Folders of images, the split, and the endless stream of training samples."""
