"""Names of slices, what is wrong with them, and what their links carry."""

import dataclasses
import importlib.util

import pytest

from flan_jax import errors, sharding
from flan_jax.planning import slices

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "unknown chip 'v9'.*known: v3, v4, v5e, v5p, v6e"),
        ("v5:4x4", "did you mean 'v5p' or 'v5e'"),
        ("v4:4x4", "3 axes.*did you mean .*'v4:4x4x4'"),
        ("v3:8x8x8", "2 axes.*did you mean .*'v3:8x8'"),
        ("v4", "expected chip:AxB"),
        ("v5e:", "expected chip:AxB.*did you mean 'v5e:"),
    ],
)
def test_a_wrong_name_gets_a_near_one(name, message):
    for call in (slices.open_slice, slices.device_count):
        with pytest.raises(errors.FlanError, match=message) as raised:
            call(name)
        assert "\n" not in str(raised.value)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.FlanError, match=r"^planning .*: pip install 'libtpu==[\d.]+(\*)?'$"):
        slices.open_slice("v4:4x4x4")


@pytest.mark.parametrize(
    ("name", "devices"), [("v3:8x8", 128), ("v4:4x4x4", 64), ("2*v4:2x2x2", 16), ("v5e:16x16", 256), ("v6e:2x4", 8)]
)
def test_devices_are_counted_without_a_compiler(name, devices):
    assert slices.device_count(name) == devices


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "cores"), [("v3:2x2", False), ("v4:2x2x2", False), ("v4:2x2x2", True), ("2*v4:2x2x1", False)]
)
def test_the_compiler_sees_as_many_devices(name, cores):
    found = slices.open_slice(name, cores=cores)
    assert len(found.devices) == slices.device_count(name) * (2 if cores else 1)
    assert len({getattr(device, "slice_index", None) for device in found.devices}) == found.slices
    assert found.usable < found.chip.usable * 1.01 / (2 if cores else 1)


@needs_libtpu
def test_a_shape_that_libtpu_refuses():
    with pytest.raises(errors.FlanError, match=r"v5e:3x5.*did you mean 'v5e:"):
        slices.open_slice("v5e:3x5")


@dataclasses.dataclass
class Device:
    coords: tuple[int, int, int]
    slice_index: int | None = None


def test_bandwidth_grows_with_the_axes_of_a_group():
    chip = slices.CHIPS["v4"]
    where = slices.Slice("v4:4x4x4", chip, (4, 4, 4), 1, 1, ())
    ring = [Device((x, 0, 0)) for x in range(4)]
    assert where.bandwidth(ring) == 2 * chip.link  # both ways round
    assert where.bandwidth(ring[:2]) == chip.link  # a part of it is a line
    assert where.bandwidth([Device((x, y, 0)) for x in range(4) for y in range(4)]) == 4 * chip.link
    assert where.bandwidth([Device((0, 0, 0), 0), Device((0, 0, 0), 1)]) == chip.dcn
    line = slices.Slice("v5e:8x8", slices.CHIPS["v5e"], (8, 8), 1, 1, ())
    assert line.bandwidth([Device((x, 0, 0)) for x in range(8)]) == slices.CHIPS["v5e"].link  # rings need 16


@needs_libtpu
def test_over_two_slices_the_data_axis_or_else_fsdp_goes_from_slice_to_slice():
    devices = slices.open_slice("2*v4:2x2x1").devices

    def slices_of(part):
        return {device.slice_index for device in part.reshape(-1)}

    mesh = sharding.make_mesh(data=2, fsdp=2, model=2, devices=devices).devices
    assert [slices_of(mesh[place]) for place in range(2)] == [{0}, {1}]
    mesh = sharding.make_mesh(data=1, fsdp=4, model=2, devices=devices).devices
    assert all(len(slices_of(mesh[0, place])) == 1 for place in range(4))
    assert slices_of(mesh[0, :, 0]) == {0, 1}
    with pytest.raises(errors.FlanError, match="2 slices share neither the data axis of 1 nor the fsdp axis of 1"):
        sharding.make_mesh(data=1, fsdp=1, model=8, devices=devices)
