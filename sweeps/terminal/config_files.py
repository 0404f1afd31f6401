"""Config files as editors write them: with a byte order mark, or refused by file and line."""

import os

import yaml  # type: ignore[import-untyped]
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

_MARK = "\ufeff"


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of config files, under Hydra's name for it, which also reads those with a mark."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a config file.

        Raises:
            HydraException: the file is not UTF-8, or not YAML.
        """
        path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        try:
            result = super().load_config(config_path)
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if text.startswith(_MARK):
                print(f"config: {path} begins with a byte order mark, which is left out", flush=True)
                result.config = OmegaConf.create(text.removeprefix(_MARK))
                result.header = self._get_header_dict(text.removeprefix(_MARK)[:512])
        except UnicodeDecodeError as error:
            raise HydraException(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            tab = "'\\t'" in str(error.problem)
            why = "a tab indents it: indent with spaces" if tab else f"{error.problem}: correct the YAML"
            raise HydraException(f"{path}{where}: {why}") from error
        return result


def read_files_as_written() -> None:
    """Make Hydra read config files by `FileConfigSource`."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
