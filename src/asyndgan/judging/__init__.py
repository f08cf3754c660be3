"""Judging: how useful a data set is (segmentation networks, scores, intervals, baselines)."""
