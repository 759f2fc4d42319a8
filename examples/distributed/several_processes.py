"""Trains on the digits in several processes, which may be on several hosts.

On one machine, two processes with two simulated devices each::

    python several_processes.py --start 2 --cpu-devices 2 --run-dir runs/two

On two machines, on each of them with its own index (10.0.0.1 is the first)::

    python several_processes.py --coordinator 10.0.0.1:1234 --processes 2 --index 0 --run-dir /nfs/r

On SLURM, GKE and TPU pods without any of these: ``srun python several_processes.py --run-dir ...``.
Started again after a crash or SIGTERM it goes on where it was.
"""

import argparse
import socket
import subprocess
import sys

import jax

import flaxzoo as fz


def main(args: argparse.Namespace) -> None:
    """What each process runs; ``initialize`` is all of it that knows of the others."""
    if args.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", args.cpu_devices)
    fz.distributed.initialize(args.coordinator, args.processes, args.index)

    train, test = fz.data.load_digits()
    model = fz.models.get("cnn", num_classes=10, input_shape=(8, 8, 1), batch_norm=True)
    trainer = fz.Trainer(
        model,
        learning_rate=3e-3,
        metrics=["accuracy"],
        devices="all",
        sharding="fsdp",
        run_dir=args.run_dir,
    )
    trainer.fit(
        train,
        batch_size=64,
        epochs=args.epochs,
        validation_data=test,
        callbacks=[fz.callbacks.ModelCheckpoint(every_steps=10), fz.callbacks.CSVLogger()],
        resume=True,
    )
    results = trainer.evaluate(test)
    if fz.distributed.is_main():
        where = f"{jax.device_count()} devices of {fz.distributed.process_count()} processes"
        print(f"accuracy {results['accuracy']:.3f} on {where}")


def start(args: argparse.Namespace) -> int:
    """Runs this script once for each process, here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = [sys.executable, __file__, "--coordinator", address, "--processes", str(args.start)]
    common += ["--epochs", str(args.epochs), "--run-dir", args.run_dir]
    common += ["--cpu-devices", str(args.cpu_devices)]
    processes = [subprocess.Popen([*common, "--index", str(index)]) for index in range(args.start)]
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", required=True, help="on a file system that all processes see")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--cpu-devices", type=int, default=0, help="how many to simulate; 0 for none"
    )
    parser.add_argument("--coordinator", help="host:port of the process of index 0")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--index", type=int, help="which one this is")
    parser.add_argument("--start", type=int, default=0, help="starts so many processes here")
    parsed = parser.parse_args()
    sys.exit(start(parsed) if parsed.start else main(parsed))
