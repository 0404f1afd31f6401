"""Knowledge distillation (Algorithm 7): what a larger model knows helps to train a smaller one."""
