"""Experiments by configuration; each is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from plasticity.scripts.config.run_config import ControlRunConfig, RunConfig, SupervisedRunConfig
from plasticity.scripts.run.folder import Experiment, RunError
from plasticity.scripts.run.image_experiment import ImageExperiment, require_fitting
from plasticity.scripts.run.stacked import StackedExperiment
from plasticity.tasks import ENGINES, load_dataset


def make_experiment(config: RunConfig) -> Experiment:
    """Return the experiment of a run, at its beginning.

    Raises:
        ValueError: if a setting and the data do not fit together.
        ImportError: if the physics engine is not installed.
    """
    if isinstance(config, ControlRunConfig):
        from plasticity.scripts.run.ant_experiment import AntExperiment  # noqa: PLC0415  (gymnasium)

        return AntExperiment(config)
    assert isinstance(config, SupervisedRunConfig)
    return ImageExperiment(config)


def stacked_experiment(config: RunConfig) -> type[StackedExperiment]:
    """Return the class that trains several runs like this one stacked.

    Raises:
        ImportError: if the physics engine is not installed.
    """
    if isinstance(config, ControlRunConfig):
        from plasticity.scripts.run.stacked_ants import StackedAnts  # noqa: PLC0415  (as above)

        return StackedAnts
    from plasticity.scripts.run.stacked_images import StackedImages  # noqa: PLC0415  (most runs do not need it)

    return StackedImages


def require_runnable(configs: Sequence[RunConfig]) -> None:
    """Raise an error if a run cannot be done here, without building its experiment; download its data.

    Args:
        configs: Configurations of the runs; of those equal except for method and seed, one is enough.

    Raises:
        ValueError: if a setting and the data do not fit together.
        DownloadError: if the data cannot be downloaded.
        RunError: if the physics engine is not installed.
    """
    load = cache(load_dataset)  # a grid may have many configurations on the same images
    for config in configs:
        if isinstance(config, SupervisedRunConfig):
            require_fitting(config, load(config.stream.dataset, data_dir=config.stream.data_dir))
    engines = {each.stream.engine for each in configs if isinstance(each, ControlRunConfig)}
    for engine in engines:
        _require_engine(engine)


def _require_engine(engine: str) -> None:
    try:
        ENGINES[engine]().close()
        if engine == "warp":
            from plasticity.tasks.control.ant.warp_physics import load_modules  # noqa: PLC0415  (a GPU's engine)

            load_modules()
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from error
