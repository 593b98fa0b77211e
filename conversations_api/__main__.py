"""`python -m conversations_api`: the command `conversations-api`, from a checkout as well."""

from conversations_api import cli

cli.main()
