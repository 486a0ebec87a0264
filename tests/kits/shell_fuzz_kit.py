"""A fuzz of --shell: scripts with placeholders, and items that would be code if anything read them as such.

Two kinds by turns. Sentences of a shell's grammar, of which it is known what they print: an item arrives unchanged. And
soup of its words, most of which is refused or no script: nothing of an item is executed, and no reference is printed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchmill.errors import InvalidUsage, ItemFailed
from batchmill.worker.shell_script import ShellScript
from batchmill.worker.template import Grammar, Task

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
TRAP = "PWNED"
LIMIT = 10.0
_GRAMMAR = Grammar(with_fields=False)
_HOSTILE = [
    f"$(touch {TRAP})", f"`touch {TRAP}`", f";touch {TRAP};", f"\n touch {TRAP}\n#", f"' touch {TRAP} '",
    f'" ; touch {TRAP} ; "', f"a[$(touch {TRAP})]", f"|touch {TRAP}", f"&& touch {TRAP}", f")touch {TRAP};(",
    f"\nE\ntouch {TRAP}\n", f"${{x:-$(touch {TRAP})}}", f"}}; touch {TRAP}; {{", "*", "~", "$HOME", "\\", "\\\\'", "#",
    "!!", "-n", "\x81\x88", "caf\udce9", "{}", "%s", "  ", "\t", "=", "<<E", "$_item_1", "${_item_1}",
]  # fmt: skip
_SOUP = [
    "printf '%s\n' ", "{}", '"{}"', "{/}", "'", '"', "`", "\\", "$(", ")", "(", "${x:-", "}", " ", "\n", "# ", "; ",
    "| cat", "<<E\n", "<<'E'\n", "<<-E\n", "\nE\n", "$((", "))", "((", "x={} ", "case a in a) ", ";; esac", "[[ ",
    " -eq 1 ]]", "f() { ", "; }; f ", "$'", "a[{}]=1", "if :; then ", "; fi", "&& ", "> /dev/null ", "<<<",
    "$", "{",
]  # fmt: skip
_NOTHING = ["# it's {} \"\n:", ": {} # don't {}", ': "#" {}']
_PARTS = [
    ("{}", "\0"), ('"{}"', "\0"), ("'a b'{}'c'", "a b\0c"), ('"a {} b"', "a \0 b"), ('\\"', '"'), ("'\"'", '"'),
    ('"it\'s {}"', "it's \0"), ('"\\"{}\\$"', '"\0$'), ("\\'{}", "'\0"), ("-{}-", "-\0-"), ("'`'", "`"),
    ("'#'", "#"),
]  # fmt: skip
_AROUND = {
    4: ("{\n", "\n} | cat"),
    5: ("(\n", "\n)"),
    6: ("{\n", "\n}"),
    7: ("f() {\n", "\n}\nf y"),
    8: ("if :; then\n", "\nfi"),
    9: ("for i in 1; do\n", "\ndone"),
    10: ("set -- y z\n", ""),
    11: ('x="$(\n', '\n)"; printf "%s\\n" "$x"'),
}


@dataclass(frozen=True)
class Odd:
    """A script that did what it should not."""

    words: list[str]
    status: str
    said: str


def case(number: int, seed: int, folder: Path) -> Iterator[Odd]:
    """Make and run one script with one item, in each shell; what is wrong."""
    dice = random.Random(f"{seed} {number}")
    item = "".join(dice.choice(_HOSTILE) for _ in range(dice.randint(1, 3))).rstrip("\n") or "x"
    script, expected = _sentences(dice, 2, "") if number % 2 else (_soup(dice), None)
    try:
        words = ShellScript(script, _GRAMMAR).fill(Task(item, b"", 1))
    except ItemFailed:
        return
    except InvalidUsage as refused:
        if expected is not None:
            yield Odd([script], "refused", str(refused))
        return
    for shell in SHELLS:
        yield from _run(shell, words, script, item, expected, folder)


def _run(
    shell: str, words: list[bytes], script: str, item: str, expected: str | None, folder: Path
) -> Iterator[Odd]:  # fmt: skip
    said = [shell, script, item]
    printed = _printed([shell, "-c", *words], folder)
    if printed is None:
        yield from [] if expected is None else [Odd(said, "it hangs", "")]  # soup may well call itself for ever
        return
    if os.path.exists(folder / TRAP):
        os.unlink(folder / TRAP)
        yield Odd(said, "the item was executed", "")
    if expected is None:
        if b"_item_1}" in printed and "_item_1" not in item:
            yield Odd(said, "a reference was printed", repr(printed))
    elif printed != expected.replace("\0", item).encode("utf-8", "surrogateescape"):
        yield Odd(said, "the item was changed", repr(printed))


def _printed(words: list[str | bytes], folder: Path) -> bytes | None:
    """What they print; None where they do not end."""
    process = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, process_group=0)  # fmt: skip
    try:
        return process.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def _soup(dice: random.Random) -> str:
    return "".join(dice.choice(_SOUP) for _ in range(dice.randint(2, 14))) + dice.choice(["", " {}", "\n: {}"])


def _sentences(dice: random.Random, depth: int, inside: str) -> tuple[str, str]:
    """Some sentences, and what they print, NUL being the item; `inside` is what they stand in."""
    made = [_sentence(dice, depth, inside) for _ in range(dice.randint(1, 3))]
    return "\n".join(script for script, _ in made), "".join(printed for _, printed in made)


def _sentence(dice: random.Random, depth: int, inside: str) -> tuple[str, str]:
    kind = dice.randrange(12 if depth else 4)
    if kind <= 2:
        word, value = _word(dice, depth)
        return dice.choice([f"printf '%s\\n' {word}", f"x={word}; printf '%s\\n' \"$x\""]), value + "\n"
    if kind == 3:
        return dice.choice(_NOTHING), ""
    if kind == 4 and inside != "$(":
        dash, tab = dice.choice([("", ""), ("-", "\t")])
        return f'cat <<{dash}E\nit\'s "{{}}" {{}}\n{tab}E', 'it\'s "\0" \0\n'
    script, printed = _sentences(dice, depth - 1, inside if kind != 11 else "$(")
    before, after = _AROUND[kind]
    return before + script + after, printed.rstrip("\n") + "\n" if kind == 11 else printed


def _word(dice: random.Random, depth: int) -> tuple[str, str]:
    chosen = [dice.choice(_PARTS) for _ in range(dice.randint(1, 4))]
    if depth and dice.random() < 0.3:
        word, value = _word(dice, depth - 1)
        chosen.append((f'"$(printf %s {word})"', value))
    return "".join(word for word, _ in chosen), "".join(value for _, value in chosen)
