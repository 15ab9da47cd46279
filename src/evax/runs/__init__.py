"""WHAT EVERY RUN HAS: folder and lock, log and progress, device and precision, optimizer, checkpoints."""
