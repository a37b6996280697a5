"""multipart/form-data, as browsers and curl send files: their bytes, and nothing written to disk."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.errors import InvalidInput


class _Files:
    """What the parser tells of each part."""

    def __init__(self, most: int):
        self.files, self.ended = list[bytes](), False
        self._most, self._parts = most, list[bytes]()
        self._header, self._value, self._is_file = b"", b"", False

    def part_begin(self) -> None:
        if len(self.files) == self._most:
            raise InvalidInput(f"the body has more than {self._most} files, the most that this server takes")
        self._parts, self._is_file = [], False

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            self._is_file = b"filename" in options
            name = options.get(b"name", b"").decode("utf-8", "replace")
            if not self._is_file:
                raise InvalidInput(
                    f"the part {name[:64]!r} of the body is no file: it has no filename; what else you "
                    "want to say goes into the query"
                )
        self._header, self._value = b"", b""

    def headers_finished(self) -> None:
        if not self._is_file:
            raise InvalidInput("a part of the body has no content-disposition; it must name a file")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(data[start:end])

    def part_end(self) -> None:
        self.files.append(b"".join(self._parts))

    def end(self) -> None:
        self.ended = True


def files(body: bytes, content_type: str, most: int) -> list[bytes]:
    """The files of a body, in their order; InvalidInput where it is not whole, has more than `most`, or other parts."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidInput("the content-type multipart/form-data names no boundary")
    found = _Files(most)
    callbacks = {
        "on_part_begin": found.part_begin,
        "on_header_field": found.header_field,
        "on_header_value": found.header_value,
        "on_header_end": found.header_end,
        "on_headers_finished": found.headers_finished,
        "on_part_data": found.part_data,
        "on_part_end": found.part_end,
        "on_end": found.end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
    except FormParserError as error:
        raise InvalidInput(f"the body is no multipart/form-data: {error}") from error
    if not found.ended:
        raise InvalidInput("the body is not whole: it ends before the last boundary of its multipart/form-data")
    return found.files
