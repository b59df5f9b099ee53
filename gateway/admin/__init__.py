"""The admin listener's app: what ops see of a running gateway, and the little that they can do to it."""
