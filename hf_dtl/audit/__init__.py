"""The audit: attacks on published weights, and the report of what they found. Loads what is asked for, when it is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attacks": ["ADAPTIVE", "GRID", "attack_names", "parse_attacks", "register_attack"],
        "axis_leakage": ["AxisLeakage", "PLAccuracy", "Ratio", "leakage"],
        "classifiers": ["LabelledImages", "accuracy"],
        "comparison": ["comparison_markdown", "comparison_table"],
        "config": ["AttackConfig"],
        "membership": ["MembershipResult", "membership_inference"],
        "piggyback": ["AttackResult", "Attacker", "piggyback_attack"],
        "plots": ["plot_attacks", "plot_comparison", "plot_piggyback", "plot_tasks"],
        "references": ["scratch_model", "scratch_models"],
        "report": ["LeakageReport"],
        "run": ["run_audit"],
        "shadow_models": ["shadow_splits", "u_lira", "u_lira_scores"],
        "store": ["AttackStore", "PiggybackRecord"],
        "tables": ["markdown_table", "table"],
        "task": ["AttackedTask"],
        "tasks": ["TaskScores"],
    },
)
