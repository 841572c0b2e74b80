"""Image files that claim an absurd size."""

import io
import struct
import zlib

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def absurd(suffix: str, side: int) -> bytes:
    """A file of a few bytes that claims to have side x side pixels."""
    size = struct.pack("<HH", side, side)
    match suffix:
        case "png":
            return png_header(side, side) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
        case "gif":
            return b"GIF89a" + size + b"\0\0\0" + b"," + bytes(4) + size + b"\0\x02\0;"
        case "bmp":
            header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 1, 1, 0, 0)
            return b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + header + bytes(45)
        case "ppm":
            return b"P6 %d %d 255\n" % (side, side) + bytes(99)
        case "jpg":
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16)).save(buffer, "jpeg")
            start = buffer.getvalue().index(b"\xff\xc0") + 5
            return buffer.getvalue()[:start] + struct.pack(">HH", side, side) + buffer.getvalue()[start + 4 :]
        case "tif":
            tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
            tags += [(277, 3, 1), (278, 4, side), (279, 4, 99)]
            entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
            return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(99)
        case "webp":  # extended, of 24 bits less one
            canvas = b"\2\0\0\0" + (side - 1).to_bytes(3, "little") * 2
            frame = bytes(6) + b"\x0f\0\0" * 2 + bytes(4)
            chunks = b"VP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
            chunks += b"ANMF" + struct.pack("<I", len(frame)) + frame
            return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
    raise AssertionError(suffix)
