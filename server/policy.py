"""Which versions of a model to serve: `latest:2`, or `latest:2;digits=all;pets=specific:1,3`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from server.errors import ConfigError

USUAL = "latest:2"
_RULE = re.compile(r"latest:[1-9]\d{0,8}|all|specific:\d{1,18}(,\d{1,18})*")
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9_-][A-Za-z0-9._-]{0,127})=(?P<rule>.*)", re.S)


@dataclass(frozen=True)
class Rule:
    """What one model's versions are measured against; `text` is how it was written."""

    text: str
    latest: int | None = None
    specific: frozenset[int] | None = None

    def wants(self, version: int, newer: int) -> bool:
        """Whether to serve a version, given how many newer ones are served."""
        if self.specific is not None:
            return version in self.specific
        return self.latest is None or newer < self.latest


@dataclass(frozen=True)
class Policy:
    """A rule for every model: its own, or the one for all others."""

    others: Rule
    named: Mapping[str, Rule]

    def of(self, model: str) -> Rule:
        """The rule of a model."""
        return self.named.get(model, self.others)


def parse(text: str) -> Policy:
    """The policy from its text: rules with `;` between them, one of them at most without `MODEL=` before it.

    ConfigError names the part that is wrong and what it may be.
    """
    others, named = list[Rule](), dict[str, Rule]()
    for part in map(str.strip, text.split(";")):
        match = _NAMED.fullmatch(part)
        rule = _rule(match["rule"].strip() if match else part, text)
        if not match:
            others.append(rule)
        elif named.setdefault(match["name"], rule) is not rule:
            raise ConfigError(f"version_policy is {text!r}; it has two rules for {match['name']!r}")
    if len(others) > 1:
        raise ConfigError(
            f"version_policy is {text!r}; it has {len(others)} rules without a name: put MODEL= before all but one"
        )
    return Policy(others[0] if others else _rule(USUAL, text), named)


def _rule(rule: str, text: str) -> Rule:
    if not _RULE.fullmatch(rule):
        part = "" if rule == text else f", in which {rule!r} is wrong"
        raise ConfigError(
            f"version_policy is {text!r}{part}; it must be latest:N, all or specific:V,V…, "
            "or several of them: latest:2;MODEL=all;MODEL=specific:1,3"
        )
    kind, _, value = rule.partition(":")
    if kind == "latest":
        return Rule(rule, latest=int(value))
    if kind == "specific":
        return Rule(rule, specific=frozenset(map(int, value.split(","))))
    return Rule(rule)
