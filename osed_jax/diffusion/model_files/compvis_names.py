"""Names of weights in the layout of the models' own training code, to those of diffusers.

The UNet and VAE of CompVis' latent-diffusion, the text encoder of OpenAI (Stable Diffusion 1.x; as
transformers has it) or of OpenCLIP (2.x). See `single_file`.
"""

import re

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_OPENCLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def unet_name(name: str, layers: int) -> str | None:
    """The UNet's weight `name` (without `model.diffusion_model.`) in diffusers.

    Args:
        name: In the original layout.
        layers: Resnets of each level on the way down.

    Returns:
        Its name, or None if the original UNet has no such weight.
    """
    module, _, leaf = name.rpartition(".")
    if module in _UNET:
        return f"{_UNET[module]}.{leaf}"
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        place, rest = int(found[1]), found[2]
        return _inner(rest, "mid_block", place // 2, attention=place == 1)
    if not (found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)):
        return None
    way, number, part, rest = found[1], int(found[2]), int(found[3]), found[4]
    # On the way down, conv_in comes first, and a level ends with a reduction; on the way up, each
    # level has a resnet more, and the enlargement is the last part of the last one.
    level, layer = divmod(number - (way == "input"), layers + 1)
    block = f"{'down' if way == 'input' else 'up'}_blocks.{level}"
    if way == "input" and rest.startswith("op."):
        return f"{block}.downsamplers.0.conv.{leaf}"
    if way == "output" and part > 0 and rest.startswith("conv."):
        return f"{block}.upsamplers.0.conv.{leaf}"
    return _inner(rest, block, layer, attention=part == 1)


def _inner(rest: str, block: str, layer: int, *, attention: bool) -> str | None:
    """Of a resnet or an attention; the inside of the latter has the same names."""
    if attention:
        return f"{block}.attentions.{layer}.{rest}"
    module, _, leaf = rest.rpartition(".")
    return f"{block}.resnets.{layer}.{_RESNET[module]}.{leaf}" if module in _RESNET else None


def vae_name(name: str, levels: int) -> str:
    """The VAE's weight `name` (without `first_stage_model.`) in diffusers; `levels` of sizes."""
    name = re.sub(r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets.", name)
    name = re.sub(r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0.", name)
    if found := re.search(r"\bup\.(\d+)\.", name):  # counted from the finest level there
        block = f"up_blocks.{levels - 1 - int(found[1])}."
        name = name.replace(found[0] + "block.", block + "resnets.")
        name = name.replace(found[0] + "upsample.", block + "upsamplers.0.")
    name = re.sub(r"\bmid\.block_([12])\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}.", name)
    if found := re.fullmatch(r"(\w+)\.mid\.attn_1\.(\w+)\.(\w+)", name):
        inner = _VAE_ATTENTION.get(found[2], found[2])
        return f"{found[1]}.mid_block.attentions.0.{inner}.{found[3]}"
    return name.replace("nin_shortcut", "conv_shortcut").replace(".norm_out.", ".conv_norm_out.")


def openclip_names(name: str) -> list[str]:
    """OpenCLIP's weight `name` (without `cond_stage_model.model.`) in transformers.

    Three names for the joint projection to queries, keys and values; none for a weight that
    Stable Diffusion does not use.
    """
    if name in _OPENCLIP:
        return [f"text_model.{_OPENCLIP[name]}"]
    if not (found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)):
        return []
    layer, rest = f"text_model.encoder.layers.{found[1]}", found[2]
    if joint := re.fullmatch(r"attn\.in_proj_(weight|bias)", rest):
        return [f"{layer}.self_attn.{part}_proj.{joint[1]}" for part in "qkv"]
    module, _, leaf = rest.rpartition(".")
    return [f"{layer}.{_OPENCLIP_LAYER[module]}.{leaf}"] if module in _OPENCLIP_LAYER else []
