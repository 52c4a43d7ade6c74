from types import SimpleNamespace

import pytest
import torch

from difflm_core import device
from difflm_core.device import autocast, choose_precision
from difflm_core.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("speedup", "expected"), [(2.0, torch.bfloat16), (0.5, torch.float32)])
def test_auto_takes_bfloat16_where_it_is_faster(monkeypatch, speedup, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(device, "_bfloat16_speedup", lambda: speedup)
    assert choose_precision("auto", CPU) is expected


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": False}])
def test_a_processor_that_emulates_bfloat16_computes_in_float32(monkeypatch, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(device, "_bfloat16_speedup", lambda: 2.0)
    assert choose_precision("auto", CPU) is torch.float32
    assert choose_precision("bfloat16", CPU) is torch.bfloat16


@pytest.mark.parametrize(("slower", "expected"), [(torch.float32, 4), (torch.bfloat16, 1 / 4)])
def test_the_speedup_is_the_ratio_of_the_fastest_products(monkeypatch, slower, expected):
    clock = SimpleNamespace(now=0.0, products=0)

    def linear(rows, weights):
        clock.products += 1
        disturbance = 100.0 if clock.products <= 4 else 0.0
        clock.now += (4.0 if rows.dtype is slower else 1.0) + disturbance

    monkeypatch.setattr(device.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert device._bfloat16_speedup.__wrapped__() == pytest.approx(expected)


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
