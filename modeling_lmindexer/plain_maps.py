"""Which modules are linear maps and nothing else: their weights can be used without calling them."""

from torch import nn


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a linear map, and nothing else happens when it is called."""
    return type(module) is nn.Linear and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether someone looks at a module's calls, or has put other code in its place, as accelerate does."""
    own = [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]
    return any(own) or "forward" in vars(module) or nn.modules.module._has_any_global_hook()
