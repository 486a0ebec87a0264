"""What is secret, by its name or its place, and how it is shown: as `***`.

    a name     password, api_key, AUTH_TOKEN, accessKey, ...: its value, whole
    a place    scheme://user:HERE@host, name=HERE, "Authorization: HERE", --token HERE, curl -u user:HERE
    a value    what this process was told is secret (`learn`), wherever it turns up in an error (`hide`)

All that is shown of arguments to anyone but the function goes through here, and so does what a checkpoint keeps. Each
text is gone through once: no pattern here has a quantifier in another one, and what one looks back for is bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from itertools import pairwise
from typing import Any

from batchmill.value_class import value_class

MASK = "***"
SHORTEST = 4  # characters of a value that is looked for in texts: shorter ones are in every text
MOST_DEEP = 40  # levels of a value that are looked into: what is below is not shown
_LONGEST_NAME = 80

_WORDS = {
    *("password", "passwords", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "token", "bearer"),
    *("credential", "credentials", "creds", "auth", "oauth", "authorization", "apikey", "cookie", "cookies"),
}
_ENDS = (
    *("password", "passwd", "passphrase", "storepass", "secret", "token"),
    *("apikey", "accesskey", "secretkey", "privatekey"),
)
_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-")  # whose values may follow the colon at once
_KEYS = {
    *("api", "access", "private", "secret", "auth", "account", "encryption", "signing", "master", "subscription"),
    *("ssh", "license", "session"),
}
_PASSES = {"db", "user", "smtp", "imap", "mail", "ftp", "proxy", "login", "admin", "root", "mysql", "pg", "redis"}
# A name that ends so is of something that tells of a secret, and is none.
_ABOUT = {
    *("count", "counts", "limit", "length", "len", "size", "budget", "file", "path", "dir", "url", "uri", "name"),
    *("type", "method", "mode", "scheme", "env", "var", "variable", "ttl", "expiry", "lifetime", "policy", "stdin"),
    *("prompt", "rate", "cost"),
}
_HINT = re.compile(r"(?:pass|pwd|secret|token|bearer|cred|auth|key|cookie)", re.IGNORECASE)  # in each of them
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_OF_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_ADDRESS = re.compile(r":/{1,3}([^\s/?#\"'<>`]{1,2048})@")
_NAMED = re.compile(rf"{_HINT.pattern}[\w.-]{{0,60}}+[\"']?( {{0,3}}+)([=:])", re.IGNORECASE)
_OPTION = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]{0,63})[ \t]{1,8}")
_VALUE = re.compile(r"[^\s&;'\"<>|]*")
# What stands for a secret and is none: a placeholder for the item's, a variable of the shell.
_STAND_IN = re.compile(r"(?:[A-Za-z]{1,20} )?(?:\{[\w./#-]{0,80}\}|\$\w{1,80}|\$\{\w{1,80}[^{}]{0,80}\}|\$\([^()]*\))")
# Programs that take a user's name and password in one word, behind these.
_PAIRS = {"curl": ("-u", "--user", "-U", "--proxy-user"), "sshpass": ("-p",)}

_SIGN = re.compile(r"[=:]")
_QUOTES = ('"', "'")

Found = list[Any]  # the secrets themselves, as they are found


# Names


def is_secret(name: str) -> bool:
    """Whether a value of that name is not to be shown."""
    if not _HINT.search(name, max(0, len(name) - _LONGEST_NAME)):
        return False
    parts = [part.lower() for part in _PARTS.findall(name[-_LONGEST_NAME:])]
    if not parts or parts[-1] in _ABOUT:
        return False
    if any(part in _WORDS or part.endswith(_ENDS) for part in parts):
        return True
    pairs = list(pairwise(parts))
    return (
        any(before in _KEYS and part in ("key", "keys") for before, part in pairs)
        or parts == ["pass"]
        or any(before in _PASSES and part == "pass" for before, part in pairs)
    )


def variable_of(key: str) -> str:
    """The name of a variable to pass an argument by, where its value cannot be said."""
    return key.upper()


# Texts


def mask_text(text: str, found: Found | None = None) -> str:
    """A text without the passwords of addresses and the values of secret names that stand in it."""
    return _without(mask_addresses(text, found), _named_values, found)


def mask_addresses(text: str, found: Found | None = None) -> str:
    """A text without the passwords of the addresses in it."""
    return _without(text, _passwords, found)


def _without(text: str, spans: Callable[[str], Iterator[tuple[int, int]]], found: Found | None) -> str:
    parts: list[str] = []
    done = 0
    for begin, end in spans(text):
        if begin >= end or _STAND_IN.fullmatch(text, begin, end):
            continue
        parts += (text[done:begin], MASK)
        done = end
        if found is not None:
            found.append(text[begin:end])
    return "".join([*parts, text[done:]]) if parts else text


def _passwords(text: str) -> Iterator[tuple[int, int]]:
    """Where they are in addresses: behind the user's name, or all before the @ of a web address that has none."""
    for match in _ADDRESS.finditer(text):
        begin, end = match.span(1)
        colon = text.find(":", begin, end)
        if colon >= 0:
            yield colon + 1, end
        elif text[max(0, match.start() - 5) : match.start()].lower().endswith(("http", "https")):
            yield begin, end


def _named_values(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while match := _NAMED.search(text, at):
        begin = at = match.end()
        first = max(0, match.start() - _LONGEST_NAME)
        before = text[first : match.start()].rstrip(_OF_NAME)
        if is_secret(text[first + len(before) : match.start(2)]):
            if match[2] == ":":
                name = text[first + len(before) : match.start(2)]
                begin, at = _behind_colon(text, at, name, before[-1:])
            elif text[at : at + 1] != "=":
                begin, at = _value(text, at, is_spaced=bool(match[1]))
            yield begin, at


def _value(text: str, begin: int, *, is_spaced: bool = False) -> tuple[int, int]:
    begin = _without_spaces(text, begin) if is_spaced else begin
    if text[begin : begin + 1] in _QUOTES:
        return begin + 1, _closing(text, begin + 1, text[begin])
    if text[begin : begin + 2] == "$(":  # of a shell
        return begin, _closing(text, begin, ")") + 1
    match = _VALUE.match(text, begin)
    assert match is not None
    return match.span()


def _behind_colon(text: str, at: int, name: str, opening: str) -> tuple[int, int]:
    """Where the value of a header or of a JSON key is; `opening` stands before the name."""
    begin = _without_spaces(text, at)
    is_key = name.rstrip(" ")[-1:] in _QUOTES
    if not (is_key or _may_be_header(name, text[at : at + 1])) or (opening and opening not in "\"'{,\n("):
        return at, at  # auth:login, or prose: "unexpected token: x"
    if text[begin : begin + 1] in _QUOTES:
        return begin + 1, _closing(text, begin + 1, text[begin])
    if opening in _QUOTES and not is_key:  # the name and its value in one pair of quotes
        return begin, _closing(text, begin, opening)
    return begin, _closing(text, begin, "\n")


def _without_spaces(text: str, at: int) -> int:
    while text[at : at + 1] == " ":
        at += 1
    return at


def _closing(text: str, at: int, sign: str) -> int:
    """Where the next `sign` is that has no backslash before it; the end, where there is none."""
    while (at := text.find(sign, at)) >= 0:
        if text[at - 1] != "\\":
            return at
        at += 1
    return len(text)


def mask_script(text: str, found: Found | None = None) -> str:
    """A shell's script likewise, and without what stands behind secret options."""
    return mask_text(_without(text, _option_values, found), found)


def _option_values(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while match := _OPTION.search(text, at):
        begin = at = match.end()
        if is_secret(match[1]) and text[at : at + 1] != "-":
            begin, at = _value(text, at)
            yield begin, at


def mask_words(words: Sequence[str], found: Found | None = None) -> list[str]:
    """The words of a command likewise."""
    pairs = {option for word in words[:20] for option in _PAIRS.get(word.rpartition("/")[2], ())}
    before, masked = "", []
    for word in words:
        if before.startswith("-") and "=" not in before and is_secret(before) and not word.startswith("-"):
            masked.append(_masked_whole(word, 0, found))
        elif before in pairs:
            masked.append(_masked_whole(word, word.find(":") + 1, found))
        else:
            masked.append(_mask_word(word, found))
        before = word
    return masked


def _mask_word(word: str, found: Found | None) -> str:
    sign = _SIGN.search(word)
    name = word[: sign.start()] if sign else ""
    is_told = sign is not None and (sign[0] == "=" or _may_be_header(name, word[sign.end() :]))
    if sign and is_told and is_secret(name) and not name.rstrip(_OF_NAME):
        return _masked_whole(word, _without_spaces(word, sign.end()), found)
    return mask_script(word, found) if " " in word else mask_text(word, found)


def _may_be_header(name: str, after: str) -> bool:
    return after[:1] in (" ", "") or name.lower().startswith(_HEADERS)


def _masked_whole(word: str, begin: int, found: Found | None) -> str:
    if begin >= len(word) or _STAND_IN.fullmatch(word, begin):
        return word
    if found is not None:
        found.append(word[begin:])
    return word[:begin] + MASK


# Arguments


def mask_arguments(values: Mapping[str, Any], hidden: Iterable[str] = (), found: Found | None = None) -> dict[str, Any]:
    """Arguments by name, as they may be shown; those of `hidden` are secret whatever their name."""
    whole = set(hidden)
    return {key: _mask_value("secret" if key in whole else key, value, found, 0) for key, value in values.items()}


def _mask_value(name: Any, value: Any, found: Found | None, depth: int) -> Any:
    if depth > MOST_DEEP or (isinstance(name, str) and is_secret(name) and not isinstance(value, bool | None)):
        if found is not None:
            found.append(value)
        return MASK
    if type(value) is str:
        return mask_text(value, found)
    if is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, dict):
        return {key: _mask_value(key, item, found, depth + 1) for key, item in value.items()}
    if type(value) is list:
        return [_mask_value("", item, found, depth + 1) for item in value]
    if isinstance(value, tuple):
        names = getattr(value, "_fields", ("",) * len(value))
        return tuple(_mask_value(name, item, found, depth + 1) for name, item in zip(names, value))
    return value


def is_masked(value: Any) -> bool:
    """Whether something of a value is not shown."""
    if isinstance(value, str):
        return MASK in value
    if isinstance(value, dict):
        return any(map(is_masked, value.values()))
    return isinstance(value, (list, tuple)) and any(map(is_masked, value))


# What a checkpoint keeps


def mask_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain values, as they may be shown."""
    return {
        name: mask_arguments(value) if name == "set" and isinstance(value, Mapping) else _of_no_argument(value)
        for name, value in settings.items()
    }


def mask_command(command: Mapping[str, Any]) -> dict[str, Any]:
    """A command as a RUN frame has it."""
    words = [str(word) for word in command.get("words") or ()]
    return {**command, "words": list(map(mask_script, words)) if command.get("shell") else mask_words(words)}


def mask_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The map of a RUN or META frame, also of one that was written by others."""
    shown = {name: _of_no_argument(value) for name, value in facts.items() if name != "secrets"}
    for name in ("set", "captured"):
        if isinstance(facts.get(name), Mapping):
            shown[name] = mask_arguments(facts[name])
    if isinstance(facts.get("settings"), Mapping):
        shown["settings"] = mask_settings(facts["settings"])
    if isinstance(facts.get("command"), Mapping):
        shown["command"] = mask_command(facts["command"])
        shown["function"] = mask_script(str(facts.get("function", "")))  # the same, as one text
    elif isinstance(facts.get("command"), str):
        shown["command"] = mask_script(facts["command"])
    return shown


def _of_no_argument(value: Any) -> Any:
    """A name of a file, an address, a number, or a list of them: what stands before a `:` or `=` there says nothing."""
    if isinstance(value, list):
        return [mask_addresses(item) if isinstance(item, str) else item for item in value]
    return mask_addresses(value) if isinstance(value, str) else value


_ROUNDS = 200_000
_DIGEST = 2  # bytes


@value_class
class Secrets:
    """The secret arguments of a batch, by name, each as bytes. What is kept of them tells whether they are the same.

    That is a salted, slow digest of all of them, cut to 16 bits: a guess can be checked against no more than these, at
    the cost of 200,000 hashes each. Another value passes for the same once in 65,536 times.
    """

    values: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def seal(self, salt: bytes) -> dict[str, bytes]:
        """What a new checkpoint keeps; the salt is to be a random one of its own."""
        return {"salt": salt, "digest": self._digest(salt)}

    def agrees(self, kept: Any) -> bool:
        """Whether they are those that a checkpoint has kept (None: it had none)."""
        if not isinstance(kept, Mapping) or not self.values:
            return not kept and not self.values
        salt, digest = kept.get("salt"), kept.get("digest")
        return isinstance(salt, bytes) and self._digest(salt) == digest

    def _digest(self, salt: bytes) -> bytes:
        parts = (part for name, value in sorted(self.values.items()) for part in (name.encode(), value))
        whole = hashlib.blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()
        return hashlib.pbkdf2_hmac("sha256", whole, salt, _ROUNDS)[:_DIGEST]


# What this process was told


_known: list[str] = []


def learn(values: Iterable[Any]) -> None:
    """Hide these values, and all texts and numbers in them, from now on."""
    from urllib.parse import quote  # only where there are secrets

    for value in values:
        for leaf in _leaves(value, 0):
            forms = (leaf, repr(leaf)[1:-1], quote(leaf, safe="", errors="replace"))
            _known.extend(form for form in forms if len(leaf) >= SHORTEST and form not in _known)
    _known.sort(key=len, reverse=True)  # one may be a part of another


def _leaves(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (bytes, bytearray)):
        yield bytes(value).decode("utf-8", "replace")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)
    elif depth <= MOST_DEEP and isinstance(value, (list, tuple, set, frozenset, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item, depth + 1)


def hide(text: str) -> str:
    """A text without the values that are known to be secret, and without the passwords of addresses."""
    for value in _known:
        text = text.replace(value, MASK)
    return mask_addresses(text)
