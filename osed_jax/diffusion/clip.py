"""CLIP's text and image tower (Radford et al. 2021), as transformers has them for PyTorch.

Fields of the configs are those of `config.json`, with transformers' defaults; parameters have the
names of transformers' weights. Norms are exact here: Flax's fast variance, E[x²] - E[x]², loses
digits. Nothing is dropped out: both towers are used as they were published, and never trained.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from osed_jax.errors import UserError

_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),  # Stable Diffusion 2.x
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's, Stable Diffusion 1.x
}


@dataclasses.dataclass(frozen=True)
class _Config:
    causal: ClassVar[bool] = False  # whether a token sees those before it alone

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The config that a `config.json` describes; what only training needs is left out.

        Raises:
          UserError: its activation is not one of CLIP's, or its heads do not divide its width.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        config = cls(**{key: value for key, value in content.items() if key in names})
        if config.hidden_act not in _ACTIVATIONS:
            raise UserError(
                f"the model's CLIP has hidden_act={config.hidden_act!r}; supported are "
                f"{', '.join(_ACTIVATIONS)}. Choose a Stable Diffusion 1.x or 2.x model."
            )
        if config.hidden_size % config.num_attention_heads:
            raise UserError(
                f"the model's CLIP has hidden_size={config.hidden_size}, which its "
                f"num_attention_heads={config.num_attention_heads} do not divide."
            )
        return config


@dataclasses.dataclass(frozen=True)
class TextConfig(_Config):
    """Of the text tower."""

    causal: ClassVar[bool] = True

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77


@dataclasses.dataclass(frozen=True)
class ImageConfig(_Config):
    """Of the image tower."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32


class TextTower(nn.Module):
    """Prompts to embeddings.

    Padding is attended to like any token, as in the training of Stable Diffusion. The models of
    2.x take the layer before CLIP's last; their config.json has one layer less for it.
    """

    config: TextConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """The last layer's embeddings `[B, L, D]`, normalised, of tokens, int `[B, L]`."""
        return _TextTransformer(self.config, self.dtype, name="text_model")(tokens)


class ImageTower(nn.Module):
    """Images to features."""

    config: ImageConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """The class token's features `[N, D]` of normalised images `[N, H, H, 3]`."""
        return _ImageTransformer(self.config, self.dtype, name="vision_model")(image)


class _TextTransformer(nn.Module):
    config: TextConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = _TextEmbeddings(self.config, name="embeddings")(tokens)
        x = _Encoder(self.config, self.dtype, name="encoder")(x)
        return _norm(self, "final_layer_norm")(x)


class _TextEmbeddings(nn.Module):
    config: TextConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        sizes = self.config
        token = nn.Embed(sizes.vocab_size, sizes.hidden_size, name="token_embedding")
        position = nn.Embed(
            sizes.max_position_embeddings, sizes.hidden_size, name="position_embedding"
        )
        return token(tokens) + position(jnp.arange(tokens.shape[1]))[None]


class _ImageTransformer(nn.Module):
    config: ImageConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = _ImageEmbeddings(self.config, self.dtype, name="embeddings")(image)
        x = _norm(self, "pre_layrnorm")(x)  # so spelt in all weight files
        x = _Encoder(self.config, self.dtype, name="encoder")(x)
        return _norm(self, "post_layernorm")(x[:, 0])


class _ImageEmbeddings(nn.Module):
    """One row for each patch, after that of the class token."""

    config: ImageConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        width, patch = self.config.hidden_size, (self.config.patch_size,) * 2
        patches = nn.Conv(
            width, patch, patch, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(image).reshape(len(image), -1, width)
        token = self.param("class_embedding", nn.initializers.normal(0.02), (width,))
        first = jnp.broadcast_to(token.astype(patches.dtype), (len(image), 1, width))
        x = jnp.concatenate([first, patches], axis=1)
        position = nn.Embed(x.shape[1], width, name="position_embedding")
        return x + position(jnp.arange(x.shape[1]))[None]


class _Encoder(nn.Module):
    config: _Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _Layers(self.config, self.dtype, name="layers")(x)


class _Layers(nn.Module):
    config: _Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.config.num_hidden_layers):
            x = _Layer(self.config, self.dtype, name=str(i))(x)
        return x


class _Layer(nn.Module):
    config: _Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attend = _Attention(self.config, self.dtype, name="self_attn")
        x = x + attend(_norm(self, "layer_norm1")(x))
        return x + _Mlp(self.config, self.dtype, name="mlp")(_norm(self, "layer_norm2")(x))


class _Attention(nn.Module):
    config: _Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], self.config.num_attention_heads, -1)
        query, key, value = (
            nn.Dense(x.shape[2], dtype=self.dtype, name=f"{name}_proj")(x).reshape(heads)
            for name in "qkv"
        )
        seen = jax.nn.dot_product_attention(query, key, value, is_causal=self.config.causal)
        return nn.Dense(x.shape[2], dtype=self.dtype, name="out_proj")(seen.reshape(x.shape))


class _Mlp(nn.Module):
    config: _Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        hidden = _ACTIVATIONS[self.config.hidden_act](hidden)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden)


def _norm(module: Any, name: str) -> nn.LayerNorm:
    """A norm inside `module`."""
    return nn.LayerNorm(
        module.config.layer_norm_eps, dtype=module.dtype, use_fast_variance=False, name=name
    )
