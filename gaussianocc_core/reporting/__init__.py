# SPDX-License-Identifier: Apache-2.0
"""How good a model is on a recording, as one page: measures with marks, what to do, pictures, a video."""
