"""Data sets written for other software, in nnU-Net's raw convention."""
