"""What not knowing the conductivities costs: the Bayes answer for signed maps (D1) with and without them.

python benchmarks/unknown_conductivity.py                 # the head of `make run`

Every case has conductivities of its own, log-uniform in the literature's ranges, and a map drawn from the
prior. Three answers to the same measurements: of who knows the conductivities (exact), of who knows their
ranges alone and integrates over them (importance sampling with the reduced forward model), and of who takes
the nominal ones for true. The effective number of draws of every integral is counted; below 50 it is rough.
"""

import argparse
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import track
from sphere_protocol import SEED, print_rows, write_json

import jaxinv
from jaxinv.evaluation.intervals import mean_interval
from jaxinv.evaluation.oracles import marginal_map_oracle, signed_map_oracle
from jaxinv.head.fsaverage import cortical_sources, fsaverage_electrodes, fsaverage_head
from jaxinv.metrics import accuracy, binary_cross_entropy
from jaxinv.simulate import HalfActiveMaps

jax.config.update("jax_enable_x64", True)

ENOUGH = 50  # effective draws
KNOWN, INTEGRATED, NOMINAL = "known", "unknown, integrated over", "taken for nominal"
LENGTHS = (10e-3, 20e-3, 40e-3)  # m, over which maps are correlated


@flax.struct.dataclass
class Fields:
    """Fields of a map's white numbers as a function of the conductivities, in levels of the noise. A pytree.

    Attributes:
        reduced: whose rows are fields instead of sources.
        scale: to the amplitude of a source over the level of the noise, in A m/V.
    """

    reduced: jaxinv.ReducedForward
    scale: Float[Array, ""]

    @classmethod
    def build(cls, reduced: jaxinv.ReducedForward, maps: HalfActiveMaps, snr_db: float) -> "Fields":
        """With noise of one level: so many dB below the power that the prior expects at the nominal head."""
        rows = jnp.einsum("cpr,rz->cpz", reduced.potentials.rows, maps.factor, precision="highest")
        fields = cls(reduced.replace(potentials=reduced.potentials.replace(rows=rows)), jnp.ones(()))
        power = (fields(reduced.conductivity) ** 2).sum(axis=1).mean()
        return fields.replace(scale=10 ** (snr_db / 20) / jnp.sqrt(power))

    def __call__(self, conductivity: Float[Array, " tissue"]) -> Float[Array, "channel rank"]:
        """At conductivities in S/m."""
        dtype = self.reduced.conductivity.dtype
        return self.scale * self.reduced.potentials.at(conductivity.astype(dtype)).astype(self.scale.dtype)


def study(title: str, fields: Fields, maps: HalfActiveMaps, options) -> tuple[list[dict], dict]:
    """One row an answer, over the same cases; and what the integrals rest on."""
    reduced, rng = fields.reduced, np.random.default_rng(SEED)
    low, high = (np.asarray(bound, np.float64) for bound in reduced.conductivity_range)
    node_factor = np.asarray(maps.factor, np.float64)
    noise_cov = np.asarray(reduced.sensors.reference_operator(jnp.float64))
    sigma = low * (high / low) ** rng.random((options.cases, len(low)))
    white = rng.normal(size=(options.cases, node_factor.shape[1]))
    true_fields = np.asarray(jax.lax.map(fields, jnp.asarray(sigma)))
    noise = rng.normal(size=(options.cases, len(noise_cov))) @ noise_cov
    measured = np.einsum("ncz,nz->nc", true_fields, white) + noise
    label = white @ node_factor.T > 0
    integrated = marginal_map_oracle(fields, low, high, node_factor, noise_cov, n_rounds=options.rounds)
    found = [integrated.solve(y) for y in track(measured, f"{title}: integrals", transient=True)]
    found = jax.tree.map(lambda *values: np.stack(values), *found)
    known = [signed_map_oracle(a, node_factor, noise_cov)(y) for a, y in zip(true_fields, measured)]
    nominal = signed_map_oracle(fields(reduced.conductivity), node_factor, noise_cov)(measured.T)
    probability = {
        KNOWN: np.stack([answer.probability for answer in known]),
        INTEGRATED: found.probability,
        NOMINAL: np.asarray(nominal.probability).T,
    }
    loss = {name: np.asarray(jax.vmap(binary_cross_entropy)(label, p)) for name, p in probability.items()}
    rows = []
    for name, p in probability.items():
        loss_of_not_knowing = mean_interval(loss[name] - loss[KNOWN])
        rows.append({
            "maps": title,
            "conductivities": name,
            "accuracy": float(np.mean(jax.vmap(accuracy)(label, p >= 0.5))),
            "BCE, nats": float(loss[name].mean()),
            "above known": f"{loss_of_not_knowing.mean:.4f} "
            f"[{loss_of_not_knowing.low:.4f}, {loss_of_not_knowing.high:.4f}]",
        })  # fmt: skip
    return rows, {"maps": title, **_draws(reduced, sigma, found)}


def _draws(reduced: jaxinv.ReducedForward, sigma, found) -> dict:
    """How many draws count, and what is known of the skull: the factor of error, before and after."""
    ess, skull = found.ess, reduced.tissue_names.index("skull")
    low, high = (float(bound[skull]) for bound in reduced.conductivity_range)
    error = {
        "prior": np.log(sigma[:, skull] / np.sqrt(low * high)),
        "posterior": np.log(sigma[:, skull] / found.conductivity[:, skull]),
    }
    factors = {f"skull, {name}": float(np.exp(np.sqrt(np.mean(e**2)))) for name, e in error.items()}
    return {
        "effective draws, least": float(ess.min()), "median": float(np.median(ess)),
        f"cases below {ENOUGH}": int((ess < ENOUGH).sum()), **factors,
    }  # fmt: skip


def main() -> None:
    """Reduces the head and studies maps of each length: a table each, written at once, and one of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=float, default=4e-3, help="of the head, in m")
    parser.add_argument("--montage", default="10-10-64")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="of the reduced forward model")
    parser.add_argument("--snr-db", type=float, default=20.0)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of draws near the posterior, 64 each")
    parser.add_argument("--cache", type=Path, help="where reduced channels are kept and looked for")
    options = parser.parse_args()
    console, rows, draws = Console(width=160), [], []
    head = fsaverage_head(options.resolution)
    sources, sensors = cortical_sources(head, "ico4"), fsaverage_electrodes(options.montage)
    forward = jaxinv.FemForward.build(head, sources, sensors)
    reduced = jaxinv.ReducedForward.build(forward, tolerance=options.tolerance, cache=options.cache)
    for length in LENGTHS:
        maps = HalfActiveMaps.build(sources, length, "signed")
        fields = Fields.build(reduced, maps, options.snr_db)
        answers, integrals = study(f"{1e3 * length:g} mm", fields, maps, options)
        print_rows(f"Signed maps, {options.snr_db:g} dB, {options.cases} cases", answers, console)
        rows += answers
        draws.append(integrals)
        result = {"options": {**vars(options), "cache": None}, "answers": rows, "integrals": draws}
        path = write_json("unknown_conductivity", result)
    print_rows("Integrals over the conductivities", draws, console)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
