"""A module whose generator others use by the module's name."""

import random

rng = random.Random(23)
