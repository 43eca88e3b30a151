"""Models as data, one file each; records.py defines what a model consists of."""
