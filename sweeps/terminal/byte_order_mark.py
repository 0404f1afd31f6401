"""Config files that begin with a byte order mark, as some Windows editors write them."""

import os

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

_MARK = "\ufeff"


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of config files, under Hydra's name for it, which also reads those with a mark."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError):
            return super().load_config(config_path)
        if not text.startswith(_MARK):
            return super().load_config(config_path)
        print(f"config: {path} begins with a byte order mark, which is left out", flush=True)
        text = text.removeprefix(_MARK)
        return ConfigResult(
            config=OmegaConf.create(text),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=ConfigSource._get_header_dict(text[:512]),
        )


def read_byte_order_marks() -> None:
    """Make Hydra read config files that begin with a byte order mark."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
