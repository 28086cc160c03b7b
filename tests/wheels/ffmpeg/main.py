"""A native program out of a wheel: ffmpeg encodes a few frames and gives them back."""

import subprocess

import imageio_ffmpeg

SIZE, FRAMES = 64, 8


def encode():
    writer = imageio_ffmpeg.write_frames("/tmp/film.mp4", (SIZE, SIZE), fps=4, quality=9)
    writer.send(None)
    for number in range(FRAMES):
        writer.send(bytes((250 * number // FRAMES, 100, 20)) * SIZE * SIZE)
    writer.close()
    reader = imageio_ffmpeg.read_frames("/tmp/film.mp4")
    about = next(reader)
    frames = list(reader)
    far = max(abs(frame[SIZE * 3 * 32 + 96] - 250 * number // FRAMES) for number, frame in enumerate(frames))
    return [list(about["size"]), about["fps"], len(frames), far < 20, b"ftyp" in open("/tmp/film.mp4", "rb").read(12)]


def piped():
    """Run the program itself, with pipes on both sides and threads inside."""
    ran = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=frequency=440:duration=0.1:sample_rate=8000", "-f", "s16le", "-threads", "4", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    return len(ran.stdout)


def handler(event, context):
    return globals()[event["case"]]()
