"""``flaxzoo verify``."""

from __future__ import annotations

import argparse

from flaxzoo.cli.values import settings


def verify(args: argparse.Namespace) -> None:
    """Prints how far a model is from timm's; exits with 1 where they differ."""
    import flaxzoo.verify
    from flaxzoo.weights import hub

    if args.weights is not None and args.weights.startswith("hf:"):
        with settings("--weights"):
            hub.parse(args.weights)
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
