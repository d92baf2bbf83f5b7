"""TensorBoard's HParams tab of a sweep, as its own backend computes it."""

from sweeping import SMALL, places, runs_of, sweep_dir

from molino.runs import directory


def session_groups(logdir):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(logdir)))
    request = RequestContext()
    experiment = context.experiment_from_metadata(request, "", True, context.hparams_metadata(request, ""), None)
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[0, 1, 2, 3],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )
    return list_session_groups.Handler(request, context, "", asked).run().session_groups


def test_the_hparams_tab_shows_what_was_swept_and_what_came_out(molino, tiny, tmp_path):
    swept = ("data.distinct_batches=1,2", "optimizer=adamw,adam")
    done = molino("train", "-m", *SMALL, *places(tiny, tmp_path), *swept, "optimizer.lr=0.1")
    assert done.status == 0, done.err
    groups = session_groups(sweep_dir(tmp_path))
    found = {}
    for group in groups:
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
        metrics = {value.name.tag: value.value for value in group.metric_values}
        # What was swept, and nothing that is equal in all rows.
        assert values.keys() == {"optimizer", "data.distinct_batches"}
        found[values["optimizer"], values["data.distinct_batches"]] = metrics
    assert len(found) == 4
    for run in runs_of(sweep_dir(tmp_path)):
        settings, summary = directory.read_config(run), directory.read_summary(run)
        kind = "adam" if settings["optimizer"]["_target_"].endswith(".Adam") else "adamw"
        metrics = found[kind, settings["data"]["distinct_batches"]]
        for tag in ("val/loss", "val/perplexity", "train/loss"):
            assert abs(metrics[tag] - summary[tag]) < 1e-4 * summary[tag]
