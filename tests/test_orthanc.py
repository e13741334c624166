"""With a real PACS: Orthanc (Debian packages orthanc and orthanc-dicomweb) on this machine's loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from dicom_out_examples import grid_of, read_segmentation, valid, write_ball
from dicomweb_client.api import DICOMwebClient
from test_dicom_predicting import LIVER
from test_prediction import small_model

from medseg import cli, documents, io
from medseg.model import MODEL_FILE, WEIGHTS_FILE, FoldFacts, ModelDocument, fold_folder, save_tensors
from medseg.node import Node, NodeSettings, Peer
from medseg.node.answering import predicting
from medseg.prediction import Predictor, load_predictor

BINARY = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
pytestmark = [
    pytest.mark.skipif(
        BINARY is None or not PLUGIN.exists(), reason="Orthanc (packages orthanc, orthanc-dicomweb) is not installed"
    ),
    # pynetdicom leaves the socket of a connection that was refused to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@dataclass(frozen=True)
class Pacs:
    """A running Orthanc."""

    url: str
    dicom_port: int
    node_port: int

    @property
    def web(self) -> DICOMwebClient:
        """Its DICOMweb services."""
        return DICOMwebClient(f"{self.url}/dicom-web")

    def modalities(self, study: str) -> list[str]:
        """Modalities of the series it holds of a study."""
        found = self.web.search_for_series(study)
        return sorted(series["00080060"]["Value"][0] for series in found)

    def objects(self, study: str, modality: str) -> list[pydicom.Dataset]:
        """Its instances of a study and modality."""
        found = self.web.search_for_instances(study, search_filters={"Modality": modality})
        uids = [(each["0020000E"]["Value"][0], each["00080018"]["Value"][0]) for each in found]
        return [self.web.retrieve_instance(study, *pair) for pair in uids]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pacs(tmp_path_factory) -> Iterator[Pacs]:
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom_port, node_port = free_port(), free_port(), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http,
        "DicomPort": dicom_port,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"medseg": ["MEDSEG", "127.0.0.1", node_port]},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    assert BINARY is not None
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([BINARY, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
    found = Pacs(f"http://127.0.0.1:{http}", dicom_port, node_port)
    try:
        until = time.monotonic() + 30
        while not answers(f"{found.url}/dicom-web/studies"):
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A model of random weights whose masks have no symmetry: any turn or flip of them would be seen."""
    folder, files = tmp_path_factory.mktemp("model"), write_ball(tmp_path_factory.mktemp("scan"))
    model = small_model(labels=LIVER)
    likely = Predictor(model, "cpu", "fp32").predict_probabilities(files[0].parent)[1].clip(1e-6, 1 - 1e-6)
    shift = float(np.median(np.log(likely[0] / likely[1])))
    weights = dict(model.weights["0"])
    for name, tensor in weights.items():
        if name.endswith("bias") and tensor.shape == (2,):
            weights[name] = tensor + tensor.new_tensor([0.0, shift])
    documents.save(ModelDocument(1, model.plan, model.configuration.name), folder / MODEL_FILE)
    facts = documents.to_json(FoldFacts((0, 1, 2), "fp32", 1, 1.0, 0))
    save_tensors(fold_folder(folder, 0) / WEIGHTS_FILE, weights, {"fold": facts})
    return folder


def test_a_study_fetched_by_dicomweb_is_predicted_and_its_mask_is_found_in_the_archive(pacs, model_folder, tmp_path):
    files = write_ball(tmp_path / "scan")
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    pacs.web.store_instances([pydicom.dcmread(file) for file in files])
    for number, image in enumerate(pacs.web.retrieve_study(study)):
        path = tmp_path / "fetched" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        image.save_as(path, enforce_file_format=True)
    for format, folder in (("seg", "masks"), ("nifti", "nifti")):
        arguments = ["predict", str(tmp_path / "fetched"), "-o", str(tmp_path / folder), "-m", str(model_folder)]
        assert cli.run([*arguments, "--device", "cpu", "--precision", "fp32", "--format", format]) == 0
    (seg,), (report,) = (tmp_path / "masks").glob("*/*.seg.dcm"), (tmp_path / "masks").glob("*/*.sr.dcm")
    pacs.web.store_instances([pydicom.dcmread(seg), pydicom.dcmread(report)])
    assert pacs.modalities(study) == ["CT", "SEG", "SR"]
    (back,) = pacs.objects(study, "SEG")
    back.save_as(tmp_path / "back.dcm", enforce_file_format=True)
    mask = io.read_labels(next((tmp_path / "nifti").glob("*.nii.gz")))
    mask.geometry.require_equal(grid_of(files), "mask", "scan")
    liver = read_segmentation(tmp_path / "back.dcm", mask.geometry)["liver"]
    assert 0.02 < liver.mean() < 0.98
    assert (liver == (mask.array == 7)).all()
    assert valid(tmp_path / "back.dcm") == ""


def test_the_archive_sends_a_study_to_the_node_and_gets_its_mask_back(pacs, model_folder, tmp_path):
    files = write_ball(tmp_path / "scan")
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    pacs.web.store_instances([pydicom.dcmread(file) for file in files])
    found = requests.post(
        f"{pacs.url}/tools/find", json={"Level": "Study", "Query": {"StudyInstanceUID": study}}, timeout=10
    ).json()
    settings = NodeSettings(
        spool=tmp_path / "spool",
        peer=Peer("ORTHANC", "127.0.0.1", pacs.dicom_port),
        accept=("ORTHANC",),
        host="127.0.0.1",
        port=pacs.node_port,
        quiet_s=0.5,
    )
    predictor = load_predictor(model_folder, device="cpu", precision="fp32")
    with Node(settings, predicting(predictor)):
        for _ in range(2):  # the second time everything is known already
            sent = requests.post(f"{pacs.url}/modalities/medseg/store", json=found, timeout=30)
            assert sent.status_code == 200
            until = time.monotonic() + 30
            while pacs.modalities(study) != ["CT", "SEG", "SR"]:
                assert time.monotonic() < until, (pacs.modalities(study), list((tmp_path / "spool").rglob("*")))
                time.sleep(0.1)
        time.sleep(1.5)
    (seg,) = pacs.objects(study, "SEG")
    (report,) = pacs.objects(study, "SR")
    referred = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referred} == {
        pydicom.dcmread(file).SOPInstanceUID for file in files
    }
    assert str(report.StudyInstanceUID) == study
