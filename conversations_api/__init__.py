"""How the parts of the service are put together and started."""
