"""Pages that people look at: one file each, that loads nothing from anywhere."""
