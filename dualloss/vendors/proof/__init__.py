"""The proof that an imported loss is the library's own: its value and gradient against ours in the other framework.

`python -m dualloss.vendors.proof` builds every loss that can be imported, over a grid of its options, calls it on data
with edges, imports it, and computes the spec with the framework that the loss does not come from.
"""
