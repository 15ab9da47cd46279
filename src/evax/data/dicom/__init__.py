"""DICOM files -> Radiographs: `header` reads tags, `reading` puts decode and render together."""

from evax.data.dicom.header import DicomHeader, is_dicom, read_header

__all__ = ["DicomHeader", "is_dicom", "read_header"]
