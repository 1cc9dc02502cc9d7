"""Damp updates in the directions that a layer's inputs use: a soft form of projecting them out. This project's own use
of an old idea: with C the second moments of the inputs, C^-1 turns a gradient into the step that changes the outputs
on these inputs least for what it gains (the input side of K-FAC, arXiv 1503.05671).
"""

import torch

from hf_dtl.functional.subspace import Basis, GradientSubspace


def preconditioner(subspace: GradientSubspace, damping: float, *, dtype: torch.dtype = torch.float32) -> Basis:
    """Directions of each layer's inputs, shrunk so that `Basis.project` multiplies an update by d (C / c + d I)^-1.

    C are the layer's moments and c their mean eigenvalue. What no input uses passes whole; a direction that is used
    as much as the mean one is left d / (1 + d) of. Negative eigenvalues count as zero.

    Args:
        subspace: moments of the images whose outputs are to be kept.
        damping: d, > 0: smaller keeps more.
        dtype: of the vectors.

    Raises:
        ValueError: `damping` is not positive, or the moments are not finite.
    """
    if not damping > 0:
        raise ValueError(f"damping={damping} must be > 0.")
    subspace.check_finite()
    found = Basis({}, {}, {})
    tiny = torch.finfo(torch.float64).tiny
    for layer in subspace.layers:
        values, vectors = subspace.spectrum(layer)
        mean = subspace.traces[subspace.shared.get(layer, layer)] / vectors.shape[1]
        used = values.clamp_min(0) / mean.clamp_min(tiny)[:, None]
        shares = used / (used + damping)
        found.vectors[layer] = (vectors * shares.sqrt()[:, None].to(vectors.dtype)).to(dtype).contiguous()
        found.ranks[layer] = [vectors.shape[2]] * len(vectors)
        found.negative_mass[layer] = (-values.clamp_max(0).sum() / values.abs().sum().clamp_min(tiny)).item()
    return found
