"""How a network is trained: one frozen dataclass."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`. The defaults suit the `quick` preset of the network.

    An *update* is one step of the optimiser on a freshly simulated batch. Every sample of it has
    conductivities of its own, which wants a `ReducedForward`; or, with `updates_per_leadfield`, one leadfield
    serves that many updates. Every count below is in updates, and acts at the first multiple of
    `updates_per_step` that reaches it.

    Attributes:
        updates: optimiser updates in the whole run; a multiple of `updates_per_leadfield`.
        updates_per_leadfield: updates that share one leadfield, for conductivities drawn anew; 0 gives every
            sample its own.
        displacement: by how far at most electrodes miss their places in a sample, in m.
        batch_size: samples in an update.
        learning_rate: highest value, reached after the warm-up, then a half cosine down to 0.
        warmup: updates of linear warm-up.
        weight_decay: AdamW's, on matrices and kernels alone.
        gradient_clip: largest global norm of a gradient.
        whiten_input: set the network's `input_scaling` before the first update to the inverse square root
            of the covariance of its normalised input, from simulated measurements. Preconditions the
            learning; the network remains free to undo it.
        evaluate_every: updates between evaluations on the validation set.
        patience: evaluations without a better validation loss before the run stops early; None never stops.
        checkpoint_every: updates between checkpoints; a better validation loss saves one as well.
        validation_size: samples in the validation set, simulated once; a multiple of
            `validation_leadfields`.
        validation_leadfields: leadfields it is simulated with, of their own conductivities.
        seed: of everything random in the run.
    """

    updates: int = 410
    updates_per_leadfield: int = 0
    displacement: float = 0.0
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup: int = 40
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    whiten_input: bool = True
    evaluate_every: int = 40
    patience: int | None = 8
    checkpoint_every: int = 100
    validation_size: int = 256
    validation_leadfields: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("updates_per_leadfield", "displacement", "warmup", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience} must be at least 1; None never stops early")
        if self.updates_per_leadfield:
            _check_multiple(self, "updates", "updates_per_leadfield")
        _check_multiple(self, "validation_size", "validation_leadfields")
        if self.warmup >= self.updates:
            raise ValueError(f"warmup={self.warmup} must be shorter than updates={self.updates}")

    @property
    def updates_per_step(self) -> int:
        """Updates in one jitted step."""
        return max(self.updates_per_leadfield, 1)


_AT_LEAST_ONE = (
    "updates",
    "batch_size",
    "evaluate_every",
    "checkpoint_every",
    "validation_size",
    "validation_leadfields",
)


def _check_multiple(config: TrainConfig, name: str, divisor: str) -> None:
    value, by = getattr(config, name), getattr(config, divisor)
    if value % by:
        nearest = max(round(value / by), 1) * by
        raise ValueError(f"{name}={value} must be a multiple of {divisor}={by}; {nearest} is")
