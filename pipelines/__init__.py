"""The way of the data: one folder per step, in order, and the chains that string them together.

lexicon → transcripts → speech → augmentation → manifests → training → evaluation → release
"""
