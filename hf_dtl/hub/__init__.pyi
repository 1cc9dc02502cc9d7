from .card import leakage_card as leakage_card
from .model_settings import drop_unknown_settings as drop_unknown_settings
from .model_settings import save_plain as save_plain
from .staging import add_evidence as add_evidence
from .staging import stage as stage
from .weights import weights_sha256 as weights_sha256
