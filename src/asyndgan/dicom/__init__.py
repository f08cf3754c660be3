"""DICOM: a site's archive becomes a data set in nnU-Net's form, and a synthetic set becomes DICOM.

Of a header only geometry, modality, units and the names of segments are taken over. No message
holds a header's content or a file's name, since both may name a patient.
"""
