"""The architectures: one or more of every family of timm, torchvision's classifiers and segmenters, families of transformers.

All have random weights. Names are ``timm:NAME``, ``tv:NAME``, ``seg:NAME`` and ``hf:NAME``. Images are as small as the network
takes, and what is deep or wide without being of another kind is built with fewer blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.peers import operators_of_torchvision

THIN = {"depth": 2, "embed_dim": 192, "num_heads": 3}
# Name to settings; `side` is the image's, and where the network is built for one size, `img_size` says so. 64 pixels where nothing is said.
TIMM: dict[str, dict[str, Any]] = {
    "bat_resnext26ts": {"side": 256}, "beit_base_patch16_224": {**THIN, "img_size": 64},
    "botnet26t_256": {"side": 256}, "caformer_s18": {}, "cait_xxs24_224": {"depth": 4, "img_size": 64},
    "coat_lite_tiny": {"img_size": 64}, "coat_tiny": {"img_size": 64}, "coatnet_nano_rw_224": {"img_size": 64},
    "coatnext_nano_rw_224": {"img_size": 64}, "convformer_s18": {}, "convit_tiny": {"img_size": 64},
    "convmixer_768_32": {}, "convnext_atto": {}, "convnextv2_atto": {}, "cpubone_nano": {},
    "crossvit_9_240": {"side": 240}, "cs3darknet_s": {}, "csatv2": {}, "cspnext_tiny": {}, "cspresnet50": {},
    "darknet53": {}, "davit_tiny": {}, "deepseek_vit_412m": {**THIN, "img_size": 56},
    "deit3_small_patch16_224": {"depth": 2, "img_size": 64},
    "deit_tiny_distilled_patch16_224": {"depth": 2, "img_size": 64}, "deit_tiny_patch16_224": {"img_size": 64},
    "densenet121": {}, "dla34": {}, "dla46_c": {}, "dla60_res2net": {}, "dpn48b": {},
    "eca_halonext26ts": {"side": 256}, "eca_nfnet_l0": {}, "eca_resnet33ts": {}, "ecaresnet26t": {},
    "edgenext_xx_small": {}, "efficientformer_l1": {"side": 224}, "efficientformerv2_s0": {"side": 224},
    "efficientnet_b0": {}, "efficientnet_b0_gn": {}, "efficientnet_lite0": {}, "efficientvim_m1": {},
    "efficientvit_b0": {}, "efficientvit_l1": {}, "efficientvit_m0": {"img_size": 224}, "ese_vovnet19b_slim": {},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56}, "fasternet_t0": {}, "fastvit_t8": {}, "fbnetv3_b": {},
    "focalnet_tiny_srf": {}, "gcresnext26ts": {}, "gcvit_xxtiny": {"img_size": 224},
    "gemma4_vit_167m": {**THIN, "img_size": 64}, "gernet_s": {}, "ghostnet_050": {}, "ghostnetv2_100": {},
    "ghostnetv3_050": {}, "gmixer_12_224": {"img_size": 64}, "gmlp_ti16_224": {"img_size": 64},
    "halonet26t": {"side": 256}, "hardcorenas_a": {}, "hgnet_tiny": {}, "hgnetv2_b0": {},
    "hiera_tiny_224": {"img_size": 224}, "hrnet_w18_small": {}, "iformer_t": {}, "inception_next_atto": {},
    "inception_resnet_v2": {"side": 96}, "inception_v3": {"side": 96}, "inception_v4": {"side": 96},
    "lambda_resnet26t": {"side": 256}, "lcnet_035": {}, "lcnetv2_small": {}, "legacy_seresnet18": {},
    "legacy_xception": {}, "levit_128s": {"img_size": 224}, "levit_conv_128s": {"img_size": 224}, "lowformer_b0": {},
    "mambaout_femto": {}, "maxvit_rmlp_pico_rw_256": {"img_size": 64}, "maxxvit_rmlp_nano_rw_256": {"img_size": 64},
    "mixer_s32_224": {"img_size": 64}, "mixnet_s": {}, "mnasnet_small": {}, "mobilenetv2_050": {},
    "mobilenetv3_small_050": {}, "mobilenetv4_conv_small_035": {}, "mobilenetv4_hybrid_medium": {},
    "mobilenetv5_base": {}, "mobileone_s0": {}, "mobilevit_xxs": {}, "mobilevitv2_050": {},
    "mvitv2_tiny": {"img_size": 224}, "naflexvit_base_patch16_gap": {**THIN}, "nasnetalarge": {"side": 96},
    "nest_tiny": {"img_size": 224}, "nextvit_small": {}, "nf_regnet_b0": {}, "nf_resnet26": {},
    "pit_ti_224": {"img_size": 224}, "pnasnet5large": {"side": 96}, "poolformer_s12": {}, "poolformerv2_s12": {},
    "pvt_v2_b0": {}, "qwen3_vit_88m": {**THIN, "img_size": 64}, "rdnet_tiny": {}, "regnetx_002": {}, "regnety_002": {},
    "regnetz_b16": {}, "repghostnet_050": {}, "repvgg_a0": {}, "repvit_m0_9": {}, "res2net50_48w_2s": {},
    "res2next50": {}, "resmlp_12_224": {"img_size": 64}, "resnest14d": {}, "resnet18": {}, "resnetblur18": {},
    "resnetv2_18": {}, "resnetv2_50x1_bit": {}, "resnext26ts": {}, "rexnet_100": {}, "rexnetr_100": {},
    "sam2_hiera_tiny": {"side": 224}, "samvit_base_patch16_224": {**THIN, "img_size": 64}, "selecsls42": {},
    "sequencer2d_s": {"img_size": 64}, "seresnet18": {}, "shvit_s1": {}, "skresnet18": {}, "starnet_s050": {},
    "swiftformer_xs": {"side": 224}, "swin_s3_tiny_224": {"img_size": 224},
    "swin_tiny_patch4_window7_224": {"img_size": 224}, "swinv2_cr_tiny_224": {"img_size": 224},
    "swinv2_tiny_window8_256": {"img_size": 256}, "tiny_vit_5m_224": {}, "tinynet_e": {},
    "tnt_s_patch16_224": {"depth": 2, "img_size": 64}, "tresnet_m": {}, "twins_pcpvt_small": {"img_size": 64},
    "twins_svt_small": {"img_size": 64}, "vgg11": {}, "visformer_tiny": {"img_size": 64},
    "vit_pwee_patch16_reg1_gap_256": {"depth": 2, "img_size": 64},
    "vit_relpos_small_patch16_224": {"depth": 2, "img_size": 64}, "vit_tiny_patch16_224": {"img_size": 64},
    "vit_tiny_r_s16_p8_224": {"img_size": 64}, "vitamin_small_224": {"img_size": 64}, "volo_d1_224": {"img_size": 64},
    "xception41": {}, "xcit_nano_12_p16_224": {"img_size": 64},
}  # fmt: skip
TORCHVISION: dict[str, dict[str, Any]] = {
    "alexnet": {}, "convnext_tiny": {}, "densenet121": {}, "efficientnet_b0": {}, "efficientnet_v2_s": {},
    "googlenet": {"init_weights": True, "aux_logits": False},
    "inception_v3": {"init_weights": True, "aux_logits": False, "side": 96}, "maxvit_t": {"side": 224},
    "mnasnet0_5": {}, "mobilenet_v2": {}, "mobilenet_v3_small": {}, "regnet_x_400mf": {}, "regnet_y_400mf": {},
    "resnet18": {}, "resnext50_32x4d": {}, "shufflenet_v2_x0_5": {}, "squeezenet1_1": {}, "swin_t": {},
    "swin_v2_t": {}, "vgg11_bn": {}, "vit_b_32": {"image_size": 64, "side": 64}, "wide_resnet50_2": {},
}  # fmt: skip
SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {**SMALL, "vocab_size": 99}
PICTURE = {"image_size": 32, "patch_size": 8}
# Name to (model, configuration, its settings, what it reads).
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", {**WORDS, "embedding_size": 16}, "words"),
    "bart": ("BartForSequenceClassification", "BartConfig", {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
             "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "eos_token_id": 98,
             "pad_token_id": 97, "bos_token_id": 96, "decoder_start_token_id": 96}, "sentence"),
    "beit": ("BeitForImageClassification", "BeitConfig", {**SMALL, **PICTURE}, "image"),
    "bert": ("BertForSequenceClassification", "BertConfig", WORDS, "words"),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig",
                 {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, "image"),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**SMALL, **PICTURE}, "image"),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**SMALL, **PICTURE}, "image"),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig",
                   {"vocab_size": 99, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}, "words"),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**WORDS, "embedding_size": 16}, "words"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4}, "words"),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", WORDS, "words"),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**WORDS, "num_key_value_heads": 2}, "words"),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {}, "image"),
    "opt": ("OPTForCausalLM", "OPTConfig", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "ffn_dim": 64, "word_embed_proj_dim": 32}, "words"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**WORDS, "num_key_value_heads": 2}, "words"),
    "resnet": ("ResNetForImageClassification", "ResNetConfig",
               {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}, "image"),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", WORDS, "words"),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
                  "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 32}, "image"),
    "swin": ("SwinForImageClassification", "SwinConfig", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2],
             "num_heads": [2, 4], "window_size": 4}, "image"),
    "t5": ("T5ForConditionalGeneration", "T5Config", {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
           "num_heads": 4, "decoder_start_token_id": 0}, "pair"),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, **PICTURE}, "image"),
}  # fmt: skip

NAMES = (
    *(f"timm:{name}" for name in TIMM),
    *(f"tv:{name}" for name in TORCHVISION),
    *(f"seg:{name}" for name in SEGMENTATION),
    *(f"hf:{name}" for name in TRANSFORMERS),
)


def build(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model with random weights in double precision and evaluation, and one sample of its inputs.

    Every parameter's entries differ from each other, so that the place of each can be told afterwards.
    """
    kind, _, rest = name.partition(":")
    torch.manual_seed(0)
    operators_of_torchvision()
    model, inputs = {"timm": _timm, "tv": _torchvision, "seg": _segmentation, "hf": _transformer}[kind](rest)
    _randomise(model)
    model = model.double().eval()
    return model, tuple(one.double() if one.is_floating_point() else one for one in inputs)


def _randomise(model: nn.Module) -> None:
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                noise = torch.empty(parameter.shape, dtype=torch.float64).normal_(generator=source)
                parameter.data = parameter.double() + noise * max(0.1 * spread, 0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=source)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=source)


def _timm(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import timm

    settings = dict(TIMM.get(name, {}))
    side = settings.pop("side", settings.get("img_size", 64))
    return timm.create_model(name, pretrained=False, **settings), (torch.randn(1, 3, side, side),)


def _torchvision(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import torchvision

    settings = dict(TORCHVISION.get(name, {}))
    side = settings.pop("side", 64)
    return torchvision.models.get_model(name, weights=None, **settings), (torch.randn(1, 3, side, side),)


def _segmentation(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None), (torch.randn(1, 3, 64, 64),)


def _transformer(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import transformers

    model, config, settings, reads = TRANSFORMERS[name]
    made = getattr(transformers, model)(getattr(transformers, config)(**settings))
    words = torch.randint(0, 90, (1, 12))
    if reads == "sentence":
        words[:, -1] = 98
    if reads == "pair":
        return made, (words, torch.ones_like(words), torch.randint(0, 90, (1, 6)))
    side = 64 if name in ("mobilenet_v2", "segformer") else 32
    return made, (torch.randn(1, 3, side, side),) if reads == "image" else (words,)
