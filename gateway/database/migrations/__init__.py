"""Alembic's home: env.py runs the revisions in versions/, oldest first, each in a transaction of its own."""
