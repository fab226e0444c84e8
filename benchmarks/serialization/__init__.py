"""Serialisers compared on the classes and functions of a script; see `__main__`."""
