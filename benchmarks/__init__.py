"""What takes longer than a test may: long runs of what `make test` runs short, and measurements."""
