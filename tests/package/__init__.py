"""The package as one installs it: wheel, metadata, formats, the demonstration."""
