"""The node: convert messages for `Pipeline`, publish its estimates, and report problems.

CameraSubscription ──> _on_image ──> Pipeline.on_frame ──> EstimatePublisher.publish
                           └─> _ask ──> Worker: recognizer.assess ──> _on_answer ──> publish

The thread of the executor owns all state. The worker thread only computes `recognizer.assess` and
`explain`; their results return to the executor as tasks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from emotion_perception.core.errors import FrameError, RecognizerError, describe
from emotion_perception.core.interfaces import Detector, Explainer, Recognizer
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.core.settings import (
    NODE_NAME,
    SETTINGS,
    DetectorSettings,
    Settings,
    TopicDetectorSettings,
)
from emotion_perception.core.text import MAX_TEXT, printable
from emotion_perception.core.values import Assessment, Cause, Scene, SourceStatus
from emotion_perception.perception.detection import make_detector
from emotion_perception.perception.pipeline import Pipeline, Round
from emotion_perception.recognizers.computation import make_live_recognizer
from emotion_perception.ros import parameters, qos
from emotion_perception.ros.bond import ManagerBond
from emotion_perception.ros.camera import CameraSubscription
from emotion_perception.ros.conversions import Explain, Settle, time_to_msg
from emotion_perception.ros.depth import DepthSubscription
from emotion_perception.ros.diagnostics import Reporter
from emotion_perception.ros.health import OK, WARN, Finding, RecognizerHealth
from emotion_perception.ros.lifecycle import (
    FAILURE,
    SUCCESS,
    reported,
    survive_stray_transitions,
)
from emotion_perception.ros.people_topic import PeopleTopic
from emotion_perception.ros.permissions import Permissions, refusal
from emotion_perception.ros.publishing import EstimatePublisher
from emotion_perception.ros.worker import Worker

_RELEASE_S = 1.0  # to wait for a round in progress before its model is closed
Loading = Callable[[float], contextlib.AbstractContextManager[None]]


class EmotionNode(LifecycleNode):
    """Subscribes to camera images and publishes `~/emotions`."""

    def __init__(
        self,
        node_name: str = NODE_NAME,
        *,
        make_detector: Callable[[DetectorSettings], Detector] = make_detector,
        make_recognizer: Callable[[RecognizerSettings], Recognizer] = make_live_recognizer,
        loading: Loading = lambda allowed_s: contextlib.nullcontext(),
        **options: Any,
    ) -> None:
        """Declare the parameters and create the services.

        Several nodes can share a process and an executor. They configure themselves only in `main`;
        in another program call `trigger_configure` and `trigger_activate`, or leave it to a
        lifecycle manager.

        Args:
            node_name: The name of the node.
            make_detector: Creates the detector at configure.
            make_recognizer: Creates the recognizer at configure.
            loading: Returns a context in which the models are loaded, given the seconds allowed.
            options: Of `rclpy.lifecycle.LifecycleNode`, such as `namespace`, `context`,
                `cli_args` and `parameter_overrides`.
        """
        super().__init__(node_name, **options)
        self._loading = loading
        self._run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z-{os.getpid()}"
        self._make_detector, self._make_recognizer = make_detector, make_recognizer
        self._refused = parameters.declare(self)
        self._permissions = Permissions(self, self._refused)
        self._settings = Settings()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        survive_stray_transitions(self)

        self._detector: Detector | None = None
        self._people_topic: PeopleTopic | None = None
        self._recognizer: Recognizer | None = None
        self._worker: Worker | None = None
        self._perception: Pipeline | None = None
        self._people_counted = self._reported_published = 0
        self._camera = CameraSubscription(self, self._on_image)
        self._depth = DepthSubscription(self)
        self._estimates = EstimatePublisher(self)
        self._bond = ManagerBond(self)
        self._failed_scene: Scene | None = None
        self._arrived_ns = 0
        self._model = RecognizerHealth("", 0.0)
        self._active = False
        self._enabled = self._camera.health.enabled = bool(self.get_parameter("enabled").value)

        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        # In callback groups of their own, so that waiting for an answer does not block the node.
        for kind, name, handler in (
            (Explain, "~/explain", self._on_explain),
            (Settle, "~/settle", self._on_settle),
        ):
            group = MutuallyExclusiveCallbackGroup()
            self.create_service(kind, name, handler, callback_group=group)
        self._reporter = Reporter(self)
        # Not on the ROS clock, which stands still in a paused simulation.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=self._steady)
        self._heartbeat: Any = None

    @property
    def settings(self) -> Settings:
        """The current values of the parameters."""
        return self._settings

    @property
    def round_s(self) -> float:
        """Seconds for which the round in progress has been running; 0 without one."""
        return self._worker.busy_s if self._worker else 0.0

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
            with self._loading(self._settings.watchdog.load):
                self._create(self._settings)
        except BaseException:
            self._release()  # what was created before the error
            raise
        return SUCCESS

    def _create(self, settings: Settings) -> None:
        self._permissions.log_destination(settings)
        self._bond.check(settings.bond_timeout)
        self._camera.check(settings)
        if isinstance(settings.detector, TopicDetectorSettings):
            self._people_topic = PeopleTopic(self, settings, self._process, self._on_undetected)
            self._detector = self._people_topic
        else:
            self._detector = self._make_detector(settings.detector)
        self._recognizer = recognizer = self._make_recognizer(settings.recognizer)
        recognizer.warm_up()
        self._perception = Pipeline(
            self._detector, recognizer, settings, self._people_counted, self._run_id
        )
        self._perception.since_arrival_ns = lambda: self._now_ns() - self._arrived_ns
        self._perception.source_status = SourceStatus.INACTIVE
        self._worker = Worker(self, on_free=self._ask)
        self._failed_scene = None
        self._model = RecognizerHealth(recognizer.name, settings.silence)
        self._estimates.open(settings, recognizer)
        period = min(settings.heartbeat, settings.silence) / 2
        self._heartbeat = self.create_timer(period, self._on_heartbeat, clock=self._steady)
        self.get_logger().info(
            f"configured with detector {settings.detector.name} and recognizer "
            f"{printable(recognizer.name)}"
        )

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera, and form the bond if it is asked for."""
        super().on_activate(state)
        try:
            if self._enabled:
                self._subscribe()
            self._bond.form(self._settings.bond_timeout)
        except BaseException:
            self._bond.end()
            self._unsubscribe()
            super().on_deactivate(state)
            raise
        self._active = True
        return SUCCESS

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe from the camera and publish an empty list."""
        self._bond.end()
        self._unsubscribe()
        self._active = False
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models, unless a round that uses them does not end."""
        if self._worker is not None and not self._worker.drain(_RELEASE_S):
            self.get_logger().error(
                f"cannot clean up: a round has been running for {self.round_s:.0f} s; try again "
                "when it has ended, or restart the process"
            )
            return FAILURE
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

    def release(self) -> bool:
        """Unsubscribe and free everything, in any state.

        Returns:
            Whether all threads ended; a model that still computes is not closed.
        """
        self._bond.end()
        self._unsubscribe()
        self._active = False
        return self._release()

    def _subscribe(self) -> None:
        self._camera.open(self._settings)
        self._depth.open(self._settings)
        if self._people_topic is not None:
            self._people_topic.open()
        for name in qos.unused(self):
            self.get_logger().warning(f"no publisher or subscription reads the parameter {name}")

    def _unsubscribe(self) -> None:
        self._camera.close()
        self._depth.close()
        if self._people_topic is not None:
            self._people_topic.unsubscribe()
        if self._perception is None:
            return
        self._perception.source_status = SourceStatus.INACTIVE
        if self.context.ok() and self._active:
            self._estimates.publish_inactive(self._perception.now(), Cause.DEACTIVATED)
        self._perception.reset()

    def _release(self) -> bool:
        if self._heartbeat is not None:
            self.destroy_timer(self._heartbeat)
            self._heartbeat = None
        ended = self._worker is None or self._worker.close(_RELEASE_S)
        self._estimates.close()
        for model in (self._detector, self._recognizer):
            if model is not None and ended:
                model.close()
        if not ended and self.context.ok():
            self.get_logger().error("cannot close the model: its last round has not ended")
        if self._perception is not None:
            self._people_counted = self._perception.ids_assigned
        self._detector = self._recognizer = self._worker = self._perception = None
        self._people_topic = None
        return ended

    # Images

    def _on_image(self, raw: bytes, waited_s: float) -> None:
        self._camera.health.arrived()
        if self._people_topic is None:
            self._process(raw, waited_s)
            return
        try:
            self._people_topic.hold(raw, waited_s)
        except FrameError as error:
            self._camera.health.unread += 1
            self._camera.health.unreadable = str(error)

    def _on_undetected(self, reason: str) -> None:
        """Record that the detector returned nothing for an image."""
        health = self._camera.health
        health.undetected += 1
        health.undetected_s = time.monotonic()
        health.unreadable = reason

    def _process(self, raw: bytes, waited_s: float) -> None:
        perception, arrived_ns = self._perception, self._now_ns()
        assert perception is not None
        health = self._camera.health
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
        if not self._is_simulated:  # otherwise the clock has another speed
            arrived_ns -= round(waited_s * 1e9)
        self._arrived_ns = arrived_ns
        try:
            people = perception.on_frame(
                frame, self._depth.at(frame, self._settings.depth.tolerance)
            )
        except Exception as error:
            # Libraries of detectors raise errors of many kinds, out of memory among them.
            self._on_undetected(describe(error))
            trace = printable(traceback.format_exc(), MAX_TEXT, lines=True)
            self.get_logger().error(f"the detector failed:\n{trace}", throttle_duration_sec=30.0)
            return
        health.wrong_boxes = perception.wrong_detections.total()
        health.wrong_box = next(reversed(perception.wrong_detections), "")
        self._estimates.publish(people, frame)
        health.processed_image(frame.stamp_ns, frame.camera)
        self._ask()

    @property
    def _is_simulated(self) -> bool:
        clock = self.get_clock()
        return isinstance(clock, ROSClock) and clock.ros_time_is_active

    def _now_ns(self) -> int:
        """Return the time on the clock of the estimates' age: it goes on in suspend, too."""
        if self._is_simulated:
            return int(self.get_clock().now().nanoseconds)
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def _on_heartbeat(self) -> None:
        """Tell that the node works, and publish if images stopped or nothing was published."""
        self._estimates.assert_liveliness()
        perception = self._perception
        if perception is None or not self._active:
            return
        before, status = perception.source_status, self._source_status()
        perception.source_status = status
        expired = status is not before and status is not SourceStatus.LIVE
        if not expired and self._estimates.quiet_s < 0.9 * self._settings.heartbeat:
            return
        cause = Cause.EXPIRY if expired else Cause.HEARTBEAT
        if status is SourceStatus.INACTIVE:
            self._estimates.publish_inactive(perception.now(), cause)
        else:
            frame = perception.scene.frame if perception.scene else None
            self._estimates.publish(perception.now(cause), frame)

    def _source_status(self) -> SourceStatus:
        """Return whether the node sees; LIVE only if an image was processed."""
        health, settings, now = self._camera.health, self._settings, time.monotonic()
        if not self._camera.is_open:
            return SourceStatus.INACTIVE
        pause = 1 / settings.max_rate if settings.max_rate else 0.0  # that we make ourselves
        recent = now - health.processed_s <= settings.silence + pause
        if recent and self._perception is not None and self._perception.scene is not None:
            return SourceStatus.LIVE
        silent = now - health.since > settings.silence
        failing = health.undetected_s > health.processed_s and not silent
        return SourceStatus.DETECTOR_FAILED if failing else SourceStatus.CAMERA_SILENT

    # The recognizer

    def _ask(self) -> None:
        """Start a round on the worker if it is idle and a person is due."""
        if self._worker is None or self._worker.busy or self._perception is None:
            return
        if self._perception.scene is self._failed_scene:
            return  # another image may do better; it also bounds the rate of failures
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
        failure = answer.exception()
        if failure is not None and not isinstance(failure, Exception):
            # SystemExit would otherwise end the executor without a message, and with status 0.
            raise RuntimeError(f"the recognizer ended with {describe(failure)}") from failure
        try:
            people = asked_by.on_assessments(answer.result()) if asked_by.scene else None
        except Exception as error:
            asked_by.on_failure(question, describe(error))
            self._failed_scene = asked_by.scene
            self._on_failure(error)
            return
        self._model.answered()
        self._failed_scene = None
        self._model.people(asked_by.failing, asked_by.every_question_fails)
        if people is not None and asked_by.scene is not None:
            self._estimates.publish(people, asked_by.scene.frame)

    def _on_failure(self, error: Exception) -> None:
        self._model.failed(describe(error))
        if self._perception is not None:
            perception = self._perception
            self._model.people(perception.failing, perception.every_question_fails)
        if isinstance(error, RecognizerError):
            text = f"no answer this round: {describe(error)}"
            self.get_logger().warning(text, throttle_duration_sec=1.0)
        else:
            text = "".join(traceback.format_exception(error))
            trace = printable(text, MAX_TEXT, lines=True)
            text = f"the recognizer failed:\n{trace}"
            self.get_logger().error(text, throttle_duration_sec=1.0)

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
            self._subscribe()
        except Exception:
            trace = printable(traceback.format_exc(), MAX_TEXT, lines=True)
            self.get_logger().error(f"cannot subscribe to the images:\n{trace}")
            self._unsubscribe()
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
                response.message = describe(error)
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
        findings: list[Finding] = []
        now = time.monotonic()
        self._camera.health.silence = self._model.silence = self._settings.silence
        self._model.timeout = self._settings.recognizer.timeout
        findings.append(self._lifecycle_finding())
        if self._active:
            findings.append(self._camera.report(now))
            if (depth := self._depth.report(now)) is not None:
                findings.append(depth)
        if self._recognizer is not None:
            findings.append(self._model.report(now))
        findings += self._estimates.findings()
        self._reporter.report(findings)

    def _lifecycle_finding(self) -> Finding:
        _, state = self._state_machine.current_state
        published = self._estimates.published
        values: dict[str, object] = {
            "run": self._run_id,
            "messages published": published,
            "messages per second": published - self._reported_published,
        }
        self._reported_published = published
        if self._bond.state:
            values["bond"] = self._bond.state
        if self._bond.state == "broken":
            message = f"{state}; the bond with the lifecycle manager is broken"
            return Finding("lifecycle", WARN, message, values)
        return Finding("lifecycle", OK, state, values)

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
