# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node whose transitions say why they failed, and leave nothing behind."""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from gaussianocc_core.errors import GaussianOccError


class TidyLifecycleNode(LifecycleNode):
    """Subclasses define `configure`, `activate` and what `deactivate` has to do beside undoing.

    What a transition makes it registers for undoing at once, on `configured` or `activated`: what comes next may fail.
    """

    def __init__(self, name: str, **options: Any) -> None:
        # Undone in reverse. Before anything can fail: rclpy destroys a half-built node too.
        self.configured, self.activated = ExitStack(), ExitStack()
        self.failure = ""  # why the last transition failed
        super().__init__(name, **options)

    def configure(self) -> None:
        """A GaussianOccError fails the transition with its one line, anything else with a traceback."""

    def activate(self) -> None:
        """Publishers are active already, subscriptions come last."""

    def deactivate(self) -> None:
        self.activated.close()

    def cleanup(self) -> None:
        self.activated.close()
        self.configured.close()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.failure = ""
        return self._transition(self.configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        return result if result != TransitionCallbackReturn.SUCCESS else self._transition(self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.cleanup, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.cleanup, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.cleanup, super().on_error, state)

    def destroy_node(self) -> None:
        self.cleanup()
        super().destroy_node()

    @property
    def state_name(self) -> str:
        """unconfigured, inactive, active, finalized, or the transition it is in."""
        return str(self._state_machine.current_state[1])  # rclpy has no public name for it

    def _transition(self, step: Any, *then: Any) -> TransitionCallbackReturn:
        """rclpy swallows what a transition raises: here it becomes a line (a user's mistake) or a traceback (ours)."""
        try:
            step()
        except GaussianOccError as error:
            self.failure = " ".join(str(error).split())
            self.get_logger().error(self.failure)
            self.cleanup()
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.stop_if_closed()
            self.failure = traceback.format_exc()
            self.get_logger().error(self.failure)
            return TransitionCallbackReturn.ERROR
        result = then[0](then[1]) if then else TransitionCallbackReturn.SUCCESS
        self.stop_if_closed()
        return result

    def stop_if_closed(self) -> None:
        """Ctrl-C or SIGTERM closed the context: rclpy would log that it cannot complete the transition."""
        if not self.context.ok():
            raise KeyboardInterrupt
