"""The demo: the same programs as any installation, with an embedded PostgreSQL, a simulated Twilio and invented lives.

Nothing here runs where customers are served.
"""
