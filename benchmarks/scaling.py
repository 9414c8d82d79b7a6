"""Measures how a step scales on emulated devices, and predicts real ones.

python -m benchmarks.scaling --output=benchmarks/results/scaling.json

Measured: `--config` (digits) on 1, 2 and 4 emulated devices and on 2 processes,
with a fixed batch of all devices (strong) or of one device (weak). Emulated
devices share the cores, so this shows overhead, not speed. `difference` is the
largest change of a weight against one device over the largest weight.

Predicted, on paper: the operations of a step of `--predict` (celeba64) are
counted from its program, the bytes of its collectives from its weights, and a
step takes

    operations / (peak x utilisation)
      + 2 (n - 1) / n x bytes / bandwidth + collectives x log2(n) x latency

with nothing overlapped. An all-gather counts half its bytes. `MACHINES` states
every assumption.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks import operations as operations_lib
from benchmarks import scaling_machines
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import methods
from ldc_vae import run_files
from ldc_vae import step as step_lib
from ldc_vae.runtime import cluster
from ldc_vae.runtime import provenance

_DEVICES_FLAG = '--xla_force_host_platform_device_count={}'
_BYTES = 4  # of a gradient, float32


def main(argv: Sequence[str]) -> int:
  """Measures, predicts, prints the tables and writes them."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/digits.py')
  parser.add_argument('--methods', type=common.names, default=('vae', 'ldc'))
  parser.add_argument('--devices', type=common.integers, default=(1, 2, 4))
  parser.add_argument('--processes', type=common.integers, default=(2,))
  parser.add_argument('--batch_size', type=common.positive, default=256)
  parser.add_argument(
    '--steps', type=common.positive, default=20, help='after the first'
  )
  parser.add_argument('--predict', default='configs/celeba64.py')
  parser.add_argument('--output', default='')
  parser.add_argument('--worker', default='', help=argparse.SUPPRESS)
  args, overrides = common.parse_overrides(parser, argv)
  if args.worker:
    return _work(json.loads(args.worker), overrides)
  common.choose('methods', args.methods, methods.METHODS, required=True)
  if any(args.batch_size % num for num in (*args.devices, *args.processes)):
    raise ValueError(
      f'--batch_size={args.batch_size} must be divisible by the numbers of'
      ' --devices and --processes'
    )
  if run_files.split(args.predict)[1]:
    raise ValueError(f'--predict={args.predict} names a method; leave it out')
  config_lib.load(args.predict)  # a mistake is told before the work
  record = common.create_record('benchmarks.scaling', argv, seeds=[0])
  record['load_before'] = os.getloadavg()[0]
  record['measured'] = measure(args, overrides)
  record['predicted'] = predict(args.predict)
  text = to_markdown(record)
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def measure(args, overrides: Sequence[str]) -> list[dict[str, Any]]:
  """Runs every layout, and compares it with one device of one process."""
  layouts = [(1, devices) for devices in args.devices]
  layouts += [(count, 1) for count in args.processes if count > 1]
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for method in args.methods:
      for kind in ('strong', 'weak'):
        reference = None
        for num_processes, num_devices in layouts:
          total = num_processes * num_devices
          size = args.batch_size
          if kind == 'weak':
            size = args.batch_size // max(args.devices) * total
          output = pathlib.Path(folder) / 'params.npy'
          row = run_layout(
            {
              'spec': f'{args.config}:{method}',
              'batch_size': size,
              'steps': 1 + args.steps,
              'output': str(output),
            },
            num_processes,
            num_devices,
            overrides,
          )
          params = np.load(output)
          if reference is None:
            reference = row, params
          first, first_params = reference
          row = {
            'method': method,
            'kind': kind,
            'processes': num_processes,
            'devices': total,
            'batch_size': size,
            **row,
            'relative_time': row['milliseconds'] / first['milliseconds'],
          }
          if kind == 'strong':  # of the same batches
            row['difference'] = float(
              np.max(np.abs(params - first_params))
              / np.max(np.abs(first_params))
            )
          rows.append(row)
  return rows


def run_layout(
  job: Mapping[str, Any],
  num_processes: int,
  num_devices: int,
  overrides: Sequence[str],
) -> dict[str, float]:
  """Runs a number of processes, each with a number of emulated devices.

  Args:
    job: 'spec', 'batch_size' over all devices, 'steps', and 'output', a file
      for the final weights.
    num_processes: On this machine, joined by jax.distributed.
    num_devices: The devices of each.
    overrides: Overrides as on the command line.

  Returns:
    'milliseconds', the median step of the first process.

  Raises:
    OSError: A process failed.
  """
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  started = []
  for index in range(num_processes):
    own = {
      **job,
      'address': address if num_processes > 1 else None,
      'num_processes': num_processes,
      'process_id': index,
    }
    started.append(
      subprocess.Popen(
        (
          sys.executable,
          '-m',
          'benchmarks.scaling',
          f'--worker={json.dumps(own)}',
          *overrides,
        ),
        cwd=provenance.ROOT,
        env={
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          # with fewer threads emulated devices wait for each other for ever
          **({'NPROC': '32'} if num_devices > 1 else {}),
          'XLA_FLAGS': _DEVICES_FLAG.format(num_devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  try:
    outputs = [process.communicate() for process in started]
  finally:  # where we are being stopped they have not ended
    for process in started:
      process.kill()
  for process, (_, errors) in zip(started, outputs, strict=True):
    if process.returncode:
      last = (errors.strip().splitlines() or ['it said nothing'])[-1]
      raise OSError(f'a worker ended with {process.returncode}: {last}')
  return json.loads(outputs[0][0].splitlines()[-1])


def _work(job: Mapping[str, Any], overrides: Sequence[str]) -> int:
  """A worker: some steps on seeded images; prints what `run_layout` returns."""
  if job['address']:
    cluster.join(job['address'], job['num_processes'], job['process_id'])
  config, method, txs, model = operations_lib.create_program(
    job['spec'], overrides
  )
  step_fn = step_lib.pmap_train_step(
    experiment_lib.make_train_step(
      config, method, txs, operations_lib.NUM_STEPS
    )
  )
  key = jax.random.key(0)
  state = step_lib.create_train_state(key, model, method, txs)
  rng = np.random.default_rng(0)
  own = job['batch_size'] // job['num_processes']
  first = own * job['process_id']
  seconds = []
  shape = model.image_shape
  for _ in range(job['steps']):
    images = rng.integers(0, 256, (job['batch_size'], *shape), dtype=np.uint8)
    images = images[first : first + own]
    images = images.reshape(jax.local_device_count(), -1, *shape)
    start = time.perf_counter()
    state, _ = step_fn(state, images, key)
    jax.block_until_ready(state)
    seconds.append(time.perf_counter() - start)
  if not job['process_id']:
    leaves = [
      np.asarray(x.addressable_data(0)).ravel()
      for x in jax.tree.leaves(state.params)
    ]
    np.save(job['output'], np.concatenate(leaves))
    print(json.dumps({'milliseconds': 1e3 * statistics.median(seconds[1:])}))
  return 0


def predict(spec: str, batch_per_device: int = 64) -> dict[str, Any]:
  """The step of a config on every machine.

  Args:
    spec: The spec of the config; its method is `ldc`.
    batch_per_device: Images.

  Returns:
    'operations' and 'bytes' of a step, and 'rows'.
  """
  # the program of an accelerator, not of the machine that counts
  program = operations_lib.create_program(
    spec, ['config.model.convolution=native']
  )
  config = program.config
  updates = program.algorithm.phases[1].num_updates
  operations = operations_lib.of_step(program, batch_per_device)
  weights = operations_lib.num_weights(program)
  first, second = weights.values()
  rows = []
  for name, machine in scaling_machines.MACHINES.items():
    particles = (
      machine.devices * batch_per_device * config.method.latents_per_image
    )
    # z and scores; a ring gathers in half the way of a sum
    gathered = particles * config.model.latent_size
    sizes = [first] + updates * [second, gathered]
    for utilisation in scaling_machines.UTILISATIONS:
      rows.append(
        {
          'machine': name,
          'utilisation': utilisation,
          'source': machine.source,
          **step_seconds(
            machine,
            operations / (machine.peak * utilisation),
            [_BYTES * size for size in sizes],
          ),
        }
      )
      rows[-1]['images_per_second'] = (
        machine.devices * batch_per_device / rows[-1]['seconds']
      )
  return {
    'config': spec,
    'batch_per_device': batch_per_device,
    'operations': operations,
    'weights': [first, second],
    'updates': updates,
    'rows': rows,
  }


def step_seconds(
  machine: scaling_machines.Machine,
  compute: float,
  collectives: Sequence[float],
) -> dict[str, float]:
  """Seconds of a step, see the head of this file.

  Args:
    machine: What is assumed.
    compute: Seconds of a device's own work.
    collectives: Bytes of each.

  Returns:
    'seconds', 'compute_seconds', 'communication_seconds' and 'efficiency', the
    share of the first.
  """
  n = machine.devices
  communication = sum(
    2 * (n - 1) / n * size / machine.bandwidth + math.log2(n) * machine.latency
    for size in collectives
  )
  seconds = compute + communication
  return {
    'seconds': seconds,
    'compute_seconds': compute,
    'communication_seconds': communication,
    'efficiency': compute / seconds,
  }


def to_markdown(record: Mapping[str, Any]) -> str:
  """The tables of a record."""
  lines = [
    '## Measured, emulated devices on the cores of one machine',
    '',
    '| method | scaling | processes | devices | batch | ms per step |'
    ' ÷ one device | difference |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for row in record['measured']:
    lines.append(
      f'| `{row["method"]}` | {row["kind"]} | {row["processes"]} |'
      f' {row["devices"]} | {row["batch_size"]} |'
      f' {common.show(row["milliseconds"])} |'
      f' {common.show(row["relative_time"])} |'
      f' {common.show(row.get("difference"))} |'
    )
  predicted = record['predicted']
  first, second = predicted['weights']
  lines += [
    '',
    '## Predicted, nothing of it measured',
    '',
    f'`{predicted["config"]}`, {predicted["batch_per_device"]} images a'
    f' device: {predicted["operations"] / 1e9:,.0f} G operations a step and'
    f' device; gradients of {first / 1e6:.1f} M and, {predicted["updates"]}'
    f' times, {second / 1e6:.2f} M weights in float32 are reduced.',
    '',
    '| machine | utilisation | ms of work | ms of communication | images/s |'
    ' efficiency |',
    '|---|---|---|---|---|---|',
  ]
  for row in predicted['rows']:
    lines.append(
      f'| {row["machine"]} | {row["utilisation"]:.0%} |'
      f' {common.show(1e3 * row["compute_seconds"])} |'
      f' {common.show(1e3 * row["communication_seconds"])} |'
      f' {row["images_per_second"]:,.0f} | {row["efficiency"]:.0%} |'
    )
  lines.append('')
  for name, machine in scaling_machines.MACHINES.items():
    lines.append(f'* {name}: {machine.source}.')
  lines += ['', f'Load before: {record["load_before"]:.1f}.', '']
  return '\n'.join(lines)


if __name__ == '__main__':
  common.run(main)
