# SPDX-License-Identifier: Apache-2.0
"""What happens to a recording before training: inspection, masks, labels, a proposed configuration."""
