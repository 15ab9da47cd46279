"""NUMBERS: numpy in, numbers out."""
