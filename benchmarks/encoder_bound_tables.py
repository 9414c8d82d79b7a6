"""The tables of `benchmarks.encoder_bound`."""

from typing import Any

from ldc_vae.reporting import tables

SPLITS = ('test', 'validation')


def to_markdown(record: dict[str, Any]) -> str:
  """The Markdown tables of a record."""
  constant = record['normaliser']
  lines = [
    (
      f'{row["method"]}, seed {row["seed"]}',
      *(
        f'{row[f"{split}/{bound}"]:.2f}'
        for split in SPLITS
        for bound in ('negative_elbo', 'negative_importance')
      ),
      f'{row["test/kl"]:.2f}',
      f'{row["test/posterior_std"]:.3f}',
      f'{row["ms_per_step"]:.1f}',
    )
    for row in record['rows']
  ]
  samples = record['importance_samples']
  bounds = ('-ELBO', f'{samples}-sample bound')
  header = (
    'method',
    *(f'{split} {bound}' for split in SPLITS for bound in bounds),
    'KL',
    'posterior std',
    'ms/step',
  )
  parts = [
    f'Nats per image, lower is better; the normaliser, {constant:.2f}, is'
    ' included: subtract it to compare with bounds that leave it out.\n',
    tables.markdown_table(header, lines),
    "Minus the ELBO's, paired over seeds: mean ± standard error (largest).\n",
  ]
  lines = []
  for name, entry in record['summary'].items():
    method, split, bound = name.split('/')
    label = bounds[bound == 'negative_importance']
    differences = entry['differences']
    if not differences:
      continue
    error = entry['standard_error']
    error = 'n/a' if error is None else f'{error:.3f}'
    lines.append(
      (
        f'{method}: {split} {label}',
        f'{entry["mean"]:+.3f} ± {error}',
        f'{max(differences):+.3f}',
      )
    )
  header = ('difference', 'mean', 'largest')
  parts.append(tables.markdown_table(header, lines))
  return '\n'.join(parts)
