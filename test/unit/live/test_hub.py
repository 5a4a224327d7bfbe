"""Each browser gets the newest picture at its own pace; without a browser nothing is encoded."""

import asyncio
import json

import numpy as np
import pytest

from emotion_perception.live.hub import MAX_SIDE, Browser, Hub, Picture, encode
from emotion_perception.testing.fakes import noise_image


def read(message):
    length = int.from_bytes(message[:4], "big")
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def picture(number):
    return Picture(None, {"number": number})


def test_message_holds_the_state_and_a_jpeg_of_limited_size():
    cv2 = pytest.importorskip("cv2")
    state, data = read(encode(Picture(noise_image(1920, 1080), {"people": []})))
    assert state == {"people": []}
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (540, MAX_SIDE, 3)


def test_slow_browser_gets_the_newest_picture_only():
    async def slow_and_fast():
        hub, loop = Hub(), asyncio.get_running_loop()
        slow, fast = Browser(loop), Browser(loop)
        hub.join(slow)
        hub.join(fast)
        seen = []
        for number in range(5):
            await asyncio.to_thread(hub.publish, lambda number=number: picture(number))
            seen.append(read(await fast.newest())[0]["number"])
        return seen, read(await slow.newest())[0]["number"]

    assert asyncio.run(slow_and_fast()) == ([0, 1, 2, 3, 4], 4)


def test_picture_is_made_for_a_browser_only():
    made = []

    def make():
        made.append(1)
        return picture(len(made))

    async def late():
        hub = Hub()
        hub.publish(make)
        hub.publish(make)
        assert not made
        browser = Browser(asyncio.get_running_loop())
        hub.join(browser)
        await browser.newest()
        hub.leave(browser)
        hub.publish(make)
        return len(made)

    assert asyncio.run(late()) == 1
