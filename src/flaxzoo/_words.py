"""The words of other libraries for what is here: every error about an unknown word asks this table.

Readers of Keras, PyTorch, timm, Flax, Elegy, Lightning and transformers type what they know. A
word that means one thing here is either taken (an alias in a registry) or answered with the line
to type, before the closest spelling is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping

# timm's arguments of ``create_model``, which are called otherwise here whatever the model.
TIMM: Mapping[str, str] = {
    "in_chans": "in_channels",
    "global_pool": "pooling",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "act_layer": "activation",
    "norm_layer": "norm",
    "features_only": "features",
    "checkpoint_path": "pretrained",
    "img_size": "input_shape",
    "dynamic_img_size": "dynamic_size",
    "embed_dim": "width",
    "num_heads": "heads",
    "reg_tokens": "register_tokens",
    "init_values": "layer_scale",
    "attn_drop_rate": "attention_dropout",
    "proj_drop_rate": "block_dropout",
    "pos_drop_rate": "position_dropout",
    "patch_drop_rate": "patch_dropout",
}

# Words (separated by spaces) to the arguments that they may be, of which the first that is taken
# counts, and to what to type where none of these is.
KEYWORDS: tuple[tuple[str, str, str], ...] = (
    # Optimizers and rates.
    ("tx optim opt optimizer_fn optimizer_cls", "optimizer", "Trainer(model, optimizer=...)"),
    (
        "lr base_lr init_lr learning_rate learning_rate_init step_size",
        "learning_rate peak_value",
        "the rate belongs to Trainer or create_train_state: learning_rate=...",
    ),
    ("max_lr max_learning_rate peak_lr peak_learning_rate", "peak_value", ""),
    ("initial_learning_rate", "peak_value learning_rate", ""),
    ("min_lr eta_min lr_min final_lr alpha_lr", "end_value", ""),
    ("decay_steps t_max num_training_steps training_steps max_steps steps", "total_steps", ""),
    ("warmup num_warmup_steps warmup_updates warmup_lr_steps", "warmup_steps", ""),
    ("warmup_epochs", "warmup_steps", ""),
    ("milestones boundaries_and_scales", "boundaries", ""),
    (
        "lr_scheduler lr_schedule scheduler sched schedule lr_scheduler_type",
        "learning_rate",
        "learning_rate='cosine', or any schedule",
    ),
    ("scheduler_options lr_scheduler_kwargs", "schedule_options", ""),
    ("beta_1 beta1 adam_beta1", "b1", ""),
    ("beta_2 beta2 adam_beta2", "b2", ""),
    ("betas", "", "b1=0.9, b2=0.999"),
    ("epsilon adam_epsilon", "eps epsilon", ""),
    ("rho alpha", "decay", ""),
    ("wd l2_penalty weight_decay_rate decoupled_weight_decay", "weight_decay", ""),
    (
        "clipnorm global_clipnorm max_grad_norm gradient_clip_val clip_grad grad_clip",
        "clip_norm",
        "",
    ),
    (
        "gradient_clip_norm clip_grad_norm gradient_clipping max_norm grad_clip_norm",
        "clip_norm",
        "",
    ),
    (
        "clipvalue clip_value",
        "",
        "optimizer=optax.chain(optax.clip(value), optax.adam(rate)), or clip_norm=",
    ),
    (
        "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps every_k_schedule",
        "accumulate_steps",
        "",
    ),
    ("use_ema ema ema_momentum model_ema model_ema_decay", "ema_decay", ""),
    ("layerwise_lr_decay llrd layer_wise_lr_decay", "layer_decay", ""),
    ("trainable trainable_params frozen freeze_backbone freeze_layers", "freeze", ""),
    ("param_groups parameters params_groups", "", "learning_rate={'*': 1e-4, 'head': 1e-3}"),
    # Where and in which precision.
    (
        "distributed devices device num_devices gpus tpu_cores accelerator mesh pmap n_devices "
        "device_ids distribution num_nodes",
        "devices",
        "devices='all' of Trainer or create_train_state",
    ),
    (
        "strategy sharding fsdp zero_stage fsdp_config deepspeed ddp shard",
        "sharding",
        "sharding='fsdp' of Trainer or create_train_state",
    ),
    (
        "precision mixed_precision amp fp16 bf16 half_precision half autocast",
        "precision dtype",
        "a model has its own: model.with_precision('bfloat16')",
    ),
    (
        "jit_compile run_eagerly use_jit compile jit",
        "",
        "steps are always compiled; jax.disable_jit() runs them eagerly",
    ),
    # The rest of Trainer and create_train_state.
    ("loss_fn criterion losses loss_function objective", "loss", "loss= of Trainer"),
    (
        "metric metric_fn compute_metrics weighted_metrics metric_names",
        "metrics",
        "metrics= of Trainer",
    ),
    (
        "seed rng key prng_key rng_key rngs dropout_rng dropout_key "
        "random_state random_seed seed_everything manual_seed",
        "rng seed split_seed",
        "the seed belongs to Trainer(model, seed=0)",
    ),
    ("module net network", "model", ""),
    ("augmentation augmentations transform transforms aug", "augment", "augment= of Trainer"),
    ("aa auto_augment autoaugment", "augment", "augment='randaugment' of Trainer"),
    ("mixup cutmix mixup_alpha", "", "augment='mixup' or 'cutmix' of Trainer"),
    (
        "smoothing",
        "label_smoothing",
        "loss=flaxzoo.losses.get('crossentropy', label_smoothing=0.1)",
    ),
    ("label_smoothing", "", "loss=flaxzoo.losses.get('crossentropy', label_smoothing=0.1)"),
    ("from_logits", "", "loss=flaxzoo.losses.get('crossentropy', from_logits=False)"),
    (
        "input_shape input_size image_size sample_input example_input",
        "input_shape inputs size",
        "the first fit sees the shape; before it trainer.build(inputs)",
    ),
    ("sample_inputs dummy_input init_batch sample", "inputs", ""),
    (
        "default_root_dir output_dir save_dir work_dir workdir log_dir logdir logging_dir "
        "model_dir",
        "run_dir directory log_dir root",
        "run_dir= of Trainer",
    ),
    ("steps_per_execution", "steps_per_call", "steps_per_call= of Trainer"),
    (
        "sync_batchnorm sync_bn",
        "",
        "BatchNorm's statistics are those of the whole batch, wherever it lies",
    ),
    (
        "logger report_to logging_steps",
        "",
        "fit(data, callbacks=[flaxzoo.callbacks.TensorBoard()])",
    ),
    (
        "warmup_steps end_value",
        "",
        "schedule_options={'warmup_steps': ...} beside learning_rate='cosine'",
    ),
    ("args training_args config hparams", "", "each setting is an argument of its own"),
    ("push_to_hub hub_model_id", "", "trainer.model.push_to_hub(repo_id)"),
    # fit.
    (
        "epochs n_epochs num_epochs nb_epoch nb_epochs max_epochs num_train_epochs",
        "epochs",
        "fit(data, epochs=...)",
    ),
    (
        "batch_size bs batchsize per_device_train_batch_size train_batch_size minibatch_size",
        "batch_size",
        "fit(data, batch_size=...)",
    ),
    ("callback callbacks", "callbacks", "fit(data, callbacks=[...])"),
    (
        "train_loader train_dataloader train_dataloaders train_dataset train_ds trainloader "
        "dataset",
        "train_data data",
        "fit(data)",
    ),
    (
        "validation_data val_data valid_data val_loader val_dataloader val_dataloaders val_ds "
        "valid_loader validation_dataset eval_dataset eval_data eval_dataloader testloader "
        "test_data",
        "validation_data",
        "fit(data, validation_data=...)",
    ),
    ("x x_train inputs_train", "inputs data", "inputs and targets are one argument: fit((x, y))"),
    (
        "y y_train labels targets target",
        "targets labels",
        "inputs and targets are one argument: fit((x, y))",
    ),
    (
        "validation_split",
        "",
        "train, validation = flaxzoo.data.train_test_split(data, 0.2), then "
        "fit(train, validation_data=validation)",
    ),
    (
        "verbose enable_progress_bar progress_bar progbar disable_tqdm",
        "",
        "progress=False of fit shows nothing, progress=True a bar and a table",
    ),
    (
        "initial_epoch resume_from resume_from_checkpoint ckpt_path",
        "",
        "Trainer(model, run_dir=...).fit(data, epochs=total, resume=True), which goes on from the "
        "run's last checkpoint",
    ),
    (
        "class_weight class_weights",
        "",
        "loss=flaxzoo.losses.get('crossentropy', class_weights=[...])",
    ),
    (
        "sample_weight sample_weights weight weights",
        "class_weights weights",
        "weights are the third of a batch: (inputs, targets, weights)",
    ),
    (
        "validation_freq check_val_every_n_epoch validation_batch_size eval_steps",
        "",
        "validation runs after each epoch, in batches of batch_size",
    ),
    ("limit_train_batches", "steps_per_epoch", "steps_per_epoch= of fit"),
    ("limit_val_batches eval_iters", "validation_steps", "validation_steps= of fit"),
    ("drop_remainder", "drop_last", "a short last batch counts exactly, and nothing recompiles"),
    ("drop_last", "", "a short last batch counts exactly, and nothing recompiles"),
    (
        "workers num_workers use_multiprocessing max_queue_size",
        "workers",
        "flaxzoo.data.ImageFolder(..., workers=...), or the loader of your own",
    ),
    ("num_parallel_calls", "threads", ""),
    (
        "pin_memory collate_fn persistent_workers prefetch_factor",
        "",
        "flaxzoo.data.prefetch_to_device(batches) sends batches ahead",
    ),
    # Models.
    ("n_classes num_class nclass nb_classes num_labels n_labels num_outputs", "num_classes", ""),
    ("id2label class_labels label_names class_names", "class_names classes", ""),
    ("weights pretrained_weights weights_path ckpt", "pretrained", ""),
    ("include_top", "", "num_classes=0 returns the pooled features"),
    (
        "reset_classifier head",
        "",
        "num_classes= makes a fresh classifier, model.replace_head(module) another head",
    ),
    ("in_ch channels num_channels input_channels", "in_channels channels", ""),
    ("dropout_rate drop dropout_prob rate hidden_dropout_prob", "dropout", ""),
    ("drop_connect_rate stochastic_depth droppath", "drop_path", ""),
    *((word, name, "") for word, name in TIMM.items()),
    ("out_indices", "", "features=True returns the maps of all stages, by name"),
    ("pool", "pooling", ""),
    ("alpha slope", "negative_slope", ""),
    ("act act_fn activation_fn hidden_act nonlinearity", "activation", ""),
    (
        "output classifier_activation final_activation output_activation last_activation",
        "",
        "models return logits, which losses and metrics take; jax.nn.softmax or "
        "jax.nn.log_softmax of model(inputs) is the rest",
    ),
    ("deploy inference_mode reparam", "fused", "model.reparameterize() folds branches"),
    ("normalization norm_type", "norm", ""),
    ("bn batchnorm use_bn batch_norm use_batch_norm", "batch_norm norm", ""),
    (
        "hidden_sizes hidden_layer_sizes layer_sizes units hidden_units hidden_dim hidden",
        "features hidden hidden_size hidden_features",
        "",
    ),
    ("filters kernels", "features widths", ""),
    ("num_filters width_mult", "widths", ""),
    ("num_hidden_layers num_blocks stage_sizes n_layers", "layers depth num_layers", ""),
    ("rnn_units lstm_units", "hidden_size", ""),
    ("output_dim embed_size embedding_size embedding_dimension", "embedding_dim", ""),
    ("input_dim num_embeddings vocabulary_size n_vocab", "vocab_size max_tokens", ""),
    (
        "gradient_checkpointing use_checkpoint grad_checkpointing checkpoint_activations",
        "remat",
        "flaxzoo.models.get(name, remat=True)",
    ),
    (
        "scriptable exportable cache_dir trust_remote_code local_files_only",
        "",
        "see docs/weights.md for the cache, mirrors and working offline",
    ),
    # Losses and metrics.
    ("l amount", "factor", ""),
    ("l1", "factor", ""),
    ("l2", "factor", ""),
    (
        "pred preds prediction logits y_pred output outputs input",
        "predictions outputs",
        "predictions come first: loss(predictions, targets)",
    ),
    (
        "true label y_true ground_truth",
        "targets",
        "targets come second: loss(predictions, targets)",
    ),
    ("pos_weight", "", "class_weights=[1, pos_weight]"),
    ("ignore_index", "", "weights of 0 take elements out: (inputs, targets, weights)"),
    ("size_average reduce", "", "reduction='mean', 'sum' or 'none'"),
    ("task", "", "the shapes tell binary from multiclass; see docs/metrics.md"),
    ("top_k", "k", ""),
    ("beta", "delta", ""),
    # Callbacks.
    (
        "filepath dirpath path filename",
        "directory path log_dir",
        "run_dir= of Trainer holds all files of a run",
    ),
    (
        "save_best_only save_last save_on_train_epoch_end load_best_model_at_end",
        "",
        "the last and the best are both kept (keep=1, keep_best=1); "
        "flaxzoo.Trainer.load(run_dir, which='best') reads the best",
    ),
    ("save_top_k save_total_limit max_to_keep", "keep_best keep", ""),
    ("save_weights_only", "", "trainer.model.save(directory) writes the weights alone"),
    ("save_freq every_n_train_steps save_steps save_interval_steps", "every_steps", ""),
    (
        "period every_n_epochs save_strategy",
        "",
        "it saves after each epoch; every_steps= within one",
    ),
    ("initial_value_threshold stopping_threshold threshold", "baseline", ""),
    ("restore_best_weights restore", "restore_best", ""),
    ("early_stopping_patience n_iter_no_change", "patience", ""),
    ("early_stopping_threshold tol delta", "min_delta delta", ""),
    (
        "start_from_epoch check_finite strict",
        "",
        "min_delta=, patience= and baseline= say when to stop",
    ),
    ("histogram_freq", "histogram_every", ""),
    ("update_freq log_every_n_steps", "every_steps", ""),
    ("write_graph", "graph", ""),
    (
        "embeddings_freq embeddings_metadata embeddings_data",
        "",
        "embeddings=flaxzoo.callbacks.Embeddings(inputs, labels, every=1)",
    ),
    ("write_images profile_batch", "", "see docs/callbacks.md for what TensorBoard writes"),
    ("append separator", "", "a resumed run goes on in the same file, separated by commas"),
    ("on_batch_end on_train_batch_end", "on_step_end", ""),
    ("on_fit_start on_train_start on_fit_begin", "on_train_begin", ""),
    ("on_fit_end", "on_train_end", ""),
    ("on_test_end on_validation_epoch_end on_evaluate on_evaluate_end", "on_validation_end", ""),
    ("on_epoch_start on_train_epoch_start", "on_epoch_begin", ""),
    ("on_train_epoch_end on_log on_save", "on_epoch_end", ""),
    # Data.
    ("image_dir data_dir directory folder", "root directory", ""),
    ("color_mode grayscale", "", "channels=1 for grey, 3 for RGB"),
    ("target_size resize", "size", ""),
    ("subset", "split", "split='train' or 'validation'"),
    ("stratified", "stratify", ""),
    ("test_split", "test_size validation_fraction", ""),
    ("label_col y_col target_column label", "target label_column", ""),
    ("x_col image_column file_col", "file_column", ""),
    ("max_len maxlen max_length seq_len output_sequence_length", "sequence_length", ""),
    ("num_words max_features", "max_tokens", ""),
    ("output_mode", "output", ""),
)

# What a callable's name changes about the rows above.
SPECIAL: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "l1_l2": (("l", "", "l1_l2(l1=..., l2=...)"),),
    "TensorBoard": (("profile_batch", "profile_steps", ""),),
    "ModelCheckpoint": (
        ("filename", "", "the step names the files; directory= says where they lie"),
    ),
    "Model": (
        (
            "train training deterministic is_training mutable rngs",
            "",
            "model(inputs) infers; model.module.apply(model.variables, inputs, train=True) trains",
        ),
    ),
    "Model.predict": (
        ("verbose", "", "predict prints nothing"),
        ("topk top k", "top_k", ""),
    ),
    "Registry.list": (("filter", "pattern", ""),),
    "list": (("filter", "pattern", ""),),
    "Trainer": (("validation_split test_size", "", "flaxzoo.data.train_test_split(data, 0.2)"),),
    **dict.fromkeys(
        ("ImageFolder", "ImageCSV", "TableCSV"),
        (
            ("validation_split test_size valid_pct", "validation_fraction", ""),
            ("label_mode", "", "nothing: labels are int32, which the default loss takes"),
            (
                "transform transforms item_tfms",
                "",
                "preprocess=flaxzoo.Preprocess(...), and augment= of Trainer",
            ),
            ("label_func", "labels", ""),
        ),
    ),
}

# Who takes the argument that a positional one was meant for.
POSITIONS: Mapping[str, str] = {
    "train_step": "inputs and targets are one batch: train_step(state, (inputs, targets))",
    "eval_step": "inputs and targets are one batch: eval_step(state, (inputs, targets))",
    "Trainer": "Trainer(model, optimizer=..., learning_rate=..., loss=..., metrics=...)",
    "Trainer.fit": "inputs and targets are one argument, and the model belongs to Trainer(model): "
    "fit((inputs, targets), epochs=..., validation_data=(inputs, targets))",
    "Trainer.evaluate": "inputs and targets are one argument: evaluate((inputs, targets))",
    "Trainer.predict": "predict(inputs, batch_size=...)",
    "create_train_state": "the module initialises itself: "
    "create_train_state(model, optimizer=..., rng=0, input_shape=...)",
    "Model.predict": "predict(inputs, top_k=..., batch_size=...)",
    "train_test_split": "inputs and targets are one argument: "
    "train, test = train_test_split((inputs, targets), 0.2)",
    "ArrayDataset": "inputs and targets are one argument: "
    "ArrayDataset((inputs, targets), batch_size)",
}

# Attributes of our classes and modules that other libraries' have, to what to type. A module's
# names that a registry knows are found there, before this.
ATTRIBUTES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "EventWriter": (
        ("add_scalar add_scalars log log_metric", "writer.scalar(tag, value, step)"),
        ("add_text markdown", "writer.text(tag, text, step)"),
        ("add_image add_images write_images", "writer.image(tag, images, step), [N, H, W, C]"),
        ("add_figure", "writer.figure(tag, figure, step)"),
        ("add_histogram", "writer.histogram(tag, values, step)"),
        ("add_graph trace_graph", "writer.graph(model)"),
        ("add_embedding", "writer.embedding(name, vectors, step, labels=..., images=...)"),
        ("add_hparams hparams", "writer.hyperparameters(values, results)"),
        (
            "add_audio add_video add_mesh add_pr_curve add_custom_scalars",
            "tensorboardX.SummaryWriter(log_dir) beside this one",
        ),
    ),
    "Model": (
        (
            "fit train_on_batch fit_generator train_step",
            "flaxzoo.Trainer(model, optimizer=..., loss=...).fit(data, epochs=...)",
        ),
        ("compile", "flaxzoo.Trainer(model, optimizer=..., loss=..., metrics=...)"),
        ("evaluate test_on_batch", "flaxzoo.Trainer(model).evaluate(data)"),
        (
            "train eval",
            "there is no mode to set: model(inputs) infers, flaxzoo.train_step and Trainer train",
        ),
        (
            "parameters named_parameters params weights get_weights trainable_variables "
            "trainable_weights non_trainable_variables",
            "model.variables['params']",
        ),
        ("state_dict", "model.variables, or model.to_torch_state_dict() for PyTorch"),
        ("load_state_dict set_weights", "model.with_variables(variables)"),
        (
            "load_weights load_model load_from_checkpoint restore",
            "flaxzoo.Model.load(directory), or flaxzoo.models.get(name, pretrained=path)",
        ),
        ("save_weights save_model save_checkpoint export to_json", "model.save(directory)"),
        ("apply", "model(inputs), or model.module.apply(model.variables, inputs)"),
        ("bind", "model.module.bind(model.variables)"),
        ("forward call predict_on_batch inference run", "model(inputs)"),
        (
            "forward_features get_features extract_features forward_intermediates",
            "model.features(inputs), model.feature_maps(inputs)",
        ),
        (
            "get_classifier reset_classifier set_classifier classifier head",
            "model.replace_head(flaxzoo.models.Head(num_classes)); its variables are "
            "model.variables['params']['head']",
        ),
        (
            "fuse switch_to_deploy convert_to_deploy reparameterize_model deploy",
            "model.reparameterize()",
        ),
        ("layers modules children named_modules get_layer", "model.module, model.summary()"),
        ("count_params num_params num_parameters", "model.summary().parameters"),
        ("num_classes num_features", "model.module.head.num_classes, model.spec.classes"),
        ("config cfg default_cfg pretrained_cfg get_config", "model.spec"),
        ("input_shape output_shape input_size", "model.spec.input_shape"),
        ("name", "model.spec.name"),
        ("batch_stats", "model.variables['batch_stats']"),
        (
            "to cuda cpu half float bfloat16",
            "jax.device_put(model.variables, device); "
            "model.with_precision('bfloat16') computes in bfloat16",
        ),
        (
            "freeze unfreeze requires_grad_ trainable",
            "flaxzoo.Trainer(model, freeze='backbone'), or freeze= of create_train_state",
        ),
        ("optimizer loss metrics history", "those belong to flaxzoo.Trainer(model, ...)"),
        ("encode", "model.module.apply(model.variables, inputs, method='encode')"),
        ("decode", "model.module.apply(model.variables, latents, method='decode')"),
        ("generate", "model.module.apply with a loop of your own"),
        ("predict_proba predict_classes", "model.predict(inputs): probabilities and classes"),
        ("copy clone", "a model never changes: it needs no copy"),
    ),
    "Trainer": (
        ("compile", "those are arguments: flaxzoo.Trainer(model, optimizer=..., loss=...)"),
        ("train fit_generator train_model", "trainer.fit(data, epochs=...)"),
        ("test validate score evaluate_generator", "trainer.evaluate(data)"),
        ("train_on_batch train_step training_step", "flaxzoo.train_step(state, batch)"),
        ("predict_proba predict_on_batch", "trainer.model.predict(inputs)"),
        (
            "save_checkpoint save_state save_model save_weights",
            "trainer.save(directory) for the run, trainer.model.save(directory) for the model",
        ),
        (
            "load_checkpoint load_from_checkpoint load_state_dict load_weights restore resume",
            "flaxzoo.Trainer.load(directory), or fit(..., resume=True)",
        ),
        ("state_dict", "trainer.state, trainer.model.variables"),
        ("params parameters variables", "trainer.model.variables['params']"),
        ("lr", "trainer.learning_rate"),
        ("current_epoch epoch", "len(trainer.history)"),
        ("global_step num_steps iterations", "trainer.step"),
        ("max_epochs num_epochs", "trainer.epochs"),
        ("optimizer loss loss_fn metrics", "trainer.state.optimizer, .loss, .metrics"),
        ("opt_state", "trainer.state.opt_state"),
        ("logs logged_metrics callback_metrics", "trainer.history.last()"),
        ("log", "callbacks log: flaxzoo.callbacks"),
        ("plot plot_history", "trainer.history.plot()"),
        ("freeze unfreeze", "trainer.refreeze('backbone')"),
        ("push_to_hub", "trainer.model.push_to_hub(repo_id)"),
        ("initialize init", "trainer.build(inputs)"),
        ("add_callback callbacks", "fit(data, callbacks=[...])"),
        ("module", "trainer.model.module"),
        ("find_lr lr_find tune", "several short runs: flaxzoo.plots.compare(histories)"),
    ),
    "TrainState": (
        ("variables_ vars", "state.variables"),
        ("optimizer_state optim_state", "state.opt_state"),
        ("lr learning_rate", "state.optimizer.learning_rate(state.step)"),
        ("key dropout_rng dropout_key prng_key", "state.rng"),
        ("apply model", "state.apply_fn(state.variables, inputs), flaxzoo.predict_step"),
        ("train_step update", "flaxzoo.train_step(state, batch)"),
        ("save", "flaxzoo.to_bytes(state), or flaxzoo.Trainer, which checkpoints"),
        ("ema_params", "state.eval_variables['params']"),
    ),
    "Predictions": (
        ("argmax classes ids", "predictions.indices[:, 0]"),
        (
            "max probs scores logits softmax",
            "predictions.probabilities; model(inputs) has the logits",
        ),
        ("shape round flatten numpy tolist", "predictions.indices and predictions.probabilities"),
    ),
    "History": (
        ("params", "trainer.hyperparameters()"),
        ("model", "trainer.model"),
        ("best", "min(history['val_loss'])"),
        ("plot_history", "history.plot()"),
        ("to_csv to_pandas", "pandas.DataFrame(history.history)"),
    ),
    "flaxzoo": (
        ("create_model get_model load_model model hub", "flaxzoo.models.get(name)"),
        ("list_models list_pretrained", "flaxzoo.models.list(pattern, pretrained=True)"),
        ("Sequential", "flax.linen.Sequential, then flaxzoo.Model(module)"),
        ("Module nn LightningModule", "flax.linen.Module, then flaxzoo.Model(module)"),
        ("layers Dense Conv Linear BatchNorm Dropout", "flax.linen has the layers"),
        (
            "optim optimizer optimisers Adam AdamW SGD",
            "flaxzoo.optimizers.get('adam', learning_rate=1e-3), or optimizer='adam'",
        ),
        ("lr_scheduler scheduler", "flaxzoo.schedules.get('cosine', total_steps=...)"),
        ("loss criterion CrossEntropyLoss", "flaxzoo.losses.get('crossentropy')"),
        ("metric", "flaxzoo.metrics.get('accuracy')"),
        ("regularizers L1 L2", "flaxzoo.losses.l2(1e-4), which adds to a loss with +"),
        ("DataLoader Dataset utils", "flaxzoo.data.ArrayDataset(arrays, batch_size=...)"),
        ("datasets", "flaxzoo.data.load_digits(), flaxzoo.data.load_mnist(directory)"),
        ("transforms augmentations", "flaxzoo.augment"),
        ("Callback EarlyStopping ModelCheckpoint TensorBoard CSVLogger", "flaxzoo.callbacks"),
        ("plot_history plot", "flaxzoo.plots.history(history)"),
        ("save_checkpoint restore_checkpoint", "trainer.save(directory), flaxzoo.Trainer.load"),
        ("save load", "model.save(directory), flaxzoo.Model.load(directory)"),
        (
            "set_seed seed_everything manual_seed random",
            "rng= of create_train_state and model.init, seed= of Trainer",
        ),
        ("device cuda", "jax.devices()"),
        ("no_grad inference_mode", "model(inputs) and predict_step take no gradients"),
        ("fit compile", "flaxzoo.Trainer(model, ...).fit(data)"),
        ("freeze", "freeze= of Trainer, or flaxzoo.transfer.freeze"),
        ("jit", "flaxzoo.train_step is compiled"),
        (
            "AutoModel AutoModelForImageClassification FlaxAutoModel from_pretrained pipeline",
            "flaxzoo.models.get(name, pretrained=True), flaxzoo.Model.from_pretrained(source)",
        ),
        ("TrainingArguments", "its settings are arguments of flaxzoo.Trainer and of fit"),
        ("to_categorical one_hot", "losses and metrics take class numbers; jax.nn.one_hot"),
    ),
    "flaxzoo.layers": (
        (
            "Dense Linear Embedding Embed Dropout LSTM Input Activation Sequential",
            "flax.linen has it",
        ),
        ("Conv2D Conv1D Conv2d", "flaxzoo.layers.Conv, or flax.linen.Conv"),
        ("BatchNormalization BatchNorm2d", "flaxzoo.layers.BatchNorm, or flax.linen.BatchNorm"),
    ),
    "flaxzoo.models": (
        ("create_model get_model load_model", "flaxzoo.models.get(name)"),
        ("list_models list_pretrained", "flaxzoo.models.list(pattern, pretrained=True)"),
        ("Sequential Model Functional", "flaxzoo.Model(module) of any flax.linen module"),
        ("load", "flaxzoo.Model.load(directory)"),
        ("Linear Dense", "flax.linen.Dense"),
    ),
    "flaxzoo.callbacks": (
        (
            "LearningRateScheduler ReduceLROnPlateau LRScheduler WarmUp",
            "a schedule: learning_rate='cosine' of Trainer, or any function of the step",
        ),
        ("BackupAndRestore", "Trainer(model, run_dir=...).fit(data, resume=True)"),
        ("History", "trainer.history"),
        ("TensorBoardLogger", "flaxzoo.callbacks.TensorBoard(log_dir)"),
        ("SummaryWriter", "flaxzoo.callbacks.EventWriter(log_dir)"),
        ("Checkpoint ModelCheckpointer", "flaxzoo.callbacks.ModelCheckpoint()"),
        ("ProgbarLogger TQDMProgressBar RichProgressBar", "flaxzoo.callbacks.ProgressBar()"),
        ("EMA StochasticWeightAveraging ModelEMA", "ema_decay=0.999 of Trainer"),
        ("GradientAccumulationScheduler", "accumulate_steps= of Trainer"),
        ("BackboneFinetuning BaseFinetuning", "flaxzoo.callbacks.GradualUnfreezing"),
    ),
    "flaxzoo.data": (
        ("DataLoader Dataset TensorDataset", "flaxzoo.data.ArrayDataset(arrays, batch_size=...)"),
        ("image_dataset_from_directory ImageDataGenerator", "flaxzoo.data.ImageFolder(root)"),
        ("TextVectorisation TextVectorization Tokenizer", "flaxzoo.data.TextVectorizer"),
        ("random_split split", "flaxzoo.data.train_test_split(arrays, 0.2)"),
        ("MNIST", "flaxzoo.data.load_mnist(directory)"),
        ("read_csv DataFrame", "flaxzoo.data.TableCSV(path, target)"),
    ),
    "flaxzoo.losses": (
        ("Regularizer_ WeightDecay", "flaxzoo.losses.l2(factor)"),
        ("BCELoss", "flaxzoo.losses.get('binary_crossentropy', from_logits=False)"),
    ),
    "flaxzoo.optimizers": (
        ("schedules ExponentialDecay CosineDecay", "flaxzoo.schedules.get('cosine', ...)"),
        ("apply_updates chain clip", "those are optax's"),
    ),
    "flaxzoo.transfer": (
        ("unfreeze", "flaxzoo.transfer.refreeze(state, None)"),
        ("replace_head fine_tune", "model.replace_head(module)"),
    ),
}

# Names that a registry does not know, to what to type.
NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "model": (
        ("vit_b_16 vit_base vit google_vit", "vit_base_patch16_224"),
        ("vit_b_32", "vit_base_patch32_224"),
        ("vit_l_16 vit_large", "vit_large_patch16_224"),
        ("vit_s_16 vit_small", "vit_small_patch16_224"),
        ("vit_ti_16 vit_tiny", "vit_tiny_patch16_224"),
        ("resnet convnet", "resnet50"),
        ("resnet20 resnet56 resnet110", "resnet18"),
        ("simple_cnn convolutional lenet", "cnn"),
        ("dense fully_connected feed_forward perceptron", "mlp"),
        ("rnn gru bilstm", "lstm"),
        ("vae denoising_autoencoder", "autoencoder"),
        ("convnext", "convnext_tiny"),
        ("vgg", "vgg16"),
        ("swin swin_t swin_tiny", "swin_tiny_patch4_window7_224"),
        ("swinv2 swin_v2_t swinv2_tiny", "swinv2_tiny_window8_256"),
        ("swin_s swin_small", "swin_small_patch4_window7_224"),
        ("swin_b swin_base", "swin_base_patch4_window7_224"),
        ("efficientnet", "efficientnet_b0"),
        ("repvgg", "repvgg_a0"),
        ("mobileone", "mobileone_s0"),
        ("genet gernet", "gernet_m"),
        ("botnet botnet50 bottleneck_transformer", "botnet26t_256"),
        ("halonet halonet50", "halonet26t"),
        ("lambdanet lambda_network lambda_resnet50", "lambda_resnet26t"),
        ("rn50 clip_rn50", "resnet50_clip"),
        ("rn101 clip_rn101", "resnet101_clip"),
        ("rn50x4", "resnet50x4_clip"),
        ("rn50x16", "resnet50x16_clip"),
        ("rn50x64", "resnet50x64_clip"),
        ("tresnet", "tresnet_m"),
        ("repvit", "repvit_m0_9"),
        ("repghost repghostnet", "repghostnet_100"),
        ("mobilenet mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v1", "mobilenetv1_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("hardcorenas hardcore_nas", "hardcorenas_a"),
        ("pp_lcnet_v2 pplcnetv2 lcnetv2 lcnet_v2", "lcnetv2_base"),
        ("selecsls", "selecsls60b"),
        ("maxvit maxvit_t", "maxvit_tiny_tf_224"),
        ("bit", "resnetv2_50x1_bit"),
        ("nasnet nasnet_large", "nasnetalarge"),
        ("pnasnet pnasnet_large", "pnasnet5large"),
        ("densenet dense_net", "densenet121"),
        ("xception", "xception41"),
        ("inception inception_v3_google", "inception_v3"),
        ("regnet regnet_y_3_2gf regnet_y", "regnety_032"),
        ("regnet_y_400mf", "regnety_004"),
        ("regnet_y_16gf", "regnety_160"),
        ("regnet_x regnet_x_3_2gf", "regnetx_032"),
        ("sknet sknet50", "skresnext50_32x4d"),
        ("res2net res2net50", "res2net50_26w_4s"),
        ("senet", "senet154"),
        ("vovnet vovnet39 ese_vovnet", "ese_vovnet39b"),
        ("dla deep_layer_aggregation", "dla34"),
        ("dpn dual_path_network", "dpn68b"),
        ("darknet yolov3", "darknet53"),
        ("cspnext rtmdet", "cspnext_m"),
        ("cspnet cspdarknet", "cspdarknet53"),
        ("hrnet hrnetv2 high_resolution_net", "hrnet_w18"),
        ("squeezenet", "squeezenet1_1"),
        ("shufflenet shufflenet_v2", "shufflenet_v2_x1_0"),
        ("inception_v1 inception1", "googlenet"),
        (
            "deeplabv3_resnet50 unet yolo bert gpt2 clip",
            "of no family that there is yet: resnet50, convnext_tiny, vit_small_patch16_224 and "
            "others are in docs/zoo.md",
        ),
    ),
    "optimizer": (
        ("momentum sgd_momentum nesterov", "sgd, with momentum=0.9 and perhaps nesterov=True"),
        ("adamw_torch adamw_torch_fused adamw_hf fused_adamw fused_adam adamw_bnb_8bit", "adamw"),
        ("rmsproptf", "rmsprop"),
        ("lookahead", "optax.lookahead"),
        ("adam_with_weight_decay", "adamw"),
        ("lbfgs_b", "lbfgs"),
        ("gradient_descent gd", "sgd"),
    ),
    "loss": (
        ("bce_loss", "binary_crossentropy, with from_logits=False for probabilities"),
        (
            "label_smoothing_cross_entropy label_smoothing",
            "crossentropy, with label_smoothing=0.1",
        ),
        ("l2 rmse", "mean_squared_error, or l2_loss, which is half of it"),
        ("nll log_loss logistic softmax_loss xent", "crossentropy"),
        ("kld kullback_leibler_divergence", "kl_divergence, of log-probabilities and targets"),
        ("contrastive contrastive_loss info_nce", "ntxent"),
    ),
    "metric": (
        ("error top1_error top_1_err top1_err", "accuracy, of which the error is the rest"),
        ("top1 top_1", "accuracy"),
        ("top5 top_5", "top5_accuracy"),
        ("topk", "top5_accuracy, or of any other number"),
        ("average_precision", "auc_pr"),
        ("confusion_matrix", "flaxzoo.plots.confusion_matrix"),
        ("dice", "f1, which is the same number"),
    ),
    "schedule": (
        ("step_lr step_decay", "step, with boundaries=[...], or exponential with staircase=True"),
        ("reduce_lr_on_plateau plateau reduce_on_plateau", "cosine, which needs no plateau"),
        ("warmup linear_warmup", "constant or cosine, with warmup_steps=..."),
        ("inverse_sqrt noam rsqrt inverse_time_decay", "polynomial, or a function of the step"),
        ("join_schedules sequential_lr lambda_lr", "a function of the step"),
        ("none", "a number as learning_rate"),
    ),
    "activation": (
        ("none null", "identity, or None"),
        ("lrelu", "leaky_relu"),
        ("geglu swiglu reglu", "glu, or the Mlp of flaxzoo.layers"),
        ("threshold rrelu", "leaky_relu"),
    ),
    "augmentation": (
        ("autoaugment auto_augment augmix", "randaugment, or trivialaugment"),
        ("normalize to_tensor", "the model's preprocessing: model.spec.preprocess"),
        ("cutout coarse_dropout", "random_erasing"),
        ("center_crop resize", "the model's preprocessing: model.spec.preprocess"),
        ("brightness contrast saturation hue", "color_jitter"),
    ),
}
