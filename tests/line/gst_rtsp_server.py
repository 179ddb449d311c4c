"""Serves a folder of PNG frames over RTSP, again and again; runs under the system's Python, which has gi.

Usage: rtsp_server.py FRAMES_PATTERN FPS PORT    e.g. frames/%04d.png 10 8554
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions come first

PIPELINE = (
    '( multifilesrc location="{pattern}" start-index=0 loop=true caps="image/png,framerate={fps}/1" ! pngdec '
    "! videoconvert ! video/x-raw,format=I420 "
    "! x264enc tune=zerolatency speed-preset=veryfast key-int-max=10 bitrate=4000 ! rtph264pay name=pay0 pt=96 )"
)


def main() -> None:
    pattern, fps, port = sys.argv[1:]
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE.format(pattern=pattern, fps=fps))
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


main()
