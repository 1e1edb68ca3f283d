"""Torch's autograd and Captum on networks, the engine on the files that torch exports of them: `make peers`.

Every network is exported by both exporters with a dynamic batch. The gradients at the source (`input`) and at three
hidden layers (`layers`, the worst) are compared with autograd's, `neuron_ig` at the hidden layers with Captum's
LayerConductance, all in float32: the largest difference over the largest magnitude of the reference. `added` is how
many nodes the gradient adds for each node of the model. The columns from `fixed` on are those of a file that is fixed
at one sample: its batch mode, the worst gradient, and the nodes added to it as it is. Where onnx-ad accepts that file,
its gradient at the input is compared with autograd's as well; what it gets wrong is its own.

Ends with status 1 if something differs, if torch exports a network by no exporter, or if too many nodes are added to
one of `BOUNDED`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter

from torch import nn

from tests.peers import compare
from tests.peers.architectures import ARCHITECTURES, Architecture
from tests.peers.growth import DYNAMIC, STATIC, growth

ROW = "{:10} {:11} {:7} {:>6} {:>6} {:>9} {:>5}  {:7} {:>8} {:>5} {:>7}  {}"
HEADER = ROW.format(
    "network", "exporter", "batch", "input", "layers", "neuron_ig", "added",
    "fixed", "gradient", "added", "onnx-ad", "verdict",
)  # fmt: skip
AGREES, NO_FILE = "agrees", "torch cannot export it"
BOUNDED = ("resnet18", "vit", "bert")  # by torch's default exporter


def main(arguments: list[str]) -> int:
    """Prints a row for each file, and a line that sums them up."""
    names = [architecture.name for architecture in ARCHITECTURES]
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="only this network")
    chosen = parser.parse_args(arguments).only or names
    warnings.simplefilter("ignore")  # torch and transformers warn of their own code
    started = time.monotonic()
    verdicts: list[tuple[str, str]] = []
    print(HEADER)
    for architecture in ARCHITECTURES:
        if architecture.name not in chosen:
            continue
        network = architecture.network()
        wanted = compare.reference(architecture, network)
        for exporter in compare.EXPORTERS:
            *cells, verdict = _row(architecture, network, wanted, exporter)
            verdicts.append((architecture.name, verdict.partition(":")[0]))
            print(ROW.format(architecture.name, exporter, *cells, verdict), flush=True)
    counts = Counter(verdict for _, verdict in verdicts)
    unexported = [name for name in chosen if verdicts.count((name, NO_FILE)) == len(compare.EXPORTERS)]
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"{len(chosen)} networks, {len(verdicts)} files: {listed} ({time.monotonic() - started:.0f} s)")
    return int(bool(unexported) or not set(counts) <= {AGREES, NO_FILE})


def _row(
    architecture: Architecture, network: nn.Module, wanted: compare.Reference, exporter: compare.Exporter
) -> list[str]:
    """The cells after the exporter."""
    try:
        file = compare.export(architecture, network, exporter)
        one = compare.export(architecture, network, exporter, static=True)
    except compare.ExportFailed as error:
        return ["-"] * 9 + [f"{NO_FILE}: {error}"]
    found = compare.compare(architecture, file, wanted)
    fixed = compare.compare(architecture, one, wanted, path=False)
    added, added_fixed = growth(file), growth(one, static=True)
    bounded = exporter == "dynamo" and architecture.name in BOUNDED
    other = None if architecture.source else compare.onnx_ad_gradient(architecture, one)
    at_source = None if other is None else compare.error(other, wanted.gradients[compare.SOURCE])
    layers = [error for name, error in found.gradients.items() if name != compare.SOURCE]
    return [
        found.batch,
        _shown(found.gradients.get(compare.SOURCE)),
        _shown(max(layers, default=None)),
        _shown(max(found.conductances.values(), default=None)),
        f"{added:.1f}",
        fixed.batch,
        _shown(max(fixed.gradients.values(), default=None)),
        f"{added_fixed:.1f}",
        _shown(at_source),
        _verdict(found, fixed, bounded and (added > DYNAMIC or added_fixed > STATIC)),
    ]


def _shown(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}"


def _verdict(found: compare.Comparison, fixed: compare.Comparison, too_many: bool) -> str:
    """`AGREES`, or what does not hold."""
    for words, part in (("", found), (" at one sample", fixed)):
        if part.missing:
            return f"the file{words} lacks layers: {', '.join(part.missing)}"
        if wrong := [name for name, error in part.errors() if not error <= compare.TOLERANCE]:
            return f"differs{words}: {', '.join(wrong)}"
    if found.batch != "dynamic":
        return f"the batch is not dynamic: {found.batch}"
    return "the gradient adds too many nodes" if too_many else AGREES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
