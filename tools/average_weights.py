"""Averages the weights of runs that went on from the same ones, which together do better than each by itself.

    python tools/average_weights.py runs/all/lite.safetensors runs/fold/lite.safetensors --out lite.safetensors

(Model soups, Wortsman et al., ICML 2022, arXiv 2203.05482.)
"""

import argparse
import sys
from pathlib import Path

import torch

from maskbank.networks.weights import in_half_precision, interactor_named_in, load_state_dict, save_weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+", help="of `maskbank train`, with the same --init")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--novelty-threshold", type=float, help="instead of their mean (maskbank/networks/novelty.py)")
    options = parser.parse_args()
    states = [load_state_dict(path) for path in options.weights]
    if any(state.keys() != states[0].keys() for state in states):
        parser.error("they are weights of different networks")
    average = {
        name: torch.stack([state[name].float() for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }
    if options.novelty_threshold is not None:
        average["novelty_threshold"] = torch.tensor(options.novelty_threshold)
    save_weights(in_half_precision(average), options.out, interactor_named_in(options.weights[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
