"""Callbacks for ``Trainer.fit``; the public address of ``flaxzoo.training.callbacks``."""
