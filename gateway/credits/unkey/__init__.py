"""Unkey as the keeper of keys and credits: its client, and the provider that keeps the books beside it."""
