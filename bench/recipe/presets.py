"""Presets: SLF, ALF and AFF as a paper's or a benchmark's code runs them, with every setting fixed.

``uniform``, the default, is the settings' own defaults. Each of the others names its sources below; what a source
leaves open is taken from another one, which is named. No preset sets the radius
(the threat model's) nor how RA and AA are measured (the section ``evaluate``). All evaluate the last epoch; AdvCL's
script reports the best epoch on the test set instead, which the bench never does.
"""

from collections.abc import Mapping

Knobs = Mapping[str, object]

LOSSES: Mapping[str, Knobs] = {
    "trades": {"loss": "trades", "steps": 10, "step_size": 0.25, "start": "gaussian"},
    "pgd": {"loss": "pgd", "steps": 10, "step_size": 0.25, "start": "uniform"},
}
"""Each loss with its attack; a loss that is set beside a preset sets its attack too."""

_COMMON: Knobs = {
    **{"epochs": 25, "batch_size": 512, "drop_last": False, "precision": "fp32"},
    **{"optimizer": "sgd", "lr_batch": None, "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4},
    **{"schedule": "steps", "decay_epochs": (15, 20), "flip_prob": 0.5, "head_init": "default", "selection": "last"},
}
_TRADES: Knobs = {**_COMMON, **LOSSES["trades"], "beta": 6.0, "clean_passes": 1}
_PGD: Knobs = {**_TRADES, **LOSSES["pgd"]}

PRESETS: Mapping[str, Mapping[str, Knobs]] = {
    "uniform": {"slf": {}, "alf": {}, "aff": {}},
    # SLF: LijieFan/AdvCL at 24cb7a6, finetuning_advCL_SLF.py. It has no ALF and no AFF; these are those of
    # yqy2001/A-InfoNCE at b28763e, which adds them to that script to "follow the settings in AdvCL"
    # (Asym-AdvCL/finetuning_advCL_SLF.py, trades.py, shell/cifar10/advcl-cifar10.sh). Its ALF trains on PGD-20.
    "advcl": {
        "slf": {**_COMMON, "encoder_bn": "eval", "lr": 0.01},
        "alf": {**_PGD, "encoder_bn": "eval", "lr": 0.1, "steps": 20},
        "aff": {**_TRADES, "bn": "single", "lr": 0.1},
    },
    # pantheon5100/DeACL at 3fb81e3: adv_finetune.py, trades/trades.py, README (lr).
    "deacl-2024": {
        "slf": {**_COMMON, "encoder_bn": "train", "lr": 0.1},
        "alf": {**_TRADES, "encoder_bn": "train", "lr": 0.01, "clean_passes": 2},
        "aff": {**_TRADES, "bn": "single", "lr": 0.01, "clean_passes": 2},
    },
    # GodXuxilie/RobustSSL_Benchmark at 05f778a, Finetuning_Methods/Vanilla_Finetuning/{utils.py,run_vanilla_tune.sh}:
    # its values for AdvCL and DeACL, which have one set of batch-norm layers, as all methods do here. For ACL and
    # DynACL it has others (dual batch-norm in AFF, different rates and decay).
    "robustssl-benchmark": {
        "slf": {**_COMMON, "encoder_bn": "eval", "lr": 0.01, "head_init": "zero"},
        "alf": {**_PGD, "encoder_bn": "eval", "lr": 0.01, "head_init": "zero"},
        "aff": {**_TRADES, "bn": "single", "lr": 0.1, "batch_size": 128, "head_init": "zero"},
    },
}
