"""DICOM files -> Radiographs: header, decode and render make what `reading` puts together."""

from evax.data.dicom.header import DicomHeader, is_dicom, read_header
from evax.data.dicom.reading import read_dicom

__all__ = ["DicomHeader", "is_dicom", "read_dicom", "read_header"]
