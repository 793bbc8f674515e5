"""A folder of generated images, read and written."""
