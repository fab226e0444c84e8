"""A training run that is shot at, on real photographs, and ends with the weights of one that was not.

1. Photographs that lie inside well-known packages are cut into a few hundred JPEG files.
2. A small network is trained, train -> val -> train -> val, three times from the same seed, each time in a
   program of its own: undisturbed with torch's DataLoader; with safeloader while its workers are killed,
   stopped and hung; and with torch's DataLoader under the same faults.
3. The weights, all batches and the random generators of the first two are compared, to the byte.
4. A few rows of the hang-reproduction benchmark run, torch against safeloader.
5. A plot shows the batches over time with the faults marked.

``python -m benchmarks.demo`` (or ``make demo``); results go to ``results/demo``.
"""
