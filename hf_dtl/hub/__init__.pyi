from .card import leakage_card as leakage_card
from .staging import add_evidence as add_evidence
from .staging import stage as stage
from .weights import weights_sha256 as weights_sha256
