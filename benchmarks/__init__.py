"""Side by side with nginx, Envoy and a plain Python proxy: `python -m benchmarks` measures them all in one run."""
