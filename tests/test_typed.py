"""What readers of other libraries' tutorials type: each line works, or its error has the line here.

``docs/reliability.md`` has how many of both there are.
"""

import functools
from pathlib import Path

import flax
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from clu import metrics as clu_metrics
from flax.training import train_state

import flaxzoo as fz

# Lines that work as they are, by the library that they are typed in.
WORKS = {
    "Keras": (
        "fz.optimizers.get('Adam', learning_rate=1e-3)",
        "fz.optimizers.get('RMSprop')",
        "fz.optimizers.get('Adagrad')",
        "fz.create_train_state(model, optimizer='SGD', momentum=0.9, nesterov=True)",
        "fz.losses.get('SparseCategoricalCrossentropy', from_logits=False)",
        "fz.losses.get('categorical_crossentropy')",
        "fz.losses.get('MeanSquaredError')",
        "fz.losses.get('Huber', delta=2.0)",
        "fz.losses.L2(1e-4), fz.losses.L1(1e-4), fz.losses.L1L2(l1=1e-4, l2=1e-4)",
        "fz.metrics.get('acc').name == 'acc'",
        "fz.metrics.get('AUC').name == 'auc'",
        "fz.metrics.get('sparse_top_k_categorical_accuracy', k=3)",
        "fz.create_train_state(model, metrics=['Accuracy']).metrics[0].name == 'accuracy'",
        "fz.schedules.get('CosineDecay', total_steps=10)",
        "fz.schedules.get('ExponentialDecay')",
        "fz.schedules.get('PiecewiseConstantDecay', boundaries=[3], values=[1.0, 0.1])",
        "fz.activations.get('PReLU')",
        "fz.activations.get('soft_plus')",
        "fz.activations.get('LeakyReLU')",
        "fz.augment.get('RandomFlip')",
        "fz.augment.get('RandAugment')",
        "fz.models.info('ResNet50').name == 'resnet50'",
        "fz.models.info('ConvNeXtTiny').name == 'convnext_tiny'",
        "fz.models.info('VGG16').name == 'vgg16'",
        "fz.models.list('ResNet50*')[0] == 'resnet50'",
        "history.history['loss']",
        "history.history.keys(), history.keys(), history.epoch",
        "[(name, values[-1]) for name, values in history.items()]",
        "'val_loss' in history, dict(history)",
        "fz.plots.plot_history(history)",
        "model.summary()",
        "fz.losses.as_loss(keras_loss)(predictions, targets)",
        "fz.data.train_test_split((X, y), test_size=0.2)",
    ),
    "PyTorch, timm, Lightning": (
        "fz.losses.get('CrossEntropyLoss', label_smoothing=0.1)",
        "fz.losses.get('BCEWithLogitsLoss')",
        "fz.losses.get('MSELoss'), fz.losses.get('L1Loss'), fz.losses.get('SmoothL1Loss')",
        "fz.losses.get('NLLLoss'), fz.losses.get('KLDivLoss'), fz.losses.get('CTCLoss')",
        "fz.losses.get('SoftTargetCrossEntropy')",
        "fz.schedules.get('CosineAnnealingLR', total_steps=10)",
        "fz.schedules.get('OneCycleLR', total_steps=10)",
        "fz.schedules.get('MultiStepLR', boundaries=[3])",
        "fz.activations.get('GELU'), fz.activations.get('SiLU'), fz.activations.get('Hardswish')",
        "fz.augment.get('RandomHorizontalFlip'), fz.augment.get('ColorJitter')",
        "fz.models.info('wide_resnet50_2')",
        "fz.models.list('vit_base*', pretrained=True)",
    ),
    "Flax, optax, clu, Elegy": (
        "fz.TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(1e-3))",
        "fz.train_step(flax_state(tx=optax.adam(1e-3)), (X, y))[1].compute()['loss'] > 0",
        "fz.train_step(flax_state(tx=optax.sgd(0.1), metrics=Metrics.empty()), (X, y))",
        "fz.create_train_state(net, input_shape=(4,), metrics=Metrics)",
        "fz.create_train_state(net, inputs=np.ones((1, 4)))",
        "fz.schedules.get('warmup_cosine_decay_schedule', total_steps=10, warmup_steps=2)",
        "fz.schedules.get('piecewise_constant_schedule', boundaries=[3], values=[1.0, 0.1])",
        "fz.losses.get('softmax_cross_entropy_with_integer_labels')",
        "model.tabulate(jax.random.key(0), np.ones((1, 4)))",
        "fz.from_bytes(state, fz.to_bytes(state))",
        "state.apply_fn({'params': state.params}, X)",
        "state.apply_gradients(grads=jax.tree.map(np.ones_like, state.params))",
        "module, variables = model",
        "fz.create_train_state(net, input_shape=(4,), loss=['crossentropy', fz.losses.L2(1e-4)])",
        "fz.losses.as_loss(elegy_loss)(predictions, targets)",
        "fz.metrics.collect([elegy_loss], predictions, targets).compute()",
        "fz.losses.get('Crossentropy') + fz.losses.l2(1e-4)",
        "fz.plots.plot_history(history.history)",
    ),
    "transformers": (
        "fz.schedules.get('cosine_with_restarts', total_steps=10)",
        "fz.schedules.get('constant_with_warmup', warmup_steps=3)",
        "fz.activations.get('gelu_new')",
    ),
}

# Lines that cannot work, and what their errors must say.
ANSWERED = {
    "Keras": (
        ("model.fit(X, y)", "flaxzoo.Trainer(model, optimizer=..., loss=...).fit(data"),
        ("model.compile(optimizer='adam')", "flaxzoo.Trainer(model, optimizer=..., loss=..."),
        ("model.evaluate(X, y)", "flaxzoo.Trainer(model).evaluate(data)"),
        ("np.argmax(model.predict(X), axis=-1)", "predictions.indices[:, 0]"),
        ("model.predict(X).argmax(-1)", "predictions.indices[:, 0]"),
        ("model.predict(X, verbose=0)", "predict prints nothing"),
        ("model(X, training=True)", "train=True"),
        ("history.history['val_acc']", "'val_accuracy'"),
        ("fz.losses.get('crossentropy')(y, logits)", "the other way round"),
        ("model.count_params()", "model.summary().parameters"),
        ("model.layers[-1]", "model.summary()"),
        ("model.get_weights()", "model.variables['params']"),
        ("model.save_weights('w')", "model.save(directory)"),
        ("model.load_weights('w')", "flaxzoo.Model.load(directory)"),
        ("model.trainable = False", "freeze='backbone'"),
        ("trainer.fit(X, y)", "fit((inputs, targets)"),
        ("trainer.fit(x=X, y=y, epochs=2)", "fit((x, y))"),
        ("trainer.fit((X, y), verbose=0)", "progress=False"),
        ("trainer.fit((X, y), validation_split=0.2)", "train_test_split"),
        ("trainer.fit((X, y), class_weight={0: 1.0, 1: 2.0})", "class_weights=[...]"),
        ("trainer.fit((X, y), sample_weight=X[:, 0])", "(inputs, targets, weights)"),
        ("trainer.fit((X, y), initial_epoch=3)", "resume=True"),
        ("trainer.fit((X, y), callback=[])", "'callbacks'"),
        ("trainer.evaluate(X, y)", "evaluate((inputs, targets))"),
        ("trainer.compile(optimizer='adam')", "flaxzoo.Trainer(model, optimizer=..."),
        ("fz.Trainer(model, 'adam')", "Trainer(model, optimizer=...,"),
        ("fz.Trainer(model, epochs=3)", "fit(data, epochs=...)"),
        ("fz.Trainer(model, batch_size=3)", "fit(data, batch_size=...)"),
        ("fz.Trainer(model, callbacks=[])", "fit(data, callbacks=[...])"),
        ("fz.Trainer(model, beta_1=0.9)", "'b1'"),
        ("fz.Trainer(model, clipnorm=1.0)", "'clip_norm'"),
        ("fz.Trainer(model, clipvalue=1.0)", "optax.clip(value)"),
        ("fz.Trainer(model, steps_per_execution=4)", "'steps_per_call'"),
        ("fz.Trainer(model, run_eagerly=True)", "jax.disable_jit()"),
        ("fz.Trainer(model, loss=['mse', 'mae'])", "one loss and regularizers"),
        ("fz.Trainer(model, loss=fz.losses.l2(1e-4))", "loss=['crossentropy'"),
        ("fz.optimizers.Adam(1e-3)", "flaxzoo.optimizers.get('adam')"),
        ("fz.optimizers.get('adam', lr=1e-3)", "'learning_rate'"),
        ("fz.optimizers.get('adam', epsilon=1e-7)", "'eps'"),
        ("fz.losses.MeanSquaredError()", "flaxzoo.losses.get("),
        ("fz.losses.L2(l2=1e-4)", "'factor'"),
        ("fz.metrics.SparseCategoricalAccuracy()", "flaxzoo.metrics.get("),
        ("fz.callbacks.ModelCheckpoint('best', save_best_only=True)", "which='best'"),
        ("fz.callbacks.ModelCheckpoint(filepath='best')", "'directory'"),
        ("fz.callbacks.ModelCheckpoint('b', save_weights_only=True)", "trainer.model.save"),
        ("fz.callbacks.ModelCheckpoint('b', save_freq=10)", "'every_steps'"),
        ("fz.callbacks.EarlyStopping(restore_best_weights=True)", "'restore_best'"),
        ("fz.callbacks.ReduceLROnPlateau()", "learning_rate='cosine'"),
        ("fz.callbacks.LearningRateScheduler(f)", "any function of the step"),
        ("fz.callbacks.BackupAndRestore('d')", "resume=True"),
        ("fz.callbacks.TensorBoard('d', histogram_freq=1)", "'histogram_every'"),
        ("fz.callbacks.TensorBoard('d', write_graph=True)", "'graph'"),
        ("fz.callbacks.TensorBoard('d', embeddings_freq=1)", "Embeddings(inputs, labels, every=1)"),
        ("fz.callbacks.SummaryWriter('d')", "flaxzoo.callbacks.EventWriter(log_dir)"),
        ("fz.callbacks.EventWriter('d').add_scalar('loss', 0.5, 1)", "writer.scalar(tag, value,"),
        ("fz.callbacks.EventWriter('d').add_embedding(x)", "writer.embedding(name, vectors"),
        ("fz.Sequential([])", "flax.linen.Sequential"),
        ("fz.layers.Dense(3)", "flax.linen"),
        ("fz.models.Sequential()", "flax.linen"),
        ("fz.models.load_model('d')", "flaxzoo.models.get(name)"),
        ("fz.models.ResNet50(weights='imagenet')", "flaxzoo.models.get('resnet50')"),
        ("fz.models.get('resnet50', weights='imagenet')", "'pretrained'"),
        ("fz.models.get('resnet50', include_top=False)", "num_classes=0"),
        ("fz.models.get('mlp', classifier_activation='softmax')", "models return logits"),
        ("fz.models.get('mlp', output='log_softmax')", "jax.nn.log_softmax of model(inputs)"),
        ("fz.models.get('autoencoder', output='log_softmax')", "'sigmoid'"),
        ("fz.models.get('mlp', units=(3,))", "'features'"),
        ("fz.data.image_dataset_from_directory('d')", "flaxzoo.data.ImageFolder"),
        ("fz.data.TextVectorization()", "flaxzoo.data.TextVectorizer"),
        ("fz.losses.get('mse', from_logits=True)", "from_logits=False"),
        ("fz.plots.confusion_matrix(y_true=y, y_pred=y)", "'predictions'"),
        ("trainer.fit((X, y), batchsize=4)", "'batch_size'"),
        ("trainer.fit((X, y), nb_epoch=4)", "'epochs'"),
        ("trainer.fit((X, y), validation_freq=2)", "after each epoch"),
        ("trainer.predict_proba(X)", "trainer.model.predict"),
        ("trainer.plot_history()", "trainer.history.plot()"),
        ("fz.losses.get('SparseCategoricalCrossentropy', sample_weight=1)", "weights"),
        ("fz.activations.get('leaky_relu', alpha=0.1)", "'negative_slope'"),
        ("fz.augment.get('RandomRotation', factor=0.1)", "degrees"),
        ("fz.data.TextVectorizer(output_sequence_length=5)", "'sequence_length'"),
        ("fz.data.TextVectorizer(output_mode='int')", "'output'"),
        ("fz.data.train_test_split((X, y), random_state=0)", "'seed'"),
        ("fz.data.ImageFolder('d', target_size=(8, 8))", "'size'"),
    ),
    "PyTorch, timm, Lightning": (
        ("model.train()", "there is no mode to set"),
        ("model.eval()", "there is no mode to set"),
        ("model.parameters()", "model.variables['params']"),
        ("model.state_dict()", "to_torch_state_dict()"),
        ("model.load_state_dict({})", "with_variables"),
        ("model.to('cuda')", "jax.device_put"),
        ("model.cuda()", "jax.device_put"),
        ("model.forward(X)", "model(inputs)"),
        ("model.forward_features(X)", "model.features(inputs)"),
        ("model.reset_classifier(3)", "model.replace_head"),
        ("model.get_classifier()", "model.replace_head"),
        ("model.default_cfg", "model.spec"),
        ("model.num_features", "model.spec"),
        ("model.freeze()", "freeze='backbone'"),
        ("model.encode(X)", "method='encode'"),
        ("fz.models.get('resnet50', num_classes=3, global_pool='avg')", "'pooling'"),
        ("fz.models.get('resnet50', pretrained='IMAGENET1K_V2')", "pretrained=True"),
        ("fz.models.get('timm/resnet50.a1_in1k')", "pretrained='hf:timm/resnet50.a1_in1k'"),
        ("fz.models.get('resnet50', True)", "such as pretrained=..."),
        ("fz.models.get('unet')", "docs/zoo.md"),
        ("fz.train_step(state, X, y)", "train_step(state, (inputs, targets))"),
        ("fz.Trainer(model, optimizer=torch_adam)", "optimizer='adam'"),
        ("fz.Trainer(torch_module)", "a model of PyTorch"),
        ("trainer.fit((X, y), callbacks=[torch_module])", "an object of PyTorch"),
        ("fz.optimizers.get('adam', 1e-3)", "such as learning_rate=..."),
        ("fz.schedules.get('cosine', 1e-3, 100)", "name the others"),
        ("fz.callbacks.EarlyStopping('val_loss', 3)", "such as patience=..."),
        ("fz.callbacks.LambdaCallback(on_batch_end=print)", "'on_step_end'"),
        ("fz.create_model('resnet50')", "flaxzoo.models.get(name)"),
        ("fz.list_models('resnet*')", "flaxzoo.models.list(pattern"),
        ("fz.models.list(filter='resnet*')", "'pattern'"),
        ("fz.models.create_model('resnet50')", "flaxzoo.models.get(name)"),
        ("fz.models.get('resnet50', in_chans=1)", "'in_channels'"),
        ("fz.models.get('resnet50', drop_rate=0.1)", "'dropout'"),
        ("fz.models.get('resnet50', drop_path_rate=0.1)", "'drop_path'"),
        ("fz.models.get('resnet50', features_only=True)", "'features'"),
        ("fz.models.get('resnet50', out_indices=(1,))", "features=True"),
        ("fz.models.get('resnet50', img_size=64)", "'input_shape'"),
        ("fz.models.get('vit_b_16')", "vit_base_patch16_224"),
        ("fz.optim.Adam(model)", "flaxzoo.optimizers.get('adam'"),
        ("fz.nn.Linear(3, 4)", "flax.linen"),
        ("fz.DataLoader(X)", "flaxzoo.data.ArrayDataset"),
        ("fz.data.DataLoader(X)", "flaxzoo.data.ArrayDataset"),
        ("fz.data.ArrayDataset((X, y), batch_size=4, num_workers=2)", "loader of your own"),
        ("fz.seed_everything(0)", "seed= of Trainer"),
        ("fz.losses.BCELoss()", "from_logits=False"),
        ("fz.losses.get('bce_loss')", "from_logits=False"),
        ("fz.losses.get('cross_entropy', weight=[1.0])", "'class_weights'"),
        ("fz.losses.get('cross_entropy', ignore_index=-1)", "weights of 0"),
        ("fz.losses.get('focal', pos_weight=2.0)", "class_weights=[1, pos_weight]"),
        ("fz.losses.get('LabelSmoothingCrossEntropy')", "label_smoothing=0.1"),
        ("fz.schedules.get('StepLR', step_size=30)", "boundaries=[...]"),
        ("fz.schedules.get('ReduceLROnPlateau')", "cosine"),
        ("fz.schedules.get('cosine', T_max=10)", "'total_steps'"),
        ("fz.schedules.get('cosine', total_steps=10, eta_min=0.0)", "'end_value'"),
        ("fz.schedules.get('cosine', total_steps=10, max_lr=0.1)", "'peak_value'"),
        ("fz.Trainer(max_epochs=5)", "needs 'model'"),
        ("fz.Trainer(model, max_epochs=5)", "fit(data, epochs=...)"),
        ("fz.Trainer(model, devices='all', strategy='fsdp')", "'sharding'"),
        ("fz.Trainer(model, precision='16-mixed')", "is called 'float16' here"),
        ("fz.Trainer(model, gradient_clip_val=1.0)", "'clip_norm'"),
        ("fz.Trainer(model, accumulate_grad_batches=2)", "'accumulate_steps'"),
        ("fz.Trainer(model, default_root_dir='d')", "'run_dir'"),
        ("fz.Trainer(model, logger=True)", "TensorBoard"),
        ("trainer.fit(model, train_dataloaders=[(X, y)])", "'train_data'"),
        ("trainer.fit((X, y), ckpt_path='d')", "resume=True"),
        ("trainer.test((X, y))", "trainer.evaluate(data)"),
        ("trainer.save_checkpoint('d')", "trainer.save(directory)"),
        ("trainer.global_step", "trainer.step"),
        ("trainer.current_epoch", "len(trainer.history)"),
        ("trainer.callback_metrics", "trainer.history.last()"),
        ("fz.callbacks.ModelCheckpoint(dirpath='d')", "'directory'"),
        ("fz.callbacks.ModelCheckpoint('d', save_top_k=3)", "'keep_best'"),
        ("fz.callbacks.EarlyStopping('val_loss', stopping_threshold=0.1)", "'baseline'"),
        ("fz.optimizers.get('AdamW', betas=(0.9, 0.95))", "b1=0.9, b2=0.999"),
        ("fz.create_train_state(model, optimizer=optax.adam(1e-3), b1=0.9)", "inside it"),
    ),
    "Flax, optax, clu, Elegy": (
        ("fz.create_train_state(net, tx=optax.adam(1e-3))", "'optimizer'"),
        ("fz.create_train_state(net, lr=1e-3)", "'learning_rate'"),
        ("fz.create_train_state(net, beta_1=0.9)", "'b1'"),
        ("fz.create_train_state(net, distributed=True)", "'devices'"),
        ("fz.create_train_state(net, donated=True)", "Did you mean 'donate'"),
        ("fz.create_train_state(net, key=0)", "'rng'"),
        ("fz.create_train_state(net, seed=0)", "'rng'"),
        ("fz.create_train_state(net, loss_fn='mse')", "'loss'"),
        ("fz.create_train_state(jax.random.key(0), net)", "create_train_state(model"),
        ("fz.create_train_state(jax.random.key(0))", "rng=key"),
        ("fz.create_train_state(nn.Dense)", "call it first"),
        ("fz.create_train_state('mlp')", "flaxzoo.models.get('mlp')"),
        ("fz.train_step(state_of_flax, (X, y))", "flaxzoo.TrainState.create"),
        ("fz.train_step(state.replace(rng=None), (X, y))", "has no rng"),
        (
            "fz.TrainState.create(apply_fn=lambda v, x: x, params={}, tx=optax.sgd(1))",
            "module.apply",
        ),
        ("flax_state(tx=optax.sgd(1.0), dropout_rng=0)", "'rng'"),
        ("fz.eval_step(state.params, (X, y))", "create_train_state"),
        ("model.apply(variables, X)", "model.module.apply"),
        ("model.bind(variables)", "model.module.bind"),
        ("model.params", "model.variables['params']"),
        ("state.dropout_rng", "state.rng"),
        ("fz.losses.get('crossentropy')(logits=logits, labels=y)", "'predictions'"),
        ("fz.losses.get('Crossentropy')(preds=logits, target=y)", "'predictions'"),
        ("fz.losses.L2(l=1e-4)", "'factor'"),
        ("fz.losses.as_loss(['crossentropy', 'mse'])", "one loss and regularizers"),
        ("fz.regularizers.L2(1e-4)", "flaxzoo.losses.l2(1e-4)"),
        ("fz.metrics.as_metric(Metrics)", "metrics= itself"),
        ("fz.metrics.get('top_1_err')", "accuracy"),
        ("fz.optimizers.get('momentum', learning_rate=0.1)", "momentum=0.9"),
        ("history.params", "trainer.hyperparameters()"),
        ("history['val_acc']", "'val_accuracy'"),
        ("fz.plot_history(history)", "flaxzoo.plots.history"),
        ("fz.transfer.unfreeze(state)", "flaxzoo.transfer.refreeze"),
        ("fz.modles", "'models'"),
    ),
    "transformers": (
        ("fz.AutoModel.from_pretrained('resnet-50')", "flaxzoo.Model.from_pretrained(source)"),
        ("fz.TrainingArguments(output_dir='d')", "arguments of flaxzoo.Trainer"),
        ("fz.Trainer(model, args=None)", "an argument of its own"),
        ("fz.Trainer(model, num_train_epochs=3)", "fit(data, epochs=...)"),
        ("fz.Trainer(model, per_device_train_batch_size=8)", "fit(data, batch_size=...)"),
        ("fz.Trainer(model, output_dir='d')", "'run_dir'"),
        ("fz.Trainer(model, train_dataset=[], eval_dataset=[])", "fit(data)"),
        ("fz.Trainer(model, compute_metrics=len)", "'metrics'"),
        ("fz.Trainer(model, lr_scheduler_type='cosine')", "'learning_rate'"),
        ("fz.Trainer(model, warmup_steps=10)", "schedule_options={'warmup_steps'"),
        ("fz.Trainer(model, fp16=True)", "'precision'"),
        ("fz.Trainer(model, gradient_checkpointing=True)", "remat=True"),
        ("fz.Trainer(model, max_grad_norm=1.0)", "'clip_norm'"),
        ("fz.Trainer(model, report_to='tensorboard')", "flaxzoo.callbacks.TensorBoard"),
        ("fz.Trainer(model, load_best_model_at_end=True)", "which='best'"),
        ("fz.Trainer(model, optimizer='adamw_torch')", "adamw"),
        ("fz.callbacks.EarlyStopping(early_stopping_patience=3)", "'patience'"),
        ("trainer.train()", "trainer.fit(data"),
        ("trainer.save_model('d')", "trainer.model.save(directory)"),
        ("trainer.push_to_hub()", "trainer.model.push_to_hub"),
        ("fz.models.get('resnet50', num_labels=3)", "'num_classes'"),
        ("fz.models.get('resnet50', id2label={0: 'a'})", "'classes'"),
        ("fz.models.get('mlp', hidden_act='gelu')", "'activation'"),
    ),
}


def test_the_docs_count_these_lines():
    page = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text("utf-8")
    totals = [0, 0]
    for library in {**WORKS, **ANSWERED}:
        counts = [len(lines.get(library, ())) for lines in (WORKS, ANSWERED)]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        row = f"| {library} | {sum(counts)} | {counts[0]} | {counts[1]} | 0 |"
        assert row in page, f"docs/reliability.md wants {row}"
    assert f"| all | {sum(totals)} | {totals[0]} | {totals[1]} | 0 |" in page, totals


@flax.struct.dataclass
class Metrics(clu_metrics.Collection):
    accuracy: clu_metrics.Accuracy
    loss: clu_metrics.Average.from_output("loss")


def keras_loss(y_true, y_pred):
    return (y_pred - 2 * y_true) ** 2


def elegy_loss(target, preds):
    return (preds - 2 * target) ** 2


@pytest.fixture(scope="module")
def names():
    """What the lines above speak of."""
    x, y = np.ones((8, 4), np.float32), np.arange(8) % 2
    net = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
    model = fz.models.get("mlp", input_shape=(4,), num_classes=2).init()
    params = net.init(jax.random.key(0), x)["params"]
    flax = {"apply_fn": net.apply, "params": params}
    metrics = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.5], "val_accuracy": [0.0, 1.0]}
    return globals() | {
        "X": x,
        "y": y,
        "f": len,
        "net": net,
        "params": params,
        "model": model,
        "variables": model.variables,
        "history": fz.History([0, 1], metrics),
        "trainer": fz.Trainer(model),
        "state": fz.create_train_state(model),
        "flax_state": functools.partial(fz.TrainState.create, **flax),
        "state_of_flax": train_state.TrainState.create(**flax, tx=optax.sgd(1.0)),
        "logits": np.zeros((8, 2)),
        "torch_adam": type("Adam", (), {"__module__": "torch.optim"})(),
        "torch_module": type("Sequential", (), {"__module__": "torch.nn"})(),
        "predictions": x[:, 0],
        "targets": x[:, 1],
    }


def run(line, names):
    try:
        code = compile(line, "<typed>", "eval")
    except SyntaxError:
        exec(line, dict(names))
        return None
    return eval(code, dict(names))


@pytest.mark.parametrize("line", [line for lines in WORKS.values() for line in lines])
def test_works(line, names):
    assert run(line, names) is not False


@pytest.mark.parametrize(("line", "here"), [pair for pairs in ANSWERED.values() for pair in pairs])
def test_answered(line, here, names):
    with pytest.raises((AttributeError, TypeError, ValueError, KeyError)) as caught:
        run(line, names)
    assert here in str(caught.value)
