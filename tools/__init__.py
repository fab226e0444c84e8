"""Programs for those who work on safeloader; none is part of the package."""
