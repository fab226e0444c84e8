"""What users see: the same as torch's DataLoader, to the byte, and the few names beside it."""
