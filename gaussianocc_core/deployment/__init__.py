# SPDX-License-Identifier: Apache-2.0
"""Networks as files for other runtimes, with samples on which anyone can check that they say the same."""
