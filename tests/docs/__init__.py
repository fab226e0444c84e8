"""The documentation is true: its programs run, its commands parse, its tables are the code's."""
