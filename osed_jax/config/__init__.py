"""What a person may set: fields, methods, conflicts, the command line."""
