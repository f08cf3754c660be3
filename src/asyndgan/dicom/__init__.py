"""DICOM: a site's archive becomes a data set, and a synthetic set becomes DICOM.

Of a header only geometry, modality, units and the names of segments are taken over. No message
holds other content of a header or a file's name, since both may name a patient.
"""
