"""The core against a simulated world: no process, no clock."""
