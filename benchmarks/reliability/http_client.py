"""How the rig asks: on one connection a request, since what it asks is killed all the time.

One client for all threads: httpx reads the certificate authorities anew for each, which takes longer than a request.
"""

import httpx

CLIENT = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0, max_connections=None))
