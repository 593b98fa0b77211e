"""How the parts of the service are put together and started."""

import warnings

# Connexion brings Starlette's test client into every process. What that says of itself, in plain text and before any
# log is configured, is not for whoever runs the service.
warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient` is deprecated")
