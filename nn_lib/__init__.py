"""The CNN and RNN canon as pure-function Flax modules, with the training loop around them.

Data flows `data -> models -> objectives -> train`; imports point the same way.
"""
