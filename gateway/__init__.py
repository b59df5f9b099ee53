"""The gateway that sells API calls: checks the key, takes the credits, forwards, settles."""

__version__ = "0.1.0"
