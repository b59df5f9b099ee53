"""The control plane: keys, balances, history and checkout over HTTP, and who may use them (docs/api.md)."""
