"""The talk with a shell that completes a command line: its script, and the answers to it.

The script calls the program with `_BATCHMILL_COMPLETE` set to the shell's name, and with what stands before the cursor
as arguments (bash: the line and its last word; zsh, fish: the words). Each line of the answer is a kind, a value and a
help, tabs between them; the kinds are those of `paths`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from batchmill_cli.options.paths import FILES, WORD
from batchmill_cli.terminal import stdio

VARIABLE = "_BATCHMILL_COMPLETE"
KINDS = {"plain": WORD, "file": FILES, "dir": FILES}  # click's own words
_SPECIAL = re.compile(r"[^\w%+,./:=@~-]")

# bash takes ":" and "=" for ends of words: values are cut down to what stands behind the last of these.
BASH = """\
_batchmill_complete() {
    local kind value help
    COMPREPLY=()
    while IFS=$'\\t' read -r kind value help; do
        case $kind in
            files) compopt -o default ;;
            checkpoints)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -d -- "$2"; compgen -f -X '!*.ckpt' -- "$2") ;;
            open) compopt -o nospace; COMPREPLY+=("$value") ;;
            word) COMPREPLY+=("$value") ;;
        esac
    done < <(_BATCHMILL_COMPLETE=bash "$1" "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
}
complete -o nosort -F _batchmill_complete batchmill
"""

ZSH = """\
#compdef batchmill
_batchmill() {
    local line kind value help
    local -a words_ open_
    for line in "${(@f)$(_BATCHMILL_COMPLETE=zsh $words[1] "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        IFS=$'\\t' read -r kind value help <<< "$line"
        case $kind in
            files) [[ $PREFIX == --*=* ]] && compset -P '*='; _files ;;
            checkpoints) [[ $PREFIX == --*=* ]] && compset -P '*='; _files -g '*.ckpt' ;;
            open) open_+=("$value") ;;
            word) words_+=("${value//:/\\\\:}${help:+:$help}") ;;
        esac
    done
    (( $#open_ )) && compadd -S '' -- $open_
    (( $#words_ )) && _describe -V batchmill words_
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _batchmill "$@"
else
    compdef _batchmill batchmill
fi
"""

FISH = """\
function __batchmill_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' "$current")
    set -l path (string replace -r -- '^--[^=]*=' '' "$current")
    for line in (env _BATCHMILL_COMPLETE=fish $words[1] $words[2..-1] "$current" 2>/dev/null)
        set -l parts (string split -m 2 \\t -- $line)
        switch $parts[1]
            case files
                printf '%s\\n' "$option"(__fish_complete_path "$path")
            case checkpoints
                printf '%s\\n' "$option"(__fish_complete_suffix "$path" .ckpt)
            case '*'
                printf '%s\\t%s\\n' $parts[2] $parts[3]
        end
    end
end
complete --no-files --keep-order --command batchmill --arguments "(__batchmill_complete)"
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def answer(program: click.Command, shell: str, arguments: Sequence[str]) -> int:
    """Print what may stand where the cursor is; the exit status."""
    if shell == "bash":
        line, last = arguments
        words, prefix = _bash_words(line, last)
    else:
        words, prefix = list(arguments), ""
    *before, begun = words or [""]
    found = ShellComplete(program, {}, "batchmill", VARIABLE).get_completions(before, begun)
    lines = (_bash_line(item, prefix) if shell == "bash" else _line(item) for item in _whole(found, begun))
    stdio.print_data("\n".join(filter(None, lines)))
    return 0


def _bash_words(line: str, last: str) -> tuple[list[str], str]:
    """The words of a line up to the cursor, and the part of the last one that bash takes for words of their own."""
    words = split_arg_string(line)[1:]
    if not words or (line[-1:].isspace() and not line.endswith("\\ ")):
        return [*words, ""], ""
    begun = words[-1]
    ends = begun.endswith(last) and last not in (":", "=")
    return words, begun[: len(begun) - len(last)] if ends else begun


def _whole(found: Iterable[CompletionItem], begun: str) -> list[CompletionItem]:
    """The items with the `--option=` that click leaves out of their values, where that is how the word begins."""
    name, equals, _ = begun.partition("=")
    if not (equals and name.startswith("--")):
        return list(found)
    return [CompletionItem(f"{name}={item.value}", type=item.type, help=item.help) for item in found]


def _line(item: CompletionItem) -> str:
    """An item as the scripts read it; "" for a name that no line can hold."""
    help = " ".join((item.help or "").split())
    return f"{KINDS.get(item.type, item.type)}\t{item.value}\t{help}" if item.value.isprintable() else ""


def _bash_line(item: CompletionItem, prefix: str) -> str:
    """An item for bash, which shows no help, and takes a word as it would be typed behind `prefix`."""
    if item.value.startswith(prefix):
        value = _SPECIAL.sub(r"\\\g<0>", item.value.removeprefix(prefix))
        return _line(CompletionItem(value, type=item.type))
    return ""
