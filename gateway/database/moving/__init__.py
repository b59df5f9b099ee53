"""Taking everything out of one database and into another: `gateway export` and `gateway import`."""
