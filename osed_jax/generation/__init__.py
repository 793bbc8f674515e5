"""Images from class names: prompts, Stable Diffusion and the store it fills."""
