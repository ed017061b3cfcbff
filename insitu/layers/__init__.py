"""Layers that learn without a gradient: Hebbian rules, what a block of them is made of, the update.

    net(rows)          every recording layer computes the direction it would move in
    update.step()      moves the weights; `update.discard()` forgets the directions

`rules/` has the post-synaptic terms, one a file; `hebbian.py` what all layers share, `linear.py`
and `convolution.py` the layers, `learning_rates.py` how fast a kernel moves, `update.py` the
counterpart of an optimizer, `graph.py` a whole step captured as a CUDA graph, `block.py` what is
usually built from them, `watching.py` how others see what a layer answers.
"""
