"""Graphs for Ascend and GPU, compiled by MindSpore's own plugins over stand-ins for CANN and CUDA."""
import re

import pytest

from devices import stand_in
from devices.compile_all import CONTROLS, FAMILIES, PAGE, TARGET, compile_graphs, graphs

pytestmark = pytest.mark.skipif(bool(stand_in.missing_tools()), reason=f"needs {stand_in.missing_tools()}")


def check(device: str, names: list[str]) -> None:
    for result in compile_graphs(device, names):
        assert result["outcome"] == TARGET[device], result


@pytest.mark.long
@pytest.mark.parametrize("device", TARGET)
def test_a_small_network_compiles_and_an_operator_that_is_not_there_is_refused(device):
    control, network = compile_graphs(device, ["control", "gmlp:predict"])
    assert control["outcome"] == "refused" and "NoSuchKernel" in control["said"], control
    assert network["outcome"] == TARGET[device], network


@pytest.mark.devices
@pytest.mark.parametrize("device", TARGET)
def test_an_operator_that_is_not_there_is_refused_wherever_it_stands(device):
    for result in compile_graphs(device, CONTROLS):
        assert result["outcome"] == "refused" and "NoSuchKernel" in result["said"], result


@pytest.mark.devices
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", TARGET)
def test_every_graph_of_a_family_compiles(device, family):
    names = graphs(device, family)
    check(device, [name for name in names if ":ranks" not in name])
    if any(":ranks" in name for name in names):
        check(device, [name for name in names if ":ranks" in name])


@pytest.mark.devices
def test_gradients_are_reduced_in_as_many_groups_as_asked_for(tmp_path):
    """Each group has a number of its own in the compiled graph; of one number, nothing would overlap with anything."""
    compile_graphs("Ascend", ["gmlp:train:ranks"], MS_DEV_SAVE_GRAPHS="1", MS_DEV_SAVE_GRAPHS_PATH=str(tmp_path))
    text = "\n".join(file.read_text(errors="replace") for file in tmp_path.rglob("*validate*.ir"))
    assert set(re.findall(r"AllReduce.*fusion: (?:I64\()?(\d+)", text)) >= {"1", "2", "3"}


def test_the_page_of_results_is_of_the_version_that_the_requirements_name():
    requirements = (stand_in.HERE.parents[1] / "requirements.txt").read_text(encoding="utf-8")
    version = re.search(r"^mindspore==(\S+)", requirements, re.MULTILINE).group(1)
    text = PAGE.read_text(encoding="utf-8")
    assert f"MindSpore {version} " in text and "| died |" not in text
