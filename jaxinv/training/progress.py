"""The progress bar of a run: loss, validation loss, rate, time left."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxinv.training.metrics_log import Row


class TrainingProgress:
    """Context that shows a bar over the updates of a run.

    Args:
        updates: in the whole run.
        done: already made when the bar starts.
        visible: False shows nothing.
    """

    def __init__(self, updates: int, done: int, *, visible: bool):
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[train]}  validation {task.fields[validation]}"),
            TextColumn("{task.fields[rate]} updates/s"),
            TimeRemainingColumn(),
            disable=not visible,
        )
        self._task = self._bar.add_task(
            "training", total=updates, completed=done, train="–", validation="–", rate="–"
        )

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def show(self, row: Row) -> None:
        """Move to the state that a row of metrics describes."""
        fields = {"train": f"{row['train_loss']:.4f}", "rate": f"{row['rate']:.1f}"}
        if row["validation_loss"] is not None:
            fields["validation"] = f"{row['validation_loss']:.4f}"
        self._bar.update(self._task, completed=row["step"], **fields)
