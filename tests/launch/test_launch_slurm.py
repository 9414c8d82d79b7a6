"""Tests for the SLURM launcher, with an sbatch and an srun of our own."""

import os
import re
import signal
import subprocess

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import launch_case

_RUN = launch_case.RUN

# As slurmd runs a batch script: a copy of it, in another folder.
_SBATCH = r"""
while [[ $1 != *.sh ]]; do shift; done
cp "$1" "$FAKES/slurm_script"
shift
bash "$FAKES/slurm_script" "$@"
exit
"""

# As srun starts tasks, one after the other.
_SRUN = r"""
while [[ $1 == -* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; ++i)); do
  SLURM_PROCID=$i SLURM_LOCALID=$((i % 2)) "$@" || exit
done
"""


class _SlurmTestCase(launch_case.LaunchTestCase):
  SCRIPT = 'slurm.sh'
  PROGRAMS = ('sbatch', 'srun', 'squeue', 'scontrol', 'python3.11')

  def setUp(self):
    super().setUp()
    self.answer('scontrol show hostnames *', out='node7\nnode8\n')

  def submit(self, *args, run=_RUN, **env):
    return self.launch(*args, *run, **env)


class SubmitTest(_SlurmTestCase):
  def test_one_process_per_gpu(self):
    self.assert_done(
      self.submit(
        '--nodes=2',
        '--gpus-per-node=4',
        '--time=1-08:00:00',
        '--partition=gpu',
        '--account=a',
        '--cpus-per-task=8',
        '--sbatch=--mem=64G  --qos=high',
      )
    )
    (call,) = self.calls('sbatch')
    self.assertRegex(call[1], r'--job-name=ldc_vae-mnist-\d+$')
    self.assertEqual(
      call[2:],
      (
        '--nodes=2',
        '--ntasks-per-node=4',
        '--time=1-08:00:00',
        '--cpus-per-task=8',
        '--partition=gpu',
        '--account=a',
        '--mem=64G',
        '--qos=high',
        '--gpus-per-node=4',
        '--output=runs/mnist/slurm-%j.log',
        str(self.root / 'launch/slurm.sh'),
        'job',
        str(self.root),
        '4',
        *_RUN[1:],
      ),
    )
    # SLURM opens its log before it starts anything.
    self.assertTrue((self.root / 'runs/mnist').is_dir())

  def test_the_log_of_a_run_in_a_bucket_is_in_this_folder(self):
    workdir = '--workdir=s3://bucket/runs/mnist'
    self.assert_done(self.submit(run=(*_RUN[:2], workdir)))
    (call,) = self.calls('sbatch')
    self.assertIn(f'--output={self.root}/slurm-%j.log', call)
    self.assertIn(workdir, call)
    self.assertFalse((self.root / 's3:').exists())

  def test_without_gpus_one_process_per_node(self):
    self.submit('--gpus-per-node=0', '--nodes=3')
    (call,) = self.calls('sbatch')
    self.assertIn('--ntasks-per-node=1', call)
    self.assertNotIn('--gpus-per-node=0', call)

  def test_signals_and_requeueing_are_asked_for(self):
    lines = (self.root / 'launch/slurm.sh').read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line[:1] != '#')
    directives = [x for x in lines[:first] if x.startswith('#SBATCH ')]
    self.assertEqual(
      directives,
      [
        '#SBATCH --signal=TERM@60',  # without B: it is for the steps
        '#SBATCH --requeue',
        '#SBATCH --open-mode=append',
      ],
    )

  def test_a_queued_run_is_left_alone(self):
    self.answer('squeue*', out='4711 PENDING\n')
    self.assert_done(self.submit(), 'already, as job 4711 PENDING')
    self.assertEmpty(self.calls('sbatch'))
    (call,) = self.calls('squeue')
    self.assertRegex(' '.join(call), r'--name=ldc_vae-mnist-\d+ --user=\w+')

  def test_the_user_may_name_it(self):
    self.submit('--name=my-job')
    self.assertIn('--name=my-job', self.calls('squeue')[0])
    self.assertIn('--job-name=my-job', self.calls('sbatch')[0])

  def test_a_workdir_has_a_name_of_its_own(self):
    names = set()
    for workdir in ('runs/mnist', 'other/mnist', f'{self.root}/runs/mnist/'):
      self.forget()
      self.submit(run=(*_RUN[:2], f'--workdir={workdir}'))
      names.add(self.calls('sbatch')[0][1])
    self.assertLen(names, 2)  # the last is the first

  def test_every_failing_call_is_reported_and_can_be_repeated(self):
    self.assert_each_call_may_fail(2, *_RUN)

  def test_dry_run(self):
    squeue, mkdir, sbatch = self.dry_run(*_RUN)
    self.assertStartsWith(squeue, 'squeue --noheader --name=ldc_vae-mnist-')
    self.assertEqual(mkdir, 'mkdir -p runs/mnist')
    self.assertStartsWith(sbatch, 'sbatch --job-name=ldc_vae-mnist-')
    self.assertEndsWith(
      sbatch,
      f"'{self.root}' 1 --config=configs/mnist.py:vae --workdir=runs/mnist",
    )

  def test_a_missing_sbatch_is_reported(self):
    (self.bin / 'sbatch').unlink()
    self.assert_failed(self.submit(), 'sbatch', 'log in')


class MistakesTest(_SlurmTestCase):
  @parameterized.parameters(
    (('--nodes=0', *_RUN), '--nodes=0', 'from 1 up'),
    (('--nodes=two', *_RUN), '--nodes=two'),
    (('--nodes', '2', *_RUN), '--nodes has no value', '--nodes=VALUE'),
    (('--gpus-per-node=-1', *_RUN), '--gpus-per-node=-1', '0 for the CPU'),
    (('--gpus-per-node=a100:4', *_RUN), '--gpus-per-node=a100:4'),
    (('--gres=gpu:4', *_RUN), '--gres=gpu:4 is not an option', '--sbatch='),
    ((), '--config is missing'),
    (_RUN[1:], '--config=configs/mnist.py:vae is not an option', 'after --'),
  )
  def test_is_reported_in_a_sentence(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)
    self.assertFalse((self.root / 'runs').exists())

  def test_sbatch_given_the_file_is_reported(self):
    script = self.folder / 'spool/slurm_script'
    script.parent.mkdir()
    script.write_bytes((self.root / 'launch/slurm.sh').read_bytes())
    result = subprocess.run(
      ('bash', script, *_RUN),
      env=self.env,
      text=True,
      capture_output=True,
      check=False,
    )
    self.assert_mistake(result, 'given to sbatch', 'bash launch/slurm.sh')


class JobTest(_SlurmTestCase):
  """The job, run here by a fake sbatch and srun."""

  def setUp(self):
    super().setUp()
    self.answer('sbatch*', run=_SBATCH)
    self.answer('srun*', run=_SRUN)
    self.env |= {
      'SLURM_JOB_ID': '4711',
      'SLURM_JOB_NODELIST': 'node[7-8]',
      'SLURM_NTASKS': '4',
      'CUDA_VISIBLE_DEVICES': '0,1',
    }

  def tasks(self):
    return self.calls('ldc_vae.main')

  def test_processes_meet_at_the_first_node(self):
    self.assert_done(self.submit('--nodes=2', '--gpus-per-node=2'))
    self.assertLen(self.tasks(), 4)
    for i, (_, folder, _, devices, _, *args) in enumerate(self.tasks()):
      self.assertEqual(devices, str(i % 2))  # a GPU of its own
      self.assertEqual(folder, str(self.root))
      self.assertEqual(
        args,
        [
          '-P',
          '-m',
          'ldc_vae.main',
          *_RUN[1:],
          '--coordinator_address=node7:14711',
          '--num_processes=4',
          f'--process_id={i}',
        ],
      )

  def test_a_task_that_sees_one_gpu_takes_it(self):
    self.submit(CUDA_VISIBLE_DEVICES='3')
    self.assertEqual([task[3] for task in self.tasks()], ['0'] * 4)

  def test_one_process_needs_no_others(self):
    self.assert_done(self.submit(SLURM_NTASKS='1'))
    (task,) = self.tasks()
    self.assertEqual(task[-2:], _RUN[1:])
    self.assertEqual(task[3], '')

  @parameterized.parameters(('1', 'cuda12', ''), ('0', 'cpu', 'cpu'))
  def test_the_environment_is_made_once(self, gpus, wanted, platforms):
    for _ in range(2):
      self.assert_done(self.submit(f'--gpus-per-node={gpus}'))
    (pip,) = self.calls('install')
    self.assertEqual(pip[-1], f'{self.root}/launch/locks/{wanted}.txt')
    self.assertEqual({task[2] for task in self.tasks()}, {platforms})

  def test_srun_leaves_the_writer_alive(self):
    self.submit(SLURM_CPUS_PER_TASK='8')
    (call,) = self.calls('srun')
    self.assertContainsSubset(
      ('--kill-on-bad-exit=0', '--cpus-per-task=8'), call
    )

  @parameterized.parameters('1', '2', '130')
  def test_the_exit_code_is_the_programs(self, code):
    result = self.launch(
      'job', self.root, '0', *_RUN[1:], FAKE_CODE=code, SLURM_NTASKS='1'
    )
    self.assertEqual(result.returncode, int(code))
    self.assertLen(self.tasks(), 1)
    self.assertEmpty(self.calls('requeue'))

  def test_a_node_that_does_not_see_the_environment_is_reported(self):
    result = self.launch('task', str(self.root), '/nowhere/python')
    self.assert_failed(result, '/nowhere/python', 'storage that all nodes see')

  def start_job(self, workdir=_RUN[-1]):
    """Starts a job whose program runs until it is told to end."""
    args = (self.root, '0', *_RUN[1:-1], workdir)
    process = self.start('job', *args, FAKE_TENTHS='3000', SLURM_NTASKS='1')
    self.wait_for((self.fakes / 'pid').exists)
    self.wait_for((self.fakes / 'pid').read_text)
    return process, int((self.fakes / 'pid').read_text())

  def test_a_saved_job_goes_back_to_the_queue(self):
    self.answer('squeue*', out='RUNNING\n')  # time limit or pre-emption
    process, pid = self.start_job()
    os.kill(pid, signal.SIGTERM)  # --signal=TERM@60 reaches the steps only
    _, err = process.communicate(timeout=launch_case.TIMEOUT)
    self.assertIn('back to the queue', err)
    self.assertEqual(process.returncode, 143)
    self.assertEqual(self.calls('requeue'), [('scontrol', 'requeue', '4711')])

  @parameterized.product(
    case=[('0:41', False, 0), ('0:41', True, 1), ('5:03:41', False, 1)],
    place=[
      ('runs/mnist', 'runs/mnist'),
      ('gs://bucket/mnist', 'cache/buckets/gs/bucket/mnist'),
    ],
  )
  def test_a_time_limit_before_anything_is_saved_ends_it(self, case, place):
    (left, saves, requeued), (name, folder) = case, place
    self.env['LDC_VAE_CACHE'] = f'{self.root}/cache'
    workdir = self.root / folder
    (workdir / 'checkpoints/400').mkdir(parents=True)
    (workdir / 'checkpoints/500.corrupt').mkdir()
    self.answer('squeue*', out=f'RUNNING {left}\n')
    process, pid = self.start_job(f'--workdir={name}')
    if saves:
      (workdir / 'checkpoints/1000').mkdir()
    os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=launch_case.TIMEOUT)
    self.assertLen(self.calls('requeue'), requeued)
    if not requeued:
      self.assertIn('error: the time limit came before', err)

  def test_a_cancelled_job_stays_away(self):
    self.answer('squeue*', out='COMPLETING\n')
    process, pid = self.start_job()
    process.terminate()  # scancel reaches the shell too
    os.kill(pid, signal.SIGTERM)
    process.communicate(timeout=launch_case.TIMEOUT)
    self.assertEqual(process.returncode, 143)
    self.assertEmpty(self.calls('requeue'))

  def test_a_refused_requeue_is_reported(self):
    self.answer('squeue*', out='RUNNING\n')
    self.answer('scontrol requeue*', err='Requested operation', code=1)
    process, pid = self.start_job()
    os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=launch_case.TIMEOUT)
    self.assertRegex(
      err.splitlines()[-1], re.compile('error: .*4711.*submit it again')
    )


if __name__ == '__main__':
  absltest.main()
