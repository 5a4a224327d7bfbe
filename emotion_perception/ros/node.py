"""The node: convert messages for `Pipeline`, publish its estimates, and report problems.

CameraSubscription ──> _on_image ──> Pipeline.on_frame ──> EstimatePublisher.publish
                           └─> _ask ──> Worker: recognizer.assess ──> _on_answer ──> publish

The thread of the executor owns all state. The worker thread only computes `recognizer.assess` and
`explain`; their results return to the executor as tasks.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from emotion_perception.core.errors import FrameError, RecognizerError
from emotion_perception.core.interfaces import Detector, Explainer, Recognizer
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.core.settings import NODE_NAME, SETTINGS, DetectorSettings, Settings
from emotion_perception.core.text import MAX_TEXT, printable
from emotion_perception.core.values import Assessment
from emotion_perception.perception.detection import make_detector
from emotion_perception.perception.pipeline import Pipeline, Round
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.ros import diagnostics, parameters
from emotion_perception.ros.camera import CameraSubscription
from emotion_perception.ros.conversions import Explain, Settle, time_to_msg
from emotion_perception.ros.lifecycle import SUCCESS, reported, survive_stray_transitions
from emotion_perception.ros.publishing import EstimatePublisher
from emotion_perception.ros.trust import Permissions, refusal
from emotion_perception.ros.worker import Worker

_MAX_PAUSE_S = 30.0  # between two rounds of a model that keeps failing


class EmotionNode(LifecycleNode):
    """Subscribes to camera images and publishes `~/emotions`."""

    def __init__(
        self,
        make_detector: Callable[[DetectorSettings], Detector] = make_detector,
        make_recognizer: Callable[[RecognizerSettings], Recognizer] = make_recognizer,
        **options: Any,
    ) -> None:
        super().__init__(NODE_NAME, **options)
        self._make_detector, self._make_recognizer = make_detector, make_recognizer
        self._refused = parameters.declare(self)
        self._permissions = Permissions(self, self._refused)
        self._settings = Settings()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        survive_stray_transitions(self)

        self._detector: Detector | None = None
        self._recognizer: Recognizer | None = None
        self._worker: Worker | None = None
        self._perception: Pipeline | None = None
        self._people_counted = 0
        self._camera = CameraSubscription(self, self._on_image)
        self._estimates = EstimatePublisher(self)
        self._ask_after = 0.0
        self._model = diagnostics.RecognizerHealth("", 0.0)
        self._log_limiter = diagnostics.LogLimiter()
        self._active = False
        self._enabled = True

        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        # In callback groups of their own, so that waiting for an answer does not block the node.
        for kind, name, handler in (
            (Explain, "~/explain", self._on_explain),
            (Settle, "~/settle", self._on_settle),
        ):
            group = MutuallyExclusiveCallbackGroup()
            self.create_service(kind, name, handler, callback_group=group)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_timer(1.0, self._report)

    @property
    def settings(self) -> Settings:
        """The current values of the parameters."""
        return self._settings

    # Transitions

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the models and create all publishers and services."""
        if self._refused:
            raise ValueError("; ".join(self._refused.values()))
        self._settings = Settings.from_dict(
            {name: self.get_parameter(name).value for name in SETTINGS}
        )
        try:
            self._create(self._settings)
        except BaseException:
            self._release()  # what was created before the error
            raise
        return SUCCESS

    def _create(self, settings: Settings) -> None:
        self._permissions.log_destination(settings)
        self._detector = self._make_detector(settings.detector)
        self._recognizer = recognizer = self._make_recognizer(settings.recognizer)
        recognizer.warm_up()
        self._perception = Pipeline(self._detector, recognizer, settings, self._people_counted)
        self._worker = Worker(self, on_free=self._ask)
        self._ask_after = 0.0
        self._model = diagnostics.RecognizerHealth(recognizer.name, settings.silence)
        self._estimates.open()
        self.get_logger().info(
            f"configured with detector {settings.detector.name} and recognizer "
            f"{printable(recognizer.name)}"
        )

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera."""
        super().on_activate(state)
        if self._enabled:
            try:
                self._camera.open(self._settings)
            except BaseException:
                super().on_deactivate(state)
                raise
        self._active = True
        return SUCCESS

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe from the camera and publish an empty list."""
        self._unsubscribe()
        self._active = False
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models."""
        self._release()
        return SUCCESS

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and free everything."""
        self.release()
        return SUCCESS

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and free everything after a transition that failed."""
        self.release()
        return SUCCESS

    def release(self) -> None:
        """Unsubscribe and free everything, in any state."""
        self._unsubscribe()
        self._active = False
        self._release()

    def _unsubscribe(self) -> None:
        self._camera.close()
        if self._perception is None:
            return
        if self._perception.scene is not None and self.context.ok():
            self._estimates.publish_empty(self._perception.now())
        self._perception.reset()

    def _release(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._estimates.close()
        for model in (self._detector, self._recognizer):
            if model is not None:
                model.close()
        if self._perception is not None:
            self._people_counted = self._perception.ids_assigned
        self._detector = self._recognizer = self._worker = self._perception = None

    # Images

    def _on_image(self, raw: bytes) -> None:
        perception = self._perception
        assert perception is not None
        health = self._camera.health
        health.arrived()
        try:
            frame = self._camera.decode(raw, perception)
        except FrameError as error:
            health.unread += 1
            health.unreadable = str(error)
            return
        if frame is None:
            return
        before_ns = perception.scene.frame.stamp_ns if perception.scene else None
        if before_ns is not None and frame.stamp_ns < before_ns:
            health.clock_jumps += 1
            self.get_logger().warning(
                f"the camera's clock jumped back by {(before_ns - frame.stamp_ns) / 1e9:.3f} s: "
                "all tracks are dropped"
            )
        try:
            people = perception.on_frame(frame)
        except Exception as error:
            # Libraries of detectors raise errors of many kinds, out of memory among them.
            health.undetected += 1
            health.unreadable = f"{type(error).__name__}: {error}"
            trace = printable(traceback.format_exc(), MAX_TEXT, lines=True)
            self.get_logger().error(f"the detector failed:\n{trace}", throttle_duration_sec=30.0)
            return
        self._estimates.publish(people, frame)
        health.processed_image(frame.stamp_ns)
        self._ask()

    # The recognizer

    def _ask(self) -> None:
        """Start a round on the worker if it is idle and a person is due."""
        if self._worker is None or self._worker.busy or self._perception is None:
            return
        if time.monotonic() < self._ask_after:
            return
        question = self._perception.next_round()
        if question is None:
            return
        assert self._recognizer is not None
        self._model.started()
        on_answer = functools.partial(self._on_answer, self._perception, question)
        self._worker.do(on_answer, self._recognizer.assess, question.scene, question.people)

    def _on_answer(
        self, asked_by: Pipeline, question: Round, answer: Future[list[Assessment]]
    ) -> None:
        if answer.cancelled() or asked_by is not self._perception:
            return
        try:
            people = asked_by.on_assessments(answer.result()) if asked_by.scene else None
        except Exception as error:
            asked_by.on_failure(question)
            self._on_failure(error)
            return
        self._model.answered()
        self._ask_after = 0.0
        if people is not None and asked_by.scene is not None:
            self._estimates.publish(people, asked_by.scene.frame)

    def _on_failure(self, error: Exception) -> None:
        self._model.failed(f"{type(error).__name__}: {error}")
        pause = min(2.0 ** (self._model.failures - 1), _MAX_PAUSE_S)
        self._ask_after = time.monotonic() + pause
        if isinstance(error, RecognizerError):
            self.get_logger().warning(f"no answer this round: {printable(error)}")
        else:
            text = "".join(traceback.format_exception(error))
            trace = printable(text, MAX_TEXT, lines=True)
            self.get_logger().error(f"the recognizer failed; next try in {pause:.0f} s:\n{trace}")

    # Services and diagnostics

    def _on_set_enabled(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        self._enabled = self._camera.health.enabled = request.data
        response.success = True
        if not request.data:
            self._unsubscribe()
        elif self._active and not self._camera.is_open:
            response.success = self._try_subscribe()
        response.message = "subscribed" if self._camera.is_open else "not subscribed to images"
        return response

    def _try_subscribe(self) -> bool:
        try:
            self._camera.open(self._settings)
        except Exception:
            self.get_logger().error(f"cannot subscribe to the images:\n{traceback.format_exc()}")
            return False
        return True

    async def _on_explain(
        self, request: Explain.Request, response: Explain.Response
    ) -> Explain.Response:
        scene = self._perception.scene if self._perception else None
        people = {person.person_id: person for person in scene.people} if scene else {}
        if not isinstance(self._recognizer, Explainer):
            response.message = "cannot explain: this recognizer generates no text"
        elif request.person_id not in people:
            in_view = ", ".join(sorted(people)) or "no person"
            response.message = f"cannot explain {request.person_id!r}: in view is {in_view}"
        else:
            assert scene is not None
            response.stamp = time_to_msg(scene.frame.stamp_ns)
            answered = rclpy.Future(executor=self.executor)
            person = people[request.person_id]
            assert self._worker is not None
            self._worker.do(answered.set_result, self._recognizer.explain, scene, person)
            result: Future[str] = await answered
            if result.cancelled():
                response.message = "cannot explain: the model was released meanwhile"
            elif error := result.exception():
                response.message = f"{type(error).__name__}: {error}"
            else:
                explanation = printable(result.result(), MAX_TEXT, lines=True)
                response.success, response.explanation = True, explanation
        response.message = printable(response.message)
        return response

    async def _on_settle(
        self, request: Settle.Request, response: Settle.Response
    ) -> Settle.Response:
        if self._worker is not None:
            await self._worker.settle()
        response.stamp = time_to_msg(self._camera.newest_ns)
        response.published = self._estimates.published
        return response

    def _report(self) -> None:
        findings: list[diagnostics.Finding] = []
        now = time.monotonic()
        self._camera.health.silence = self._model.silence = self._settings.silence
        if self._active:
            findings.append(self._camera.report(now))
        if self._recognizer is not None:
            findings.append(self._model.report(now))
        stamp_ns = self.get_clock().now().nanoseconds
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(diagnostics.findings_to_msg(name, stamp_ns, findings))
        for finding in findings:
            self._log_finding(finding)

    def _log_finding(self, finding: diagnostics.Finding) -> None:
        if not self._log_limiter.is_due(finding):
            return
        logger, text = self.get_logger(), f"{finding.part}: {finding.message}"
        if finding.level == diagnostics.ERROR:
            logger.error(text)
        else:
            logger.warning(text)

    # Parameters

    def _on_set_parameters(self, requested: list[Parameter]) -> SetParametersResult:
        changed = {p.name: p.value for p in requested if p.name in SETTINGS}
        try:
            self._permissions.check(changed)
            configured = self._recognizer is not None
            self._settings = parameters.with_changes(self._settings, changed, configured)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=refusal(self, error))
        for name in changed:
            self._refused.pop(name, None)
        if self._perception is not None:
            self._perception.settings = self._settings
        return SetParametersResult(successful=True)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted, and return the exit status of the process."""
    try:
        rclpy.init(args=args)
    except _rclpy.RCLError as error:
        print(f"emotion_node: cannot start ROS 2: {error}", file=sys.stderr)
        return 1
    try:
        return _run(EmotionNode(), sys.argv if args is None else args)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except _rclpy.RCLError:
        if rclpy.ok():
            raise
        return 0  # interrupted during a call
    finally:
        rclpy.try_shutdown()


def _run(node: EmotionNode, args: list[str]) -> int:
    package_log = logging.getLogger("emotion_perception")
    package_log.addHandler(diagnostics.RosLogHandler(node))
    package_log.setLevel(logging.INFO)
    if "--params-file" in args and not node._parameter_overrides:
        node.get_logger().warning(
            f"the parameter file has no section for {node.get_fully_qualified_name()}"
        )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value:
            started = node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
            if not started:
                return 1
        executor.spin()
    finally:
        node.release()
        node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
