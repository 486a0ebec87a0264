"""What is secret is told by its name or place, and shown to nobody but the function."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_kit import batchmill, shell

from batchmill.codec.outcomes import pack_map
from batchmill.errors import InvalidUsage
from batchmill.plan import make_plan
from batchmill.secrecy import Secrets, hide, is_secret, learn, mask_script, mask_words
from batchmill.settings import Settings
from batchmill.text import MAX_MESSAGE, describe

SECRETS = ("sesame99", "geheim77", "hunter22", "klaus555")


def test_a_name_is_of_a_secret_by_one_of_its_words() -> None:
    secret = [
        *(
            "password",
            "db_password",
            "PGPASSWORD",
            "passwd",
            "secret",
            "clientSecret",
            "token",
            "AUTH_TOKEN",
            "--password",
        ),
        *("accessToken", "api_key", "apikey", "X-Api-Key", "access_key", "privateKey", "credential", "credentials"),
        *("auth", "oauth", "Authorization", "db_pass", "ssh_key"),
    ]
    plain = [
        *("tokens", "max_tokens", "tokens_per_s", "token_count", "tokenizer", "token_url", "author", "authority", "n"),
        *("secretary", "key", "keys", "monkey", "primary_key", "pass_rate", "passes", "compass", "password_file", ""),
    ]
    assert [name for name in (*secret, *plain) if is_secret(name)] == secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp://user:p@ss:w@host:1/x?n=1", "tcp://user:***@host:1/x?n=1"),
        ("https://ghp_1234@host/x?api_key=a1b2&n=1", "https://***@host/x?api_key=***&n=1"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("host=db password='a b' user=me", "host=db password='***' user=me"),
        ('{"password": "a\\"b", "n": 1}', '{"password": "***", "n": 1}'),
        ("f(1, token='abc', n=2)", "f(1, token='***', n=2)"),
        ("unexpected token: x; auth:login; token == 1", "unexpected token: x; auth:login; token == 1"),
        ('curl -H "Authorization: Bearer abc" {}', 'curl -H "Authorization: ***" {}'),
        ("curl -H 'Authorization: Bearer $T' --token $(cat t) {url}", None),
        ("PGPASSWORD=x psql --password abc --pass '{}'", "PGPASSWORD=*** psql --password *** --pass '{}'"),
    ],
)
def test_in_a_text_it_is_told_by_its_place_and_what_stands_for_one_stays(text: str, shown: str | None) -> None:
    assert mask_script(text) == (text if shown is None else shown)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("curl -u me:pw -H X-Api-Key:abc {}", "curl -u me:*** -H X-Api-Key:*** {}"),
        ("docker run -u 10:10 --secret abc --auth {} auth:1", "docker run -u 10:10 --secret *** --auth {} auth:1"),
        ("tool --max-tokens 5 --api-key=a=b --password-file f", "tool --max-tokens 5 --api-key=*** --password-file f"),
    ],
)  # fmt: skip
def test_so_it_is_in_the_words_of_a_command(words: str, shown: str) -> None:
    assert mask_words(words.split()) == shown.split()


def test_a_word_is_masked_to_its_end_and_a_script_in_one_is_looked_into() -> None:
    words = ["sh", "-c", "mysql --password=a -e x", "--password=a b", "Authorization: Basic a b"]
    assert mask_words(words) == ["sh", "-c", "mysql --password=*** -e x", "--password=***", "Authorization: ***"]


_LONG = """
from batchmill.secrecy import hide, is_secret, learn, mask_words
learn(["sesame"])
for piece in ("=", "token=", "://", ":/a@", "pass", "key", " -a", "--token ", "token='", 'token="\\\\\\\\',
              "password: ", "'\\"", "Authorization: \\"", "http://a:", "aA", "$(", "{", "https://", "token = ",
              "-", "password-"):
    text = piece * (250_000 // len(piece)) + " "
    mask_words(["-x", text]), is_secret(text), hide(text)
"""


def test_a_long_text_is_gone_through_once_whatever_it_is() -> None:
    """Quadratic, each of these would take minutes."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    ended = subprocess.run(
        [sys.executable, "-c", _LONG], preexec_fn=bounded, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_a_value_that_is_known_is_hidden_in_every_form_and_a_short_one_is_left() -> None:
    learn(["a'b c\n", {"deep": [12345678]}, "xy"])
    assert hide("a'b c\n a'b c\\n a%27b%20c%0A 12345678 xy") == "*** *** *** *** xy"


def test_a_secret_that_a_long_message_is_cut_in_is_hidden_before() -> None:
    learn(["sesame99"])
    told = describe(ValueError("x" * (MAX_MESSAGE - 4) + "sesame99" + "x" * 100))
    assert "ses" not in told.message + told.traceback


def test_what_is_kept_of_secrets_tells_other_ones_and_is_no_more_than_16_bits() -> None:
    kept = Secrets({"a": b"1", "b": b"2"}).seal(b"salt")
    assert Secrets({"b": b"2", "a": b"1"}).agrees(kept)
    assert not any(
        Secrets(other).agrees(kept) for other in ({"a": b"1"}, {"a": b"1", "b": b"3"}, {"a": b"12", "b": b""}, {})
    )
    assert not Secrets({"a": b"1"}).agrees(None)
    assert Secrets().agrees(None)
    assert len(kept["digest"]) == 2


@dataclass
class Config:
    user: str
    password: str


class Login(NamedTuple):
    user: str
    token: str


def test_values_of_every_shape_are_looked_into_before_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "hunter22")
    kwargs = {"token": 12345678, "config": Config("me", "sesame99"), "login": [Login("me", "geheim77")], "auth": True,
              "deep": {"headers": {"X-Api-Key": "klaus555"}}, "tokens": 5}  # fmt: skip
    settings = Settings(set_env={"greeting": "GREETING"}, set={"db": "pg://me:geheim77@host"})
    plan = make_plan("json:loads", [], items=[1], settings=settings, kwargs=kwargs, checkpoint="x.ckpt")
    assert plan.kwargs["greeting"] == "hunter22"
    meta = plan.meta()
    packed = pack_map(meta)
    assert not [secret for secret in (*SECRETS, "12345678") if secret.encode() in packed]
    assert (meta["set"]["tokens"], meta["set"]["auth"], meta["set"]["token"]) == (5, True, "***")
    assert meta["set"]["config"] == {"user": "me", "password": "***"}
    assert "sesame99" not in repr(plan.secrets)


def test_what_is_no_variable_is_refused_and_what_may_be_the_secret_itself_is_not_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(InvalidUsage, match=r"set_env token: the variable NOT_THERE is not set; export NOT_THERE"):
        make_plan("json:loads", [], items=[1], settings=Settings(set_env={"token": "NOT_THERE"}), no_checkpoint=True)
    with pytest.raises(InvalidUsage) as refused:
        make_plan("json:loads", [], items=[1], settings=Settings(set_env={"token": "ghp_sesame99"}), no_checkpoint=True)
    assert "sesame99" not in str(refused.value)
    with pytest.raises(InvalidUsage, match="both give token"):
        Settings(set={"token": 1}, set_env={"token": "X"})


FUNCTION = """
def f(item, token, db, greeting, cfg):
    assert (token, db, greeting, cfg) == ("sesame99", "pg://me:geheim77@host", "hunter22", {"api_key": "klaus555"})
    if item == "bad":
        raise ValueError(f"cannot log in to {db} with {token!r}, {greeting} and {cfg}")
    print("item", item)
    return item
"""
SET = ("--set", "token=sesame99", "--set=db=pg://me:geheim77@host", "--set", 'cfg={"api_key": "klaus555"}')
ENV = {"WORD": "hunter22"}


def test_a_run_leaves_its_secrets_nowhere_and_the_line_to_continue_works(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    (tmp_path / "a.txt").write_text("good\nbad\n")
    run = ("run", "f.py:f", "a.txt", "-c", "x.ckpt", *SET, "--set-env", "greeting=WORD")
    ended = batchmill(*run, "-v", "--json", "--metrics", "m.prom", cwd=tmp_path, env=ENV)
    assert ended.returncode == 1, ended.stderr
    page = batchmill("report", "x.ckpt", "-o", "page.html", cwd=tmp_path)
    readers = (["status"], ["status", "--json"], ["failures", "--json"], ["verify", "--json"])
    said = [ended, page, *(batchmill(*words, "x.ckpt", cwd=tmp_path) for words in readers)]
    texts = [text for one in said for text in (one.stdout, one.stderr)]
    files = [(tmp_path / name).read_text("latin-1") for name in ("x.ckpt", "page.html", "m.prom")]
    assert not [(secret, text) for secret in SECRETS for text in [*texts, *files] if secret in text]
    assert "cannot log in to pg://me:***@host with '***', *** and {'api_key': '***'}" in ended.stderr
    assert all("***" in text for text in (ended.stdout, said[3].stdout, files[1]))

    (line,) = re.findall(r"^continue +(.*)", ended.stderr, re.MULTILINE)
    (other,) = re.findall(r"^continue +(.*)", said[2].stdout, re.MULTILINE)
    assert "--set-env greeting=WORD" in line
    unset = shell(f"{other} --dry-run", tmp_path, **ENV)
    assert (unset.returncode, "variable TOKEN is not set" in unset.stderr) == (2, True), unset.stderr
    secrets = {**ENV, "TOKEN": "sesame99", "DB": "pg://me:geheim77@host", "CFG": '{"api_key": "klaus555"}'}
    for pasted in (line, other):
        again = shell(f"{pasted} --dry-run", tmp_path, **secrets)
        assert (again.returncode, '"done": 1, ' in again.stdout or "1 done, 1 failed" in again.stdout) == (0, True)
    changed = shell(f"{line} --dry-run", tmp_path, **{**secrets, "WORD": "other"})
    assert (changed.returncode, "another value" in changed.stderr, "other" in changed.stdout) == (78, True, False)


def test_so_it_is_with_the_words_of_a_command(tmp_path: Path) -> None:
    command = (
        "--",
        "sh",
        "-c",
        'echo "$@" >&2; exit 3',
        "sh",
        "--password=sesame99",
        "-H",
        "Authorization: Bearer geheim77",
    )
    run = ("exec", "a.txt", "-c", "x.ckpt", "--resume")
    (tmp_path / "a.txt").write_text("1\n")
    ended = batchmill(*run, *command, cwd=tmp_path)
    told = batchmill("status", "--json", "x.ckpt", cwd=tmp_path)
    texts = [ended.stderr.partition("batchmill: ")[2], told.stdout, (tmp_path / "x.ckpt").read_text("latin-1")]
    assert not [(secret, text) for secret in SECRETS for text in texts if secret in text]
    assert "exit status 3: --password=*** -H Authorization: *** 1" in ended.stderr
    assert batchmill(*run, "--dry-run", *command, cwd=tmp_path).returncode == 0
    other = [word.replace("sesame99", "klaus555") for word in command]
    assert batchmill(*run, "--dry-run", *other, cwd=tmp_path).returncode == 78


def test_try_gets_the_value_and_hides_it_too(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(item, token):\n    raise ValueError(token)\n")
    (tmp_path / "a.txt").write_text("1\n")
    ended = batchmill("try", "f.py:f", "a.txt", "--set-env", "token=WORD", cwd=tmp_path, env=ENV)
    assert (ended.returncode, "ValueError: ***" in ended.stderr) == (1, True), ended.stderr


def test_a_password_in_the_address_of_a_cluster_is_said_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n")
    run = ("run", "json:loads", "a.txt", "--cluster", "tcp://me:geheim77@127.0.0.1:1", "--no-checkpoint")
    refused, told = batchmill(*run, cwd=tmp_path), batchmill(*run, "--dry-run", "--json", cwd=tmp_path)
    assert ("tcp://me:***@" in refused.stderr, "tcp://me:***@" in told.stdout) == (True, True), refused.stderr
    assert "geheim77" not in refused.stderr + told.stdout
