"""An exported bundle answers as torch does, without torch, and is refused if it is not what was compared."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import evax
from evax.cli import run
from evax.data.preprocess import Preprocess
from evax.deploy.bundle import Card, save_bundle
from evax.errors import ConfigError, DataError, ExportError, install_command
from evax.files import FolderLock
from evax.jobs.export import real_images
from evax.models.classifier import Classifier
from evax.models.encoders import CNNS, build_encoder
from evax.options.results import ExportConfig

TINY = "eva_x_tiny_patch16_224"


def make_bundle(folder, name=TINY, kind="classifier", exclusive=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_encoder(name) if name in CNNS else build_encoder(name, img_size=64)
        if kind == "classifier":
            network = Classifier(network, 3)
            torch.nn.init.normal_(network.head.weight, std=0.3)
    card = Card(
        kind=kind,
        encoder=name,
        preprocess=Preprocess(
            store_size=80, input_size=64, mean=(0.4, 0.5, 0.6) if name == "densenet121" else 0.4,
            std=(0.2, 0.3, 0.2) if name == "densenet121" else 0.2,
        ),
        findings=("Effusion", "Mass", "Edema") if kind == "classifier" else (),
        exclusive=exclusive,
        training={"recipe": {"store": "stores/of-a-ward"}},
        thresholds={"Effusion": 0.5, "Mass": 0.0, "Edema": None} if kind == "classifier" else {},
    )  # fmt: skip
    return save_bundle(folder, card, network)


def evax_command(*arguments, before=""):
    """evax in a process of its own: shape checks, which the tests switch on, do not go with torch's export.

    before: Python that is run first.
    """
    program = f"import sys\n{before}\nfrom evax.cli import run\nsys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("exported"))
    done = evax_command("export", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "onnx.json")
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture
def films(tmp_path):
    """Three images of different shapes."""
    folder = tmp_path / "films"
    folder.mkdir()
    for number, shape in enumerate([(120, 90), (64, 64), (50, 200)]):
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_it_answers_as_torch_does_for_any_number_of_images(exported, films):
    ours, theirs = evax.open_bundle(exported), evax.open_bundle(exported, runtime="onnx")
    radiographs = [evax.read_image(path) for path in sorted(films.iterdir())]
    for count in (1, 2, 3):
        expected = ours.predict(radiographs[:count])
        assert theirs.predict(radiographs[:count]) == pytest.approx(expected, abs=1e-4)
    assert list(theirs(radiographs[0])) == ["Effusion", "Mass", "Edema"]
    assert np.ptp(expected, axis=0).min() > 1e-3  # the images are told apart


def test_several_images_and_paths_are_scored_as_a_list_in_every_runtime(exported, films):
    paths = sorted(films.iterdir())
    mixed = [str(paths[0]), evax.read_image(paths[1]), paths[2]]
    expected = [evax.open_bundle(exported)(path) for path in paths]
    for runtime in ("onnx", "openvino"):
        answers = evax.open_bundle(exported, runtime)(mixed)
        assert len(answers) == len(expected)
        for answer, other in zip(answers, expected, strict=True):
            assert answer == pytest.approx(other, abs=1e-4)


def test_its_map_is_grad_cam_at_the_output_and_norm1_is_refused(exported, films):
    ours, theirs = evax.open_bundle(exported), evax.open_bundle(exported, runtime="onnx")
    film = evax.read_image(films / "0.png")
    for finding in ("Effusion", "Edema"):
        expected = evax.grad_cam(ours, film, finding, at="output")
        assert expected.max() == pytest.approx(1, abs=1e-6)
        assert evax.grad_cam(theirs, film, finding) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ConfigError, match="maps at its output, not at norm1"):
        evax.grad_cam(theirs, film, "Effusion", at="norm1")


def test_the_certificate_says_what_was_compared_and_how_well(exported):
    certificate = json.loads((exported / "onnx.json").read_text())
    assert certificate["films"] == 19
    assert certificate["films_are"] == "16 synthetic images; black, white, noise"
    measured = certificate["runtimes"]["onnx"]
    assert 0 < measured["largest_difference"] < 1e-4
    assert measured["films_with_another_decision"] == 0
    assert measured["version"] == onnxruntime.__version__


def test_the_file_itself_says_what_it_is(exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    card = json.loads(session.get_modelmeta().custom_metadata_map["evax_card"])
    assert card == json.loads((exported / "card.json").read_text()) | {"training": {}}
    (films,) = session.get_inputs()
    assert films.type == "tensor(uint8)"
    assert films.shape[1:] == [1, 64, 64]
    assert [output.name for output in session.get_outputs()] == ["probabilities", "maps"]


@pytest.mark.parametrize("file", ["model.onnx", "model.safetensors"])
def test_files_that_were_changed_after_the_comparison_are_refused(copied, file):
    content = bytearray((copied / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / file).write_bytes(content)
    with pytest.raises(
        ExportError, match=f"{file} is not the file that .*onnx.json was written for: run `evax exp"
    ):
        evax.open_bundle(copied, runtime="onnx")


def test_it_says_nothing_of_the_machine_that_wrote_it(exported):
    for file in ("model.onnx", "onnx.json"):
        content = (exported / file).read_bytes()
        assert not [word for word in (b"site-packages", b".py", b"of-a-ward") if word in content]


def test_thresholds_may_change_but_a_card_of_other_findings_or_images_is_refused(copied):
    card = json.loads((copied / "card.json").read_text())
    (copied / "card.json").write_text(json.dumps(card | {"thresholds": {"Mass": 0.9}}))
    evax.open_bundle(copied, runtime="onnx")
    for change in (
        {"findings": ["Mass", "Effusion", "Edema"]},
        {"preprocess": card["preprocess"] | {"store_size": 96}},
    ):
        (copied / "card.json").write_text(json.dumps(card | change))
        with pytest.raises(ExportError, match="card.json is not the card that .*onnx.json was written for"):
            evax.open_bundle(copied, runtime="onnx")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"format', "cannot be read as JSON"), ("[1]", "no certificate of format 1"),
        ('{"format": 2}', "no certificate of format 1: update evax"),
    ],
)  # fmt: skip
def test_a_certificate_that_is_damaged_or_of_another_format_is_refused(copied, content, reason):
    (copied / "onnx.json").write_text(content)
    with pytest.raises(ExportError, match=f"onnx.json .*{reason}.* run `evax export .*copy` again"):
        evax.open_bundle(copied, runtime="onnx")


@pytest.mark.parametrize("threads", ["abc", "2,1", "-3", ""])
def test_any_number_of_threads_that_openmp_bears_is_borne(exported, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    evax.open_bundle(exported, runtime="onnx")


def test_it_needs_no_weights_of_torch(copied, films):
    before = evax.open_bundle(copied, runtime="onnx")(films / "0.png")
    (copied / "model.safetensors").unlink()
    assert evax.open_bundle(copied, runtime="onnx")(films / "0.png") == before


def test_a_bundle_that_was_not_exported_is_refused_with_the_command(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    with pytest.raises(
        ExportError,
        match=r"bundle was not exported: `evax export .*bundle`, where torch is, writes model.onnx",
    ):
        evax.open_bundle(folder, runtime="onnx")


def test_a_bundle_that_another_run_exports_is_left_to_it(copied):
    before = sorted(path.stat().st_mtime_ns for path in copied.iterdir())
    with FolderLock(copied):
        done = evax_command("export", copied)
    assert done.returncode == 1
    assert f"Another run is writing {copied}: wait for it" in done.stderr
    assert sorted(path.stat().st_mtime_ns for path in copied.iterdir()) == before


@pytest.mark.long
def test_a_runtime_that_differs_from_torch_is_refused_and_nothing_is_written(tmp_path, films):
    folder = make_bundle(tmp_path / "bundle", exclusive=True)
    before = sorted(folder.iterdir())
    stricter = "import evax.deploy.export; evax.deploy.export.MOST_DIFFERENCE = 1e-12"
    done = evax_command("export", folder, "--films", films, before=stricter)
    assert done.returncode == 1
    assert "onnx differs from torch by " in done.stderr
    assert "on these images, more than 1e-12. Nothing was written" in done.stderr
    assert sorted(folder.iterdir()) == before


BASE_INSTALL = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
absent = ("torch", "pandas", "matplotlib", "scipy", "sklearn", "pyarrow", "timm", "safetensors", "onnx")
PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] in absent else found(name, *rest)
"""


def test_images_are_scored_and_drawn_on_a_machine_without_torch(exported, films, tmp_path):
    def command(out):
        return ["predict", str(exported), str(films), "--out", str(out), "--heatmaps", f"{out}-maps"]

    without = tmp_path / "without.csv"
    done = evax_command(*command(without), before=BASE_INSTALL)
    assert done.returncode == 0, done.stderr
    assert run(command(tmp_path / "torch.csv")) == 0
    tables = [
        list(csv.DictReader(path.read_text().splitlines())) for path in (without, tmp_path / "torch.csv")
    ]
    assert len(tables[0]) == 3
    for ours, theirs in zip(*tables, strict=True):
        assert ours["Mass:present"] == "1"
        for column, value in theirs.items():
            if column in ("Effusion", "Mass", "Edema"):
                assert float(ours[column]) == pytest.approx(float(value), abs=1e-4)
            else:
                assert ours[column] == value
    names = [{path.name for path in (tmp_path / f"{out}.csv-maps").iterdir()} for out in ("without", "torch")]
    assert names[0] == names[1]
    assert "00001-0-Mass.png" in names[0]


def test_without_torch_a_bundle_opens_as_it_was_exported_or_says_what_to_install_or_export(
    exported, films, tmp_path
):
    program = f"""{BASE_INSTALL}
import sys, evax
from evax.errors import ExportError
answer = evax.open_bundle(sys.argv[1])(sys.argv[2])
print(list(answer.values()))
for arguments in (sys.argv[3:4], sys.argv[1:2] + ["torch"], ["eva_x_small_cxr14"]):
    try:
        evax.open_bundle(*arguments)
    except ExportError as error:
        print(error)
"""
    bare, film = make_bundle(tmp_path / "bare"), films / "0.png"
    command = [sys.executable, "-c", program, *map(str, (exported, film, bare))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, not_exported, no_torch, not_converted = done.stdout.splitlines()
    assert json.loads(answer) == pytest.approx(list(evax.open_bundle(exported)(film).values()), abs=1e-4)
    assert f"{bare} was not exported: `evax export {bare}`, where torch is, writes" in not_exported
    assert f"or run it in torch here: {install_command('train')}" in not_exported
    assert no_torch == f"The runtime torch is not installed here: {install_command('train')}"
    assert "A published file is converted to one by torch, which is not installed here" in not_converted


def test_a_runtime_that_is_not_installed_is_refused_before_torch_is_loaded(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    before = "import atexit; atexit.register(lambda: print('torch' in sys.modules))"
    before += "\nsys.modules['openvino'] = None"  # what import sees where there is none
    done = evax_command("export", folder, "--runtimes", "onnx", "openvino", before=before)
    said = f"evax export: The runtime openvino is not installed here: {install_command('openvino')}\n"
    assert (done.returncode, done.stderr, done.stdout) == (1, said, "False\n")


def test_what_needs_torch_says_so_where_there_is_none(exported, films, tmp_path):
    done = evax_command("export", exported, before=BASE_INSTALL)
    assert done.returncode == 1
    assert done.stderr == f"evax export: this needs the package torch: {install_command('train')}\n"


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (TINY, "encoder"), ("eva_x_base_patch16_224", "classifier"), ("vit_small_patch16_224", "classifier"),
        ("efficientnet_lite0", "classifier"), ("densenet121", "classifier"),
    ],
)  # fmt: skip
def test_every_kind_of_network_agrees_in_both_runtimes(name, kind, tmp_path, films):
    folder = make_bundle(tmp_path / "bundle", name, kind)
    done = evax_command("export", folder, "--films", films, "--runtimes", "onnx", "openvino")
    assert done.returncode == 0, done.stderr
    measured = json.loads((folder / "onnx.json").read_text())["runtimes"]
    assert set(measured) == {"onnx", "openvino"}
    film, answers = films / "2.png", []
    for runtime in ("torch", "onnx", "openvino"):
        answer = evax.open_bundle(folder, runtime=runtime)(film)
        answers.append(list(answer.values()) if kind == "classifier" else answer)
    assert answers[1] == pytest.approx(answers[0], abs=1e-3)
    assert answers[2] == pytest.approx(answers[0], abs=1e-3)


def test_of_given_images_the_first_readable_ones_are_compared(tmp_path, films):
    (films / "0-broken.png").write_bytes(b"no film")
    chosen = real_images(ExportConfig(bundle=tmp_path, films=(films,), most_films=2), None)
    shapes = [evax.read_image(films / name).pixels.shape for name in ("0.png", "1.png")]
    assert [film.pixels.shape for film in chosen] == shapes
    for path in films.iterdir():
        path.write_bytes(b"no film")
    with pytest.raises(DataError, match="No image in .* can be read"):
        real_images(ExportConfig(bundle=tmp_path, films=(films,)), None)
