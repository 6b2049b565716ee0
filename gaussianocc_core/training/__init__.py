# SPDX-License-Identifier: Apache-2.0
"""Training: the two stages of the method as modules that turn a batch into losses, and the engine that runs either."""
