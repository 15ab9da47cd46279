"""Question: how much faster do training crops come from a store than from the release's own files?

Per core, 224-pixel crops of images that lie as 1024 x 1024 PNG (as ChestX-ray14 is released) and as 12-bit
DICOM of 2500 x 2048 (plain, and JPEG 2000 lossless): from our store; with Pillow (or pydicom) and
torchvision's RandomResizedCrop; and, for PNG, with the chain of torchxrayvision's data sets (imageio, its
normalisation, centre crop and resizer; it cuts no random crops). What a store costs once, a read of every
image by `prepare`'s own chain, is measured too. One thread each, in turn, in processor time: so other work on
the machine is not in it, and neither is waiting for a disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imageio
import numpy as np
import pandas as pd
import pydicom
import torch
import torchxrayvision as xrv
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless
from torchvision.transforms import v2

from circumstances import keep
from evax.data.augment import CropConfig
from evax.data.building import build_store
from evax.data.loader import Films, training_batches
from evax.data.manifest import Manifest
from evax.data.phantom import make_phantom
from evax.data.pictures import read_image
from evax.data.preprocess import Preprocess

FILMS, CROPS, ROUNDS = 8, 1200, 3
KINDS = ("png", "dicom", "dicom-jpeg2000")
CROP = v2.Compose(
    [
        v2.RandomResizedCrop(224, (0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
    ]
)
XRV_CROP = v2.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)])


def write_dicom(path: Path, stored: np.ndarray, compressed: bool) -> None:
    """A 12-bit image as a digital detector would send it."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = JPEG2000Lossless if compressed else ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3"
    film.Modality, film.PhotometricInterpretation, film.SamplesPerPixel = "DX", "MONOCHROME2", 1
    film.Rows, film.Columns = stored.shape
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.WindowCenter, film.WindowWidth = 2048, 4096
    film.PixelData = (
        encapsulate([encode_array(stored, bits_stored=12)]) if compressed else stored.astype("<u2").tobytes()
    )
    film["PixelData"].VR = "OB" if compressed else "OW"
    pydicom.dcmwrite(path, film, enforce_file_format=True)


def write_films(folder: Path) -> None:
    """The same images in three kinds of files; fine noise, so that they compress as images do."""
    rng = np.random.default_rng(0)
    for kind in KINDS:
        (folder / kind).mkdir()
    for patient in range(FILMS):
        picture = Image.fromarray(make_phantom(0, patient).pixels.astype(np.float32))
        small = np.asarray(picture.resize((1024, 1024), Image.Resampling.BICUBIC))
        small = np.clip(small + rng.normal(0, 0.01, small.shape), 0, 1)
        Image.fromarray((small * 255).astype(np.uint8)).save(folder / "png" / f"{patient}.png")
        large = np.asarray(picture.resize((2048, 2500), Image.Resampling.BICUBIC))
        stored = (np.clip(large + rng.normal(0, 0.004, large.shape), 0, 1) * 4095).astype(np.uint16)
        write_dicom(folder / "dicom" / f"{patient}.dcm", stored, compressed=False)
        write_dicom(folder / "dicom-jpeg2000" / f"{patient}.dcm", stored, compressed=True)


def store_of(folder: Path, kind: str):
    names = sorted(path.name for path in (folder / kind).iterdir())
    texts = dict.fromkeys(("study", "view", "sex"), "")
    table = pd.DataFrame({"image": names, "patient": names, **texts, "age": np.nan, "split": "train"})
    manifest = Manifest(table=table, findings=(), exclusive=False, source="benchmark", root=folder / kind)
    return build_store(manifest, folder / f"store-{kind}", workers=1)


def rate(count: int, work: Callable[[int], object]) -> float:
    """Calls per second of processor time."""
    start = time.process_time()
    for index in range(count):
        work(index)
    return count / (time.process_time() - start)


def from_store(store) -> float:
    batches = training_batches(
        Films([(store, store.rows("train"))]),
        batch_size=100, size=224, crop=CropConfig(), seed=0, steps=range(CROPS // 100), workers=1,
    )  # fmt: skip
    start = time.process_time()
    count = sum(len(batch.images) for batch in batches)
    return count / (time.process_time() - start)


def with_pillow(path: Path) -> np.ndarray:
    return np.asarray(CROP(Image.open(path).convert("L")))


def with_pydicom(path: Path) -> np.ndarray:
    film = pydicom.dcmread(path)
    shown = pydicom.pixels.apply_voi_lut(film.pixel_array, film)
    grey = (shown / max(shown.max(), 1) * 255).astype(np.uint8)
    return np.asarray(CROP(Image.fromarray(grey)))


def with_torchxrayvision(path: Path) -> np.ndarray:
    film = xrv.datasets.normalize(imageio.imread(path), maxval=255, reshape=True)
    return XRV_CROP(film)


def main() -> None:
    torch.set_num_threads(1)
    prepare = Preprocess(store_size=336, input_size=224, mean=0.5, std=0.3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_films(folder)
        result = {}
        for kind in KINDS:
            paths = sorted((folder / kind).iterdir())
            store = store_of(folder, kind)
            usual = {"torchvision": with_pillow if kind == "png" else with_pydicom}
            if kind == "png":
                usual["torchxrayvision"] = with_torchxrayvision
            ways: dict[str, Callable[[], float]] = {"store": lambda store=store: from_store(store)}
            for way, read in usual.items():
                ways[way] = lambda read=read, paths=paths: rate(FILMS, lambda i: read(paths[i]))
            ways["prepare_once"] = lambda paths=paths: rate(
                FILMS, lambda i: prepare.to_store(read_image(paths[i]).pixels)
            )
            rounds = [{way: measure() for way, measure in ways.items()} for _ in range(ROUNDS + 1)][1:]
            rates = {way: statistics.median(turn[way] for turn in rounds) for way in ways}
            result[kind] = {f"{way}_per_s": round(value, 1) for way, value in rates.items()} | {
                f"store_over_{way}": round(statistics.median(turn["store"] / turn[way] for turn in rounds), 1)
                for way in usual
            }
    keep("read_images", __doc__.split("\n")[0].removeprefix("Question: "), result)


if __name__ == "__main__":
    main()
