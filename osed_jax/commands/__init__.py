"""What `--mode` names: one file and one function for each."""
