"""Records in place of images: a site's table, its summary, its encoding and its cohort."""
