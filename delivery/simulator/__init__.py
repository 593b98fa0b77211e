"""A Twilio for the demo, the tests and the benchmarks: its Messages resource, its webhooks, and its faults."""
