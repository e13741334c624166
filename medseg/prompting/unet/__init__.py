"""The promptable U-Net: any plan's network with prompts among its channels, the engine, and its training."""
