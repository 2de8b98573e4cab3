"""Headless Chromium for the tests of pages, driven by Selenium."""

import shutil
import time

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "Debian's chromium and chromium-driver are not installed"
FLAGS = ("--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=1440,1250", "--use-fake-device-for-media-stream",
         "--use-fake-ui-for-media-stream")  # fmt: skip
WAIT = 90  # seconds; two busy cores


def opened(profile, camera, *flags):
    """A browser whose camera shows a file of JPEGs (.mjpeg); it logs its requests.

    profile  a new folder for its own files
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}",
                 f"--use-file-for-fake-video-capture={camera}", *flags):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def write_camera(path, images):
    """Write images, Pillow's, as a file for the camera."""
    with open(path, "wb") as file:
        for image in images:
            image.save(file, format="JPEG", quality=90)
    return path


def find(browser, selector):
    return browser.find_element("css selector", selector)


def until(condition):
    """Wait until a condition holds; returns its value. Elements may not be there yet."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + WAIT
    while True:
        try:
            value = condition()
        except WebDriverException:
            value = None
        if value:
            return value
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)
