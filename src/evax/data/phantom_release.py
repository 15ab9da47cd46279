"""Phantoms as a user would receive films: DICOM and PNG files, labels.csv, boxes.csv, masks/."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from evax.data.phantom import FINDINGS, Phantom, make_phantom
from evax.data.processes import Processes
from evax.data.sources import PHANTOMS
from evax.data.sources.record import FETCH_RECORD
from evax.files import make_folder, open_csv, replaced_whole, write_json

DICOM_SHARE = 2 / 3
MONOCHROME1_SHARE = 1 / 3  # of the DICOM images
WINDOW_SHARE = 1 / 2  # of the DICOM images
BITS_STORED = (12, 14, 15, 16)
FORMATS = 7  # purpose of the random numbers that choose file formats

Row = tuple[list[Any], list[list[Any]]]


def write_phantoms(
    folder: Path,
    films: int,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes images 0 .. images - 1 of a seed: images/, masks/, labels.csv, boxes.csv and fetched.json.

    labels.csv is there once all images are.
    workers: processes that draw. on_progress(done, total). The same images and seed give the same files, byte
    for byte, whatever the workers; more images leave the earlier ones as they are.
    """
    write_json({"name": PHANTOMS, "finished": False}, make_folder(folder) / FETCH_RECORD)
    for name in ("images", "masks"):
        make_folder(folder / name)
    with (
        replaced_whole(folder / "labels.csv") as labels_path,
        replaced_whole(folder / "boxes.csv") as boxes_path,
        open_csv(labels_path) as labels_file,
        open_csv(boxes_path) as boxes_file,
    ):
        labels, boxes = csv.writer(labels_file), csv.writer(boxes_file)
        labels.writerow(["image", "patient", "view", "sex", "age", *FINDINGS])
        boxes.writerow(["image", "finding", "x", "y", "width", "height"])
        for done, (label_row, box_rows) in enumerate(_drawn(folder, films, seed, workers), 1):
            labels.writerow(label_row)
            boxes.writerows(box_rows)
            on_progress(done, films)
    # so that pages can say that a store is synthetic
    write_json({"name": PHANTOMS, "finished": True}, folder / FETCH_RECORD)


def _drawn(folder: Path, films: int, seed: int, workers: int) -> Iterable[Row]:
    draw = partial(_write_image, folder, seed)
    if workers == 1:
        yield from map(draw, range(films))
        return
    with Processes(workers) as processes:
        for call in processes.calls(draw, zip(range(films))):
            yield call.result()


def _write_image(folder: Path, seed: int, index: int) -> Row:
    phantom = make_phantom(seed, index)
    chance = np.random.default_rng((seed, index, FORMATS))
    patient, stem = f"PH{phantom.patient:05d}", f"{phantom.patient:05d}_{phantom.film}"
    is_dicom = bool(chance.random() < DICOM_SHARE)
    name = f"images/{stem}.{'dcm' if is_dicom else 'png'}"
    if is_dicom:
        _dicom(phantom, patient, f"{seed}.{index}", chance).save_as(folder / name, enforce_file_format=True)
    elif chance.random() < 0.5:
        Image.fromarray(np.rint(phantom.pixels * 65535).astype(np.uint16)).save(folder / name)
    else:
        Image.fromarray(np.rint(phantom.pixels * 255).astype(np.uint8)).save(folder / name)
    for finding, mask in phantom.masks.items():
        if mask.any():
            Image.fromarray(mask.view(np.uint8) * 255).save(folder / "masks" / f"{stem}_{finding}.png")
    labels = [phantom.labels[finding] for finding in FINDINGS]
    boxes = [[name, finding, *(f"{value:.5f}" for value in box)] for finding, *box in phantom.boxes]
    return [name, patient, phantom.view, phantom.sex, phantom.age, *labels], boxes


def _dicom(phantom: Phantom, patient: str, key: str, chance: np.random.Generator) -> Dataset:
    """A digital X-ray as a detector would write it; the stored range is fully used."""
    bits = int(chance.choice(BITS_STORED))
    inverted = bool(chance.random() < MONOCHROME1_SHARE)
    top = 2**bits - 1
    stored = np.rint((1 - phantom.pixels if inverted else phantom.pixels) * top).astype("<u2")
    uid = generate_uid(entropy_srcs=["evax phantom", key])
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = uid
    film.StudyInstanceUID = generate_uid(entropy_srcs=["evax phantom study", key])
    film.SeriesInstanceUID = generate_uid(entropy_srcs=["evax phantom series", key])
    film.PatientName, film.PatientID = f"Phantom^{patient}", patient
    film.PatientSex, film.PatientAge = phantom.sex, f"{phantom.age:03d}Y"
    film.Modality, film.BodyPartExamined, film.ViewPosition = "DX", "CHEST", phantom.view
    film.PresentationIntentType, film.PresentationLUTShape = (
        "FOR PRESENTATION",
        "INVERSE" if inverted else "IDENTITY",
    )
    film.PixelSpacing = film.ImagerPixelSpacing = [round(phantom.spacing_mm, 4)] * 2
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    film.Rows, film.Columns = phantom.pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, bits, bits - 1, 0
    if chance.random() < WINDOW_SHARE:
        film.WindowCenter, film.WindowWidth = (top + 1) / 2, top + 1
    film.PixelData = stored.tobytes()
    return film
