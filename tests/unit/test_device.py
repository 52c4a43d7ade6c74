from types import SimpleNamespace

import pytest
import torch

from difflm_core.device import autocast, choose_precision
from difflm_core.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_only_where_it_is_native(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert choose_precision("auto", CPU) is expected


def test_a_processor_that_says_nothing_of_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision("auto", CPU) is torch.float32
    assert choose_precision("bfloat16", CPU) is torch.bfloat16


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError) as error:
        choose_precision("half", CPU)
    assert str(error.value) == "precision 'half': expected auto, float32 or bfloat16."


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_asked_for_native_bfloat16(monkeypatch, native):
    asked = SimpleNamespace(emulation=None)

    def is_supported(including_emulation):
        asked.emulation = including_emulation
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    precision = choose_precision("auto", torch.device("cuda"))
    assert (precision is torch.bfloat16) == native
    assert asked.emulation is False


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_matrices_are_multiplied_in_the_precision(precision):
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, precision):
        assert layer(torch.ones(2, 4)).dtype is precision
    assert layer(torch.ones(2, 4)).dtype is torch.float32
