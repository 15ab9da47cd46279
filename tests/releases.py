"""Small releases in the official layouts: drawn images, the real formats of tables, names and masks."""

from __future__ import annotations

import gzip
import json

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

SIDE = 48
CHEXPERT_LABELS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def film(path, seed=0):
    """A grey picture of noise over a gradient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 128, (SIDE, SIDE), dtype=np.uint8)
    Image.fromarray(noise + np.arange(0, 2 * SIDE, 2, dtype=np.uint8)).save(path)


def mask(path, box, white=255):
    """White within left, top, right, bottom."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (SIDE, SIDE))
    picture.paste(white, box)
    picture.save(path)


def dicom(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(
        entropy_srcs=[path.name]
    )
    header.Modality, header.PhotometricInterpretation, header.SamplesPerPixel = "CR", "MONOCHROME2", 1
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation, header.PixelData = 7, 0, pixels.tobytes()
    header.save_as(path, enforce_file_format=True)


def chestxray14(raw):
    """Two archives; the third listed image is not there."""
    film(raw / "images_001" / "images" / "00000001_000.png")
    film(raw / "images_002" / "images" / "00000002_000.png", 1)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
    )
    (raw / "Data_Entry_2017.csv").write_text(
        header + "00000001_000.png,Effusion|Infiltration,0,1,057Y,M,PA,2682,2749,0.1,0.1\n"
        "00000002_000.png,No Finding,0,2,411,F,AP,2682,2749,0.1,0.1\n"
        "00000003_000.png,Hernia,0,3,60,F,AP,2682,2749,0.1,0.1\n"
    )
    (raw / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,256,512,128,64,,,\n"
    )
    (raw / "test_list.txt").write_text("00000002_000.png\n")
    (raw / "train_val_list.txt").write_text("00000001_000.png\n00000003_000.png\n")


def chexpert(raw):
    """Three train images of two patients, one of them said to be LL; a lateral one; a valid image."""
    rows = {
        "train": [
            ("patient00001/study1/view1_frontal.jpg", "Female,68,Frontal,AP", "1.0,,,,,,,,,0.0,,,,1.0"),
            (
                "patient00002/study1/view1_frontal.jpg",
                "Male,87,Frontal,PA",
                ",,-1.0,1.0,,-1.0,,,-1.0,,1.0,,,",
            ),
            ("patient00002/study1/view2_lateral.jpg", "Male,87,Lateral,", ",,-1.0,1.0,,-1.0,,,-1.0,,1.0,,,"),
            ("patient00002/study2/view1_frontal.jpg", "Unknown,0,Frontal,LL", ",,,,,,,,,,,,,"),
        ],
        "valid": [("patient64541/study1/view1_frontal.jpg", "Male,73,Frontal,AP", ",".join(["0.0"] * 14))],
    }
    for split, films in rows.items():
        lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_LABELS}"]
        for seed, (path, facts, labels) in enumerate(films):
            film(raw / split / path, seed)
            lines.append(f"CheXpert-v1.0-small/{split}/{path},{facts},{labels}")
        (raw / f"{split}.csv").write_text("\n".join(lines) + "\n")


def mimic_cxr(raw):
    """Gzipped tables; two train patients, one of the other splits each; a lateral; an unlabelled study."""
    films = [  # dicom, subject, study, view, split
        ("d1", 10000032, 50414267, "PA", "train"),
        ("d2", 10000032, 50414267, "LATERAL", "train"),
        ("d3", 10000764, 57375967, "AP", "train"),
        ("d4", 10000898, 50771383, "AP", "validate"),
        ("d5", 11000935, 50578979, "PA", "test"),
        ("d6", 11000935, 51178377, "", "test"),
    ]
    for seed, (name, subject, study, _, _) in enumerate(films):
        film(raw / "files" / f"p{subject // 10**6}" / f"p{subject}" / f"s{study}" / f"{name}.jpg", seed)
    tables = {
        "metadata": [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"
        ]
        + [
            f'{name},{subject},{study},"CHEST (PA, LAT)",{view},9,9'
            for name, subject, study, view, _ in films
        ],
        "split": ["dicom_id,study_id,subject_id,split"]
        + [f"{name},{study},{subject},{split}" for name, subject, study, _, split in films],
        "chexpert": [
            "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,"
            "Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,"
            "Pneumothorax,Support Devices",
            "10000032,50414267,1.0,,,,,,,,,,,,,",
            "10000764,57375967,,,,,,,,,,-1.0,,0.0,,1.0",
            "11000935,50578979,,,,,,,,,1.0,,,,,",
        ],
    }
    for name, lines in tables.items():
        with gzip.open(raw / f"mimic-cxr-2.0.0-{name}.csv.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")


def covidx(raw, lists):
    for seed, (name, folder, lines) in enumerate(lists):
        for line in lines:
            film(raw / folder / line.split(" ", 1)[1].rsplit(" ", 2)[0], seed)
        (raw / name).write_text("\n".join(lines) + "\n")


def covidx9a(raw):
    """A name with a blank, and a patient with images of two sources."""
    train = [
        "3 a b.jpeg pneumonia cohen",
        "3 c.png COVID-19 rsna",
        "9e x.png normal rsna",
        "8 y.png normal rsna",
    ]
    test = ["41-01 z.png COVID-19 ricord", "7 w.png normal rsna"]
    covidx(raw, [("train_COVIDx9A.txt", "train", train), ("test_COVIDx9A.txt", "test", test)])


def covidx_cxr4(raw):
    parts = {
        "train": ["1 a.png positive bimcv", "2 b.png negative rsna"],
        "val": ["5 c.png negative rsna"],
        "test": ["6 d.png positive midrc", "7 e.png negative midrc"],
    }
    covidx(raw, [(f"{name}.txt", name, lines) for name, lines in parts.items()])


def siim(raw):
    """Two pieces of mask on one image, one on another, none on two; ids hold dots."""
    ids = [f"1.2.276.0.7230010.3.1.4.8323329.{number}.1517875201.8508{number}" for number in range(4)]
    for number, name in enumerate(ids):
        dicom(raw / "dicom-images-train" / f"1.2.{number}" / f"1.3.{number}" / f"{name}.dcm", number)
    rows = [
        (ids[0], " -1"),
        (ids[1], "0 512"),
        (ids[2], "-1"),
        (ids[1], "523776 512 512 512"),
        (ids[3], "1023 1"),
    ]
    lines = ["ImageId, EncodedPixels", *(f"{name},{rle}" for name, rle in rows)]
    (raw / "train-rle.csv").write_text("\n".join(lines) + "\n")


def rsna(raw):
    """Two boxes on one image, one on another, none on two."""
    names = [f"0004cfab-14fd-4e49-80ba-63a80b6bddd{number}" for number in range(4)]
    for number, name in enumerate(names):
        dicom(raw / "stage_2_train_images" / f"{name}.dcm", number)
    lines = ["patientId,x,y,width,height,Target", f"{names[0]},,,,,0"]
    lines += [f"{names[1]},256.0,512.0,128.0,256.0,1", f"{names[1]},0.0,0.0,512.0,512.0,1"]
    lines += [f"{names[2]},512.0,0.0,512.0,1024.0,1", f"{names[3]},,,,,0"]
    (raw / "stage_2_train_labels.csv").write_text("\n".join(lines) + "\n")


def shenzhen(raw):
    """Two images with tuberculosis, of which one has two regions of one abnormality and one of another."""
    for number, tuberculosis in ((1, 0), (2, 0), (327, 1), (330, 1)):
        stem = f"CHNCXR_{number:04}_{tuberculosis}"
        film(raw / "CXR_png" / f"{stem}.png", number)
        (raw / "ClinicalReadings").mkdir(exist_ok=True)
        (raw / "ClinicalReadings" / f"{stem}.txt").write_text(
            "Female 39yrs\nnormal" if number > 1 else "male 45yr"
        )
    folder = raw / "Annotations" / "masks"
    mask(folder / "CHNCXR_0327_1_Small_Infiltrate_(non-linear)_1.png", (0, 0, 12, 12))
    mask(folder / "CHNCXR_0327_1_Small_Infiltrate_(non-linear)_2.png", (24, 0, 36, 12))
    mask(folder / "CHNCXR_0327_1_Pleural_Effusion_1.png", (0, 36, 48, 48))
    mask(folder / "CHNCXR_0999_1_Pleural_Effusion_1.png", (0, 36, 48, 48))


def lungs(raw):
    """Masks of 0 and 1, some named as their image and some with _mask."""
    for folder, numbers in (("Train", range(5)), ("Test", range(5, 7))):
        for number in numbers:
            film(raw / folder / "Images" / f"film_{number}.png", number)
            ending = "_mask" if number % 2 else ""
            mask(raw / folder / "Masks" / f"film_{number}{ending}.png", (8, 8, 40, 40), white=1)


def masks(raw):
    """A mask named as its image, one that adds its finding, one in its finding's folder, an image without."""
    for number in range(3):
        film(raw / "images" / f"p{number}_1.png", number)
    mask(raw / "masks" / "p0_1.png", (0, 0, 24, 24))
    mask(raw / "masks" / "p0_1_Pleural_Effusion.png", (24, 24, 48, 48))
    mask(raw / "masks" / "Mass" / "p1_1.png", (24, 24, 48, 48))


def coco(raw):
    """Two boxes of one category on one image, one of another; a box half a pixel over the border."""
    for number in range(3):
        film(raw / "images" / f"p{number}_1.png", number)
    content = {
        "images": [{"id": n, "file_name": f"p{n}_1.png", "width": SIDE, "height": SIDE} for n in range(3)],
        "categories": [{"id": 1, "name": "pleural effusion"}, {"id": 2, "name": "Mass"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "bbox": [12, 24, 6, 12]},
            {"id": 2, "image_id": 0, "category_id": 1, "bbox": [24, 24, 24.5, 12]},
            {"id": 3, "image_id": 2, "category_id": 2, "bbox": [0, 0, 48, 48]},
        ],
    }
    (raw / "annotations.json").write_text(json.dumps(content))


def merged_520k(raw):
    """The three releases of the paper's corpus, side by side."""
    for write in (chestxray14, chexpert, mimic_cxr):
        (raw / write.__name__).mkdir(parents=True)
        write(raw / write.__name__)


RELEASES = {
    write.__name__: write
    for write in (
        chestxray14, chexpert, mimic_cxr, covidx9a, covidx_cxr4, siim, rsna, shenzhen, lungs, masks, coco,
        merged_520k,
    )
}  # fmt: skip


def written(name, folder):
    """The folder with a release in it."""
    folder.mkdir(parents=True, exist_ok=True)
    RELEASES[name](folder)
    return folder


def with_files(folder, files):
    """The folder with these files in it, of text or of bytes, by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
