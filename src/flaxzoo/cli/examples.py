"""What ``--help`` shows below the options of each command."""

from __future__ import annotations

LIST = """\
examples:
  flaxzoo list                              every model
  flaxzoo list 'resnet*'                    those whose names match (quote the glob)
  flaxzoo list --pretrained                 pretrained weights, as NAME.TAG
  flaxzoo list --kind optimizers '*ada*'    other registries work alike
"""
INFO = """\
examples:
  flaxzoo info cnn                          input, parameters, GFLOPs, weights, paper
  flaxzoo info cnn --layers                 with a table of the layers
  flaxzoo info cnn --layers --set features=16,32 --set num_classes=2
  flaxzoo info resnet50.a1_in1k             pretrained weights
  flaxzoo info runs/cnn-digits/model        a saved model, also hf:org/repo
  flaxzoo info adamw                        an optimizer and the options it takes
"""
TRAIN = """\
examples:
  flaxzoo train cnn --data digits
  flaxzoo train cnn --data mnist:data/mnist --epochs 5 --schedule cosine
  flaxzoo train mlp --data digits --set features=64,32 --set dropout=0.2
  flaxzoo train cnn --data digits --optimizer sgd --lr 0.1 --optimizer-set momentum=0.9
  flaxzoo train cnn --data digits --pretrained --freeze backbone
  flaxzoo train cnn --data digits --epochs 50 --resume        goes on where it stopped

what is written below --run-dir:
  checkpoints/   the last and the best epoch (by val_loss); resuming and --which read them
  model/         the trained model, for flaxzoo.Model.load, evaluate and predict
  history.csv    the metrics of every epoch
  *.png          training curves, confusion matrix, some predictions (extra "plots")
  tensorboard/   logs for TensorBoard (extra "tensorboard")
  *.json         the settings of the run

Ctrl-C and SIGTERM save the last step first.
"""
EVALUATE = """\
examples:
  flaxzoo evaluate runs/cnn-digits                 on the run's own data, held-out part
  flaxzoo evaluate runs/cnn-digits --which best
  flaxzoo evaluate runs/cnn-mnist/model --data mnist:data/mnist --json
  flaxzoo evaluate cnn.digits --data digits --metrics accuracy,f1:average=macro
"""
PREDICT = """\
examples:
  flaxzoo predict cnn.digits digit.png
  flaxzoo predict runs/cnn-digits *.png --top-k 1
  flaxzoo predict runs/cnn-digits/model digit.png --json
  flaxzoo predict resnet50.a1_in1k cat.jpg
  flaxzoo predict hf:timm/resnet18.a1_in1k cat.jpg
  flaxzoo predict resnet50 cat.jpg --weights my.safetensors
"""
