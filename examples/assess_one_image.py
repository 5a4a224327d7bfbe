"""Assess the people in one image and print their leading labels.

    python3 examples/assess_one_image.py photo.jpg --params-file config/small_world.yaml

The parameter file names the detector and the recognizer, as for the node.
"""

from __future__ import annotations

import argparse

import cv2

from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.perception.detection import make_detector
from emotion_perception.recognizers.registry import make_recognizer


def main() -> None:
    """Detect the people, assess them, and print one line per person."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--params-file", required=True, help="a parameter file of the node")
    arguments = parser.parse_args()
    image = cv2.imread(arguments.image)
    if image is None:
        parser.error(f"cannot read {arguments.image}: it is not an image")
    settings = Settings.from_dict(read_parameter_file(arguments.params_file))
    frame = Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp_ns=0, camera="file")

    detector = make_detector(settings.detector)
    detections = detector.detect(frame)
    people = tuple(
        Track(f"p{number:05d}", Box(*map(float, corners)), float(confidence))
        for number, (corners, confidence) in enumerate(
            zip(detections.corners, detections.confidence, strict=True), 1
        )
        if confidence >= settings.detector.confidence
    )

    recognizer = make_recognizer(settings.recognizer)
    for assessment in recognizer.assess(Scene(frame, people), people):
        if assessment.scores is None:
            print(assessment.person_id, assessment.reason)
            continue
        best = sorted(zip(assessment.scores, recognizer.labels, strict=True), reverse=True)[:3]
        print(assessment.person_id, ", ".join(f"{label} {score:.2f}" for score, label in best))


if __name__ == "__main__":
    main()
