"""The contract: everything that is promised to a client stands in the OpenAPI document beside this file.

The document is the authority and not a description: routing, request validation and response validation are read
from it, so that code which breaks a promise fails instead of drifting.
"""

from pathlib import Path

CONTRACT = Path(__file__).with_name("openapi.yaml")
