"""Storage of a study: a journal in its folder, or any Optuna storage by URL."""

import re
import time
from pathlib import Path

from optuna.storages import BaseStorage, RDBStorage

from sweeps.errors import SweepError
from sweeps.search.study.journal import JOURNAL, _Journal, _JournalStorage, mend_journal

_MOST_ATTEMPTS = 5
_IS_BEING_MADE = re.compile(
    "already exists|UNIQUE constraint|duplicate key|no such table|database is locked", re.IGNORECASE
)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open the storage at a URL, or the journal in a study's folder if the URL is None.

    Raises:
        SweepError: the storage cannot be reached, lacks its driver, or is damaged; passwords are not shown.
    """
    if url is None:
        mend_journal(folder / JOURNAL)
        return _JournalStorage(_Journal(folder / JOURNAL))
    import sqlalchemy.exc

    try:
        for attempt in range(_MOST_ATTEMPTS):
            try:
                arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
                return RDBStorage(url, engine_kwargs=arguments)
            except sqlalchemy.exc.SQLAlchemyError as error:
                # Two processes that open a new storage at the same moment both create its tables.
                if attempt == _MOST_ATTEMPTS - 1 or not _IS_BEING_MADE.search(str(error)):
                    raise
                time.sleep(0.5 * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")
    except ImportError as error:
        raise SweepError(
            f"storage {_masked(url)} needs a driver: {error}; try pip install kmr-sweeps[postgres]"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200].replace(url, _masked(url))
        raise SweepError(f"storage {_masked(url)} cannot be reached: {reason}") from error


def _masked(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
