"""What a behaviour planner imports to read the node's messages."""

from emotion_perception.client.listener import TOPIC, EmotionListener, start_ros, valid_names

__all__ = ["TOPIC", "EmotionListener", "start_ros", "valid_names"]
