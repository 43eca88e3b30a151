"""Models as data, a file each; records.py says what one is made of."""
