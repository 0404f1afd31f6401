"""The models and data of the experiments that come with the package."""
