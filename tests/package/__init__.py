"""The package and what a machine needs to install it: base images, the build, a repository."""
