"""Conversion of a Caddyfile with the ``durable_streams`` directive into a configuration file.

The Caddyfile format: https://caddyserver.com/docs/caddyfile/concepts
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from durable_streams_tw.cli.toml_format import quoted
from durable_streams_tw.service.value_parsers import SECONDS

# Quoted text, a comment, a line end, or a word.
_TOKEN: Final = re.compile(r'"((?:\\.|[^"\\])*)"|`([^`]*)`|(#[^\n]*)|(\\?\n)|([^\s]+)', re.DOTALL)
_ADDRESS: Final = re.compile(r"(?:(https?)://)?(\[[^\]]*\]|[^:/]*)(?::([0-9]+))?/?")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_GO_DURATION: Final = re.compile(r"(?:[0-9.]+(?:ms|s|m|h|d))+")
_GO_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h|d)")


class Directive(Struct, frozen=True):
    """Line of a Caddyfile: its words, the block that follows it, and its number."""

    words: tuple[str, ...]
    block: tuple[Directive, ...]
    line: int


class Converted(Struct):
    """Settings as texts of TOML values by name, and notes about what has no counterpart."""

    settings: dict[str, str]
    notes: list[str]


def parse(text: str) -> tuple[Directive, ...]:
    """Return the directives of a Caddyfile. Raises `ValueError` for unbalanced braces."""
    # Directives of the open blocks, the outermost first, and the head of each block.
    levels: list[list[Directive]] = [[]]
    heads: list[tuple[tuple[str, ...], int]] = []
    words: list[str] = []
    line = start = 1

    def end_line() -> None:
        if words:
            levels[-1].append(Directive(tuple(words), (), start))
            words.clear()

    for match in _TOKEN.finditer(text):
        quoted, raw, comment, newline, word = match.groups()
        if newline is not None:
            line += 1
            if not newline.startswith("\\"):
                end_line()
        elif word == "{":
            heads.append((tuple(words), start if words else line))
            levels.append([])
            words.clear()
        elif word == "}":
            end_line()
            if not heads:
                raise ValueError(f"line {line}: '}}' without '{{'")
            block = tuple(levels.pop())
            head, at = heads.pop()
            levels[-1].append(Directive(head, block, at))
        elif comment is None:
            if not words:
                start = line
            words.append(next(part for part in (quoted, raw, word) if part is not None))
            line += match[0].count("\n")
    end_line()
    if heads:
        raise ValueError(f"line {heads[-1][1]}: '{{' without '}}'")
    return tuple(levels[0])


def convert(text: str) -> Converted:
    """Return the settings that a Caddyfile corresponds to. Raises `ValueError`."""
    converted = Converted({}, [])
    for site in parse(text):
        if not site.words:
            for directive in site.block:
                if directive.words != ("admin", "off"):
                    _note(converted, directive)
            continue
        if not _contains_streams(site):
            _note(converted, site)
            continue
        _convert_addresses(site, converted)
        for directive in site.block:
            _convert_directive(directive, converted)
    if not converted.settings and not converted.notes:
        raise ValueError("the file is empty")
    return converted


def _contains_streams(directive: Directive) -> bool:
    return directive.words[:1] == ("durable_streams",) or any(
        map(_contains_streams, directive.block)
    )


def _convert_addresses(site: Directive, converted: Converted) -> None:
    for number, word in enumerate(" ".join(site.words).replace(",", " ").split()):
        match = _ADDRESS.fullmatch(word)
        if match is None or number:
            converted.notes.append(f"line {site.line}: address {word}: add it with `listen`")
            continue
        scheme, host, port = match.groups()
        if host in _LOOPBACK:
            converted.settings["interface"] = quoted("127.0.0.1" if host == "localhost" else host)
        if host and scheme != "http":
            converted.notes.append(
                f"line {site.line}: certificates for {host}: this server obtains none; give it a "
                "certificate with `listen`, or keep Caddy in front of it as a reverse proxy"
            )
        if port or scheme == "http":
            converted.settings["port"] = port or "80"


def _convert_directive(directive: Directive, converted: Converted) -> None:
    name, *arguments = directive.words or ("",)
    if name in ("route", "handle", "handle_path") and _contains_streams(directive):
        if arguments:
            converted.settings["root"] = quoted(arguments[0].rstrip("*").rstrip("/") + "/")
        for inner in directive.block:
            _convert_directive(inner, converted)
    elif name == "durable_streams":
        for option in directive.block:
            _convert_option(option, converted)
    else:
        _note(converted, directive)


def _convert_option(option: Directive, converted: Converted) -> None:
    known: dict[str, tuple[str, Callable[[str], str]]] = {
        "data_dir": ("data-dir", quoted),
        "long_poll_timeout": ("long-poll-timeout", _duration),
        "sse_reconnect_interval": ("sse-reconnect-interval", _duration),
        "webhook_callback_url": ("public-url", quoted),
    }
    name, *arguments = option.words
    if name == "max_file_handles":
        converted.notes.append(
            f"line {option.line}: max_file_handles: not needed, the number of open files does not "
            "grow with the number of streams"
        )
    elif name not in known or len(arguments) != 1 or arguments[0].startswith("{"):
        _note(converted, option)
    else:
        setting, convert_value = known[name]
        converted.settings[setting] = convert_value(arguments[0])


def _note(converted: Converted, directive: Directive) -> None:
    words = " ".join(directive.words) or "block"
    converted.notes.append(f"line {directive.line}: {words}: no counterpart")


def _duration(text: str) -> str:
    """Return a duration of Go, such as ``1m30s``, as a time with one unit."""
    if not _GO_DURATION.fullmatch(text):
        raise ValueError(f"{text} is not a duration")
    seconds = sum(float(value) * SECONDS[unit] for value, unit in _GO_PART.findall(text))
    return quoted(f"{seconds:g}s")
