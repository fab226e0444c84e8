"""The rows of `safeloader.code_table`: code, kind, how it reads, what it means, what to do."""
