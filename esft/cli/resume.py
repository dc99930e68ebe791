"""`esft resume`: go on with a run that stopped."""

import json

import click

from esft.cli.options import GroupedCommand, json_option
from esft.cli.outcome import outcome_record, outcome_text
from esft.cli.show import StopSignals, show_run


@click.command(cls=GroupedCommand, short_help="Go on with a run that stopped.")
@click.argument("run", required=False)
@json_option
@click.pass_context
def resume(ctx: click.Context, run: str | None, as_json: bool) -> None:
    """Go on with RUN, a name under runs/ or a path; without one, with the newest.

    However it stopped, it ends with the same bits as if it never had. For more steps raise
    search.steps in its recipe.toml, also once it is finished. What would change the bits (base
    model, other settings, rows, noise) is refused: that is a new run.

    \b
    Examples:
      esft resume
      esft resume runs/arc-qwen2.5-1.5b-1
    """
    from esft.runs.names import find_run
    from esft.tuning.resume import Finished, resume_tuning

    path = find_run(run)
    with StopSignals() as signals, show_run(signals) as watcher:
        result = resume_tuning(path, watcher, signals.asked)
    if isinstance(result, Finished):
        text = f"run {result.run_path} is finished: {result.steps} steps"
        record = {"run": result.run_path, "steps": result.steps, "state": "finished"}
        click.echo(json.dumps(record) if as_json else f"{text}, model {result.model_path}")
        return
    click.echo(json.dumps(outcome_record(result)) if as_json else outcome_text(result))
    if result.stopped:
        ctx.exit(130)
