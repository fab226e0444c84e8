"""What 10,000 ranks and 10**9 samples would cost: the board's traffic on a real store, and the elastic sampler.

``python -m benchmarks.scaling``; docs/scaling.md reads the figures.
"""
