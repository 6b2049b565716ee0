# SPDX-License-Identifier: Apache-2.0
"""Says what was tried, with the seed that makes it again."""

from support.fuzzing import COUNTS, SEED, TIMES


def pytest_terminal_summary(terminalreporter):
    if COUNTS:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(COUNTS.items()))
        terminalreporter.write_line(
            f"fuzzing, seed {SEED} (GAUSSIANOCC_FUZZ_SEED), {TIMES:g} times (GAUSSIANOCC_FUZZ_TIMES): {counts}"
        )
