"""Models: small networks that are made to fit the fields of a stream.

A factory takes `(input_shape, output_shape, *, options)`, both shapes without rows, and returns
an `nn.Module`. Its initialisation draws from torch's global generator, as every `nn.Module` does;
`insitu.models.build.build_model` gives it a seed of its own and leaves the global generator as it
was. After that no model of ours draws anything (no dropout), and none mixes rows unless `resnet`
is asked for batch norm, so a batch of one trains, and a row's output does not depend on its
neighbours. `random_patches` makes its dictionary from the first rows that it is trained on.
"""
