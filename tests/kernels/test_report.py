"""What `hf-genai doctor` says of this machine and of the kernels."""

import getpass
import json
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hf_genai import cli, kernels
from hf_genai.commands.doctor import processor
from hf_genai.kernels.report import reports

CPUINFO = """processor\t: 0
model name\t: Example CPU 9000
flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_tile avx512_vnni aes
processor\t: 1
model name\t: Example CPU 9000
"""


def doctor(capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *options])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_twin_says_what_it_does_and_when_it_runs():
    for report in reports():
        assert report.what.endswith(".") and report.when.endswith("."), report
        assert report.families and set(report.families) <= set(kernels.TWINS)


def test_a_twin_is_reported_with_its_families_and_with_what_it_lacks(monkeypatch, capsys):
    module = ModuleType("hf_genai.kernels.example")
    module.missing = lambda: None

    def double(plain, x):
        """Double a number,
        quickly.

        Runs on even days.
        """

    module.double = double
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(kernels.TRANSFORMER, "double", "example")
    assert reports()[-1] == (
        "double",
        ["genai_bert", "genai_gpt", "genai_t5"],
        "Double a number, quickly.",
        "Runs on even days.",
        None,
    )
    assert "on here. Runs on even days." in doctor(capsys)
    module.missing = lambda: "this CPU cannot double"
    assert reports()[-1].problem == "this CPU cannot double"
    assert "off here: this CPU cannot double" in doctor(capsys)
    monkeypatch.setenv("HF_GENAI_KERNELS", "0")
    assert {report.problem for report in reports()} == {"HF_GENAI_KERNELS=0 turns all kernels off"}
    assert "on here" not in doctor(capsys)


def test_the_table_and_the_json_name_versions_and_devices_and_nobody(capsys):
    page, machine = doctor(capsys), json.loads(doctor(capsys, "--json"))
    assert machine["devices"][0] == "cpu" and set(machine["fast_generate"]) == {"float32", "bfloat16", "int8"}
    for name in ("python", "torch", "transformers", "hf_genai"):
        assert f"{name} {machine['versions'][name]}" in page
    for text in (page, json.dumps(machine)):
        for private in (socket.gethostname(), getpass.getuser(), str(Path.home())):
            assert private not in text


def test_the_cpu_is_named_with_the_instruction_sets_that_products_use(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    flags = ["amx_tile", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "fma"]
    assert processor(tmp_path / "cpuinfo") == ("Example CPU 9000", flags)
    model, flags = processor(tmp_path / "nothing")
    assert model and flags == []
