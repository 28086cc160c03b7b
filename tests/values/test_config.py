"""The server's configuration: precedence, origins, types, and errors that name key and place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pyfaas.config import Config, load
from pyfaas.errors import Code, PyfaasError


def write(path: Path, text: str) -> Path:
    """Write a configuration file."""
    path.write_text(text)
    return path


def test_defaults() -> None:
    """With nothing said every option has its default, but for the data directory, which depends on the user."""
    config, origin = load({}, {})
    assert dataclasses.replace(config, data_dir="") == Config()
    assert config.data_dir
    assert set(origin.values()) == {"default"}


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each option comes from the strongest place that names it, and says which that was."""
    file = write(tmp_path / "c.toml", 'port = 1\nwarm_vms = 1\nbuilds = 1\nhost = "::1"')
    config, origin = load({"port": 3, "host": None}, {"PYFAAS_PORT": "2", "PYFAAS_WARM_VMS": "2"}, file)
    assert (config.port, config.warm_vms, config.builds, config.max_vms) == (3, 2, 1, Config().max_vms)
    assert config.host == "::1"
    named = {key: origin[key] for key in ("port", "warm_vms", "builds", "max_vms")}
    assert named == {"port": "flag", "warm_vms": "PYFAAS_WARM_VMS", "builds": str(file), "max_vms": "default"}


def test_every_option_can_come_from_the_environment() -> None:
    """No field is forgotten: each is read from its variable and gets its own type."""
    for f in dataclasses.fields(Config):
        word = next(reversed(f.metadata["one_of"]), "word")
        text = {"int": "7", "bool": "true", "str": word}[str(f.type)]
        config, origin = load({}, {"PYFAAS_" + f.name.upper(): text})
        assert getattr(config, f.name) == {"int": 7, "bool": True, "str": word}[str(f.type)]
        assert origin[f.name] == "PYFAAS_" + f.name.upper()


def test_a_choice_is_one_of_its_words() -> None:
    """An option with choices takes no other word, and the refusal names them."""
    with pytest.raises(PyfaasError, match=r"download_to must be one of second-container, .*near-store, not 'moon'"):
        load({"download_to": "moon"}, {})


def test_every_option_says_what_it_is() -> None:
    """Each field carries the sentence that `--help` shows."""
    assert all(f.metadata["help"] for f in dataclasses.fields(Config))


def test_an_unknown_key_is_named_with_its_place_and_a_suggestion(tmp_path: Path) -> None:
    """A misspelt key in a file is refused, with file, key and the nearest option."""
    file = write(tmp_path / "c.toml", "prot = 1")
    with pytest.raises(PyfaasError) as refused:
        load({}, {}, file)
    assert refused.value.code is Code.UNKNOWN_KEY
    assert str(file) in refused.value.message
    assert "'prot'" in refused.value.message
    assert "port" in refused.value.hint
    with pytest.raises(PyfaasError, match="flag"):
        load({"nonsense": 1}, {})


@pytest.mark.parametrize(
    ("variable", "text"), [("PYFAAS_PORT", "http"), ("PYFAAS_PORT", ""), ("PYFAAS_DEBUG", "maybe")]
)
def test_a_wrong_type_is_named_with_its_place(variable: str, text: str) -> None:
    """A value that is not of the option's type is refused, naming where it was written."""
    with pytest.raises(PyfaasError) as refused:
        load({}, {variable: text})
    assert refused.value.code is Code.INVALID_REQUEST
    assert variable in refused.value.message


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("0", False), ("false", False)])
def test_truth_values(text: str, value: bool) -> None:  # noqa: FBT001 - the parametrised value
    """1, 0, true and false are read whatever their case."""
    assert load({}, {"PYFAAS_DEBUG": text})[0].debug is value
