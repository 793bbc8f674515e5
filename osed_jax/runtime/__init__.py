"""The process: devices, other processes, signals, console, exit status."""
