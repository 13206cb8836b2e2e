"""MLflow with its store of files: what it has is asked of its own client."""

import pytest

mlflow = pytest.importorskip("mlflow")

from plasticity.scripts.trackers.mlflow import MlflowTracker  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Return a client of a store in an empty folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    mlflow.set_tracking_uri(f"file://{tmp_path}/store")
    return mlflow.MlflowClient()


def test_a_run_has_its_settings_and_rows(client, tracked):
    tracker = MlflowTracker(tracked, None)
    tracker.log(0, {"accuracy": 0.5, "rank/relu#2": 3.0})
    tracker.close(finished=False)
    assert client.get_run(tracker.identifier).info.status == "KILLED"
    again = MlflowTracker(tracked, tracker.identifier)
    assert client.get_run(tracker.identifier).info.status == "RUNNING"
    again.log(1, {"accuracy": 0.75})
    again.close(finished=True)
    found = client.get_run(tracker.identifier)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "syre/seed_3")
    assert found.data.params == {"agent.learning_rate": "0.1", "method.syre.sigma": "0.3"}
    assert {"method": "syre", "seed": "3"}.items() <= found.data.tags.items()
    history = client.get_metric_history(tracker.identifier, "accuracy")
    assert [(each.step, each.value) for each in history] == [(0, 0.5), (1, 0.75)]
    assert found.data.metrics["rank/relu_2"] == 3.0


def test_runs_of_a_benchmark_are_in_one_experiment(client, tracked):
    first, second = MlflowTracker(tracked, None), MlflowTracker(tracked, None)
    experiments = {client.get_run(each.identifier).info.experiment_id for each in (first, second)}
    (experiment,) = experiments
    assert client.get_experiment(experiment).name == "plasticity/permuted-digits"


def test_more_metrics_than_a_server_takes_at_once(client, tracked):
    tracker = MlflowTracker(tracked, None)
    tracker.log(0, {f"metric_{number}": float(number) for number in range(1001)})
    assert len(client.get_run(tracker.identifier).data.metrics) == 1001
