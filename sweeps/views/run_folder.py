"""Read-only access to the study of a run folder, also while a sweep runs in it."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import optuna
from omegaconf import DictConfig, OmegaConf

from analysis.table import StudyTable
from sweeps.errors import SweepError
from sweeps.experiment.assessment.degradation import with_profiles
from sweeps.experiment.assessment.layers import with_layers
from sweeps.experiment.front import Front
from sweeps.search.study.journal import JOURNAL, journal_to_read
from sweeps.search.study.record import count_states, records
from sweeps.search.study.storage import open_storage
from sweeps.search.study.trial_state import TrialState
from sweeps.views import results_table as results
from sweeps.views.card import StudyCard
from sweeps.views.paths import CONFIG
from sweeps.views.state import State, final_front, read_state


@dataclass(frozen=True)
class Opened:
    """An existing study and its state."""

    folder: Path
    study: optuna.Study
    state: State

    @property
    def card(self) -> StudyCard:
        """The study's card."""
        return self.state.card

    @property
    def counts(self) -> dict[TrialState, int]:
        """The number of trials in each state, including waiting and running ones and those of a killed process."""
        return count_states(self.study)

    @property
    def front(self) -> Front:
        """The front of the trials so far."""
        return final_front(self.state)

    def table(self) -> StudyTable:
        """Build the results table from the storage."""
        state, on_front = self.state, self.front.members
        tested = {name: state.tested.get(name, {}) for name in on_front}
        frame = results.frame(state.card, state.records, tested, {}, self.folder, state.unsaved)
        base_test = state.tested.get("base", {})
        meta = results.meta(
            state.card, state.records, base_test, state.untrained, state.rejected, created=state.created, place=None
        )
        frame = with_layers(results.with_noise(frame, meta, state.noise), state.layers)
        return StudyTable(with_profiles(frame, state.profiles), meta, self.folder)


def open_run(folder: str | Path) -> Opened:
    """Open the study of a run folder.

    Raises:
        SweepError: the folder is missing or not a run folder, its storage cannot be reached, or holds no study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise SweepError(f"no such folder: {folder}; name a run folder such as runs/<study>")
    url, name = _where(folder)
    if url is None and not (folder / JOURNAL).is_file():
        raise SweepError(f"not a run folder ({JOURNAL} is missing): {folder}; name one such as runs/<study>")
    storage = journal_to_read(folder) if url is None else open_storage(url, folder)
    names = [summary.study_name for summary in storage.get_all_studies()]
    if name not in names:
        if len(names) != 1 or url is not None:
            there = ", ".join(names) or "none"
            raise SweepError(f"the storage of {folder} has no study {name}: it has {there}")
        name = names[0]
    study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler())
    return Opened(folder, study, read_state(StudyCard.read(study), study, records(study)))


def _where(folder: Path) -> tuple[str | None, str]:
    """Return the storage's URL and the study's name from the folder's config; else None (the journal) and the folder's.

    Raises:
        SweepError: the config cannot be read.
    """
    try:
        config = OmegaConf.load(folder / CONFIG)
    except (OSError, ValueError):
        return None, folder.name
    except Exception as error:  # the YAML reader raises many types
        raise SweepError(f"{folder / CONFIG} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, DictConfig):
        raise SweepError(f"{folder / CONFIG} is not a config: restore it, or run the sweep's command again")
    return config.get("storage"), str(config.get("name") or folder.name)
