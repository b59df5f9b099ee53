"""The stand-in for Stripe's API v1 that `gateway dev` and the tests use; start reading at server.py."""
