"""What every test run reports, whichever part of the suite it runs."""

pytest_plugins = ["tests.skips", "tests.stack"]
