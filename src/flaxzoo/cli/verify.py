"""``flaxzoo verify``."""

from __future__ import annotations

import argparse


def verify(args: argparse.Namespace) -> None:
    """Prints how far a model is from its reference; exits with 1 where they differ."""
    import flaxzoo.verify

    report = flaxzoo.verify.verify(
        args.name,
        args.weights,
        size=args.size,
        batch=args.batch,
        seed=args.seed,
        tolerance=args.tolerance,
    )
    print(report)
    if not report.ok:
        raise SystemExit(1)
