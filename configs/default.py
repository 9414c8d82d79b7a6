"""Every field of a run, with its meaning; a run file overrides what differs.

A run file is `get_config(arg)` around `create(arg, ...)` below. `arg` is what
follows the colon of `--config=FILE[:METHOD][,debug]`.
"""

import dataclasses

from ml_collections import config_dict

from ldc_vae.samplers import sampler_options

# The fields of `config.objective`, one entry per method. A method has these
# fields and no others, so that a misplaced override is an error.
OBJECTIVES = {
    'ae': dict(
        moments_decay=0.99,  # of the codes' running mean and covariance
    ),
    'vae': dict(
        beta=1.0,  # weight of the KL term; 1 is the ELBO
        num_samples=1,  # posterior samples per image and step
        kl_warmup=0.0,  # fraction of training, until the KL term has its weight
    ),
    'beta_vae': dict(
        beta=4.0,  # of the values in Higgins et al.
        num_samples=1,
        kl_warmup=0.0,
    ),
    'iwae': dict(
        num_samples=5,  # K; the paper's are 1, 5 and 50
        kl_warmup=0.0,
    ),
    'wae_mmd': dict(
        # of the MMD, in nats. The code weighs 10 times the sum over 7 scales
        # against 0.05 |x - y|^2; -log p is |x - y|^2 / (2 scale^2), or 5
        # |x - y|^2 at scale^2 = 0.1, and the MMD a mean: 10 * 7 * 5 / 0.05
        mmd_weight=7000.0,
    ),
    'info_vae': dict(
        alpha=0.0,  # 1 - alpha weighs KL(q(z|x) || p); 1 is the MMD-VAE
        mmd_scaling=1000.0,  # lambda; alpha + lambda - 1 weighs the MMD, nats
    ),
    'aae': dict(
        # of -log D(z), in nats; on digits, 100 leaves codes further from the
        # prior than 10, and reconstructions worse
        adversarial_weight=10.0,
        num_discriminator_updates=1,  # per step
    ),
    # The RAE code weighs 1e-4 of the mean z_d^2 and 1e-7 of the sum of squared
    # weights against the mean squared error of a pixel. -log p is 784 / (2
    # scale^2) = 3920 times that error at scale^2 = 0.1; in |z|^2 / 2, with 16
    # dimensions, the first is 3920 * 1e-4 * 2 / 16.
    'rae_l2': dict(
        embedding_weight=0.05,  # of |z|^2 / 2, in nats
        decoder_weight=4e-4,  # of the decoder's |weights|^2, in nats
        moments_decay=0.99,
    ),
    'rae_gp': dict(
        embedding_weight=0.05,
        # of |dD / dz|^2, in nats: what noise of deviation 0.1 in z would cost
        # on average at scale^2 = 0.1, 0.1^2 / (2 * 0.1)
        gradient_weight=0.05,
        moments_decay=0.99,
    ),
    'vamp': dict(
        num_samples=1,
        kl_warmup=0.0,
    ),
    'stein_vae': dict(
        num_particles=4,  # K, particles per image; at least 2
        kernel='rbf',  # rbf, imq, multi_scale, linear
        # expected, by a running mean of particles' squared distances, or a
        # number in squared latent units
        bandwidth='expected',
        bandwidth_factor=1.0,  # of expected
        off_diagonal=True,  # leave j = i out of the direction
        kl_warmup=0.0,
    ),
    # Steps and sizes are those of the LEBM code.
    'lebm': dict(
        posterior_steps=20,  # of Langevin dynamics, from N(0, I)
        posterior_step_size=0.1,  # in latent units
        prior_steps=60,
        prior_step_size=0.4,
        # of E|grad f|^2 / 2 on posterior draws. The paper has none, and a rate
        # of 2e-5; here f steepened until its chains flew apart
        r1_weight=0.1,
    ),
    'ldc': dict(
        # lambda of U = lambda * -log p(x|z) + |z|^2/2. 1 is the posterior of
        # the bound; the likelihood's own scale is learned
        inverse_temperature=1.0,
        num_particles=2,  # K, particles per image; at least 2
        kernel='rbf',  # of the encoder's SVGD: rbf, imq, multi_scale, linear
        # expected, 2 sqrt(D) of whitened particles, and of others by a running
        # mean of squared distances; or a number, in squared units of the
        # posterior's deviations where whitened, of the latents where not
        bandwidth='expected',
        bandwidth_factor=1.0,  # of expected
        off_diagonal=True,  # leave j = i out of the encoder's direction
        whiten=True,  # distances in posterior deviations (gaussian encoder)
        kl_warmup=0.0,
        latent_energy_weight=0.0,  # weight of f(u) inside U
        num_latent_updates=2,  # sampler and energy updates per step
        # particles of each image in one latent update: 256 in all are enough
        latents_per_image=1,
        moments_decay=0.99,  # of the running latent mean and covariance
        # sampler_*, temperature_*, gradient_penalty:
        # see ldc_vae/samplers/sampler_options.py
        **dataclasses.asdict(sampler_options.SamplerOptions()),
    ),
}

# Fields of `config.model` that a method needs otherwise than below.
MODEL_FIELDS = {
    'ae': dict(encoder='deterministic'),
    'aae': dict(encoder='deterministic'),
    'ldc': dict(learn_scale=True, energy_width=128),
    'lebm': dict(encoder='none'),
    'rae_gp': dict(encoder='deterministic'),
    'rae_l2': dict(encoder='deterministic'),
    'stein_vae': dict(encoder='implicit'),
    'wae_mmd': dict(encoder='deterministic'),
}
# And of `config.optimizer`.
OPTIMIZER_FIELDS = {
    'ldc': dict(
        learning_rate=2e-3, latent_learning_rate=2e-3, latent_final_fraction=0.0
    ),
    'lebm': dict(latent_learning_rate=2e-4),  # 1/5 of the decoder's, as there
}
# What `benchmarks/search.py` chose for 28x28 images, on the validation split of
# MNIST: benchmarks/results/search*.md. None where the value above was the best.
SEARCHED = {
    'aae': {'objective.adversarial_weight': 3.0},
    'ae': {'optimizer.learning_rate': 2e-3},
    'info_vae': {'objective.mmd_scaling': 3000.0},
    'iwae': {'optimizer.learning_rate': 2e-3},
    'lebm': {
        'objective.r1_weight': 0.1, 'optimizer.latent_learning_rate': 5e-4,
    },
    'rae_gp': {'objective.gradient_weight': 0.5},
    'rae_l2': {'objective.embedding_weight': 0.005},
    'stein_vae': {
        'objective.num_particles': 4, 'optimizer.learning_rate': 2e-3,
    },
    'vae': {'optimizer.learning_rate': 2e-3},
    'vamp': {'optimizer.learning_rate': 2e-3},
    'wae_mmd': {'objective.mmd_weight': 2000.0},
}


def create(arg: str = '') -> config_dict.ConfigDict:
  """Returns the default config for `arg`, '' or 'METHOD' or 'METHOD,debug'."""
  method, debug = parse_arg(arg)
  config = config_dict.ConfigDict()
  config.seed = 0
  config.debug = debug

  config.dataset = dataset = config_dict.ConfigDict()
  # digits, mnist, fashion_mnist, cifar10, celeba64, images
  dataset.name = 'digits'
  dataset.data_dir = ''  # prepared TFDS data; '' is TFDS_DATA_DIR or the cache
  dataset.path = ''  # images: a folder of PNG/JPEG, an .npz or an .npy file
  dataset.image_size = 0  # images: side after resize and centre crop; 0: native
  dataset.num_channels = 0  # images: 1 grey, 3 colour; 0: as the files are
  dataset.num_validation = 10_000  # images held out of train for selection
  dataset.num_test = 0  # images: held out for test; 0: a tenth
  dataset.binarize = False  # stochastic binarisation, anew each step

  config.model = model = config_dict.ConfigDict()
  # mlp, gated_mlp (Tomczak and Welling's), conv (28x28 and 32x32), conv64
  model.architecture = 'mlp'
  # gaussian, implicit (noise-injected), warped (implicit, from a gaussian),
  # deterministic, none (lebm infers by Langevin dynamics)
  model.encoder = 'gaussian'
  model.latent_size = 16
  # mlp, gated_mlp: encoder, the decoder mirrors it; last: implicit's, warped's
  model.hidden_sizes = (512, 512)
  model.channels = (32, 64, 128)  # conv: one entry per stride of 2
  # of conv and conv64: native (XLA's), subpixel (XLA's, transposed ones with
  # stride 1), patches (as matmuls). auto: patches on the CPU, and conv on a
  # GPU; subpixel for conv64 there; else native. The weights are the same.
  model.convolution = 'auto'
  model.sampler_width = 128  # of the sampler net's residual blocks
  model.sampler_blocks = 4
  model.energy_width = 256  # of the latent energy's residual blocks, and of
  model.energy_blocks = 2  # the layers of the discriminator (aae)
  # implicit encoder: dimension of the injected noise; warped: beyond
  # latent_size
  model.noise_size = 16
  model.num_pseudo_inputs = 500  # components of the VampPrior (vamp)
  model.likelihood = 'gaussian'  # bernoulli, gaussian, discretized_logistic
  model.scale = 0.31622776  # of gaussian and logistic, pixels in [0, 1]
  model.learn_scale = False  # one scale for all pixels, by gradient
  model.dtype = 'float32'  # encoder's and decoder's layers, or bfloat16
  model.update(MODEL_FIELDS.get(method, {}))

  config.objective = config_dict.ConfigDict(OBJECTIVES[method])
  config.objective.name = method

  config.optimizer = optimizer = config_dict.ConfigDict()
  optimizer.learning_rate = 1e-3  # of the encoder and decoder
  # of the sampler, the latent energy and the discriminator
  optimizer.latent_learning_rate = 1e-3
  optimizer.schedule = 'cosine'  # cosine (to 0, or the next line), constant
  optimizer.latent_final_fraction = 0.1  # of latent_learning_rate, at the end
  optimizer.warmup_steps = 100
  optimizer.b1 = 0.9
  optimizer.latent_b1 = 0.5  # a moving target wants little momentum
  optimizer.b2 = 0.999
  optimizer.weight_decay = 0.0
  optimizer.clip_norm = 0.0  # of each network's gradient; 0: no clipping
  optimizer.update(OPTIMIZER_FIELDS.get(method, {}))

  config.train = train = config_dict.ConfigDict()
  train.batch_size = 256  # over all devices
  # micro-batches per step; batch_size stays the total. What compares whole
  # sets takes them whole: wae_mmd, info_vae, the updates of latent nets.
  train.accumulate = 1
  train.num_epochs = 20
  train.num_steps = 0  # if positive, instead of num_epochs
  # of the weights that are evaluated; at most (1 + step) / (10 + step), so
  # that they are those of the last tenth of the steps at first
  train.ema_decay = 0.999
  train.log_every = 50  # steps between lines of metrics.jsonl
  train.validate_every = 0  # steps; 0: twenty times a run
  train.checkpoint_every = 0  # steps; 0: twenty times a run
  train.non_finite = 'stop'  # an update with NaN or inf: stop, or skip it

  config.evaluate = evaluate = config_dict.ConfigDict()
  evaluate.batch_size = 500
  evaluate.num_samples = 10_000
  # sets of so many, over which Frechet distances are averaged: those of one
  # set of 10,000 vary by a tenth from draw to draw
  evaluate.num_draws = 1
  # and two_stage, langevin, flow_matching, flow, drifting, each half a minute
  # to two on one core, and nearest, a control; gmm_K with any K
  evaluate.samplers = ('prior', 'gaussian', 'gmm_10', 'gmm_50', 'gmm_200')
  evaluate.two_stage_steps = 1200  # of the second VAE's training
  evaluate.langevin_steps = 1000  # of the latent energy's training
  evaluate.flow_matching_steps = 6000  # of the velocity's training
  evaluate.flow_steps = 3000  # of the normalising flow's training
  evaluate.drifting_steps = 6000  # of the drifting net's training
  evaluate.svgd_steps = 12_000  # of the training of a sampler net like ldc's
  # of nearest, the control: the noise on a training latent, as a share of the
  # median distance between a latent and the nearest other one
  evaluate.nearest_noise = 0.5
  evaluate.importance_samples = 64  # of nll/importance; 0: null
  evaluate.num_nll_images = 10_000  # images of nll/elbo, nll/importance
  evaluate.ais_chains = 0  # of nll/ais, per image; 0: null, for it is slow
  evaluate.ais_temperatures = 500
  evaluate.ais_images = 100  # the first of evaluate.split
  evaluate.classifier_seeds = (0,)  # the first is reported, the rest check it
  evaluate.inception = False  # frechet_inception/*: needs torch-fidelity
  # whose images are the reference: test, validation (to choose options by)
  evaluate.split = 'test'
  evaluate.checkpoint = 'latest'  # latest, best (by validation loss)
  return config.lock()  # a run file cannot add fields, only change them


def parse_arg(arg: str) -> tuple[str, bool]:
  """Splits 'METHOD', 'METHOD,debug', 'debug' or '' into (method, debug)."""
  words = [word for word in arg.split(',') if word]
  debug = 'debug' in words
  methods = [word for word in words if word != 'debug'] or ['ldc']
  if len(methods) != 1 or methods[0] not in OBJECTIVES:
    known = ', '.join(sorted(OBJECTIVES))
    raise ValueError(
        f'unknown method {",".join(methods)!r} after the colon of --config;'
        f' known: {known}, each optionally followed by ",debug"'
    )
  return methods[0], debug


def apply_search(config: config_dict.ConfigDict) -> None:
  """Sets the options of `SEARCHED`."""
  chosen = SEARCHED.get(config.objective.name, {})
  config.update_from_flattened_dict(chosen)


def finish(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Returns a run file's config, shrunk to seconds if debug was asked for."""
  if config.debug:
    config.dataset.num_validation = min(config.dataset.num_validation, 64)
    model = config.model
    model.hidden_sizes = (64,) * len(model.hidden_sizes)
    model.channels = (8,) * len(model.channels)
    model.sampler_width = model.energy_width = 32
    model.sampler_blocks = model.energy_blocks = 1
    model.num_pseudo_inputs = 16
    config.train.batch_size = min(config.train.batch_size, 32)
    config.train.num_steps = 24
    config.train.log_every = 4
    config.evaluate.num_samples = 256
    config.evaluate.two_stage_steps = config.evaluate.langevin_steps = 20
    config.evaluate.flow_matching_steps = config.evaluate.flow_steps = 20
    config.evaluate.drifting_steps = config.evaluate.svgd_steps = 20
    if config.dataset.name != 'digits':  # a mixture of many latents: a minute
      config.evaluate.samplers = ('prior', 'gaussian')
    config.evaluate.importance_samples = 8
    config.evaluate.num_nll_images = 128
  return config
