"""The stand-in for Unkey's API v2 that `gateway dev` and the tests use; start reading at server.py."""
