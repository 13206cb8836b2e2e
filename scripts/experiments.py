"""Which experiment a configuration means; each is imported only when it is needed."""

from __future__ import annotations

from plasticity.scripts.configuration import AntRunConfig, ImageRunConfig, RunConfig
from plasticity.scripts.image_experiment import ImageExperiment, require_fitting
from plasticity.scripts.runs import Experiment, RunError
from plasticity.tasks import SlipperyAntBulletEnv, load_dataset


def make_experiment(config: RunConfig) -> Experiment:
    """A run's experiment, at its beginning.

    Raises:
        ValueError: if a setting and the data do not go together.
        ImportError: if the physics engine is not installed.
    """
    if isinstance(config, AntRunConfig):
        from plasticity.scripts.ant_experiment import AntExperiment  # noqa: PLC0415  (gymnasium)

        return AntExperiment(config)
    assert isinstance(config, ImageRunConfig)
    return ImageExperiment(config)


def require_runnable(config: RunConfig) -> None:
    """Refuse what cannot be run here, without the cost of an experiment; download what it needs.

    Raises:
        ValueError: if a setting and the data do not go together.
        DownloadError: if the data cannot be had.
        RunError: if the physics engine is not installed.
    """
    if isinstance(config, ImageRunConfig):
        require_fitting(config, load_dataset(config.dataset, data_dir=config.data_dir))
        return
    try:
        SlipperyAntBulletEnv().close()
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from error
