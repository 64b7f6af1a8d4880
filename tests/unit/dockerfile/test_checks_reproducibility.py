"""The checks of our own: for each rule what it objects to, and next to it what it must leave alone."""

from __future__ import annotations

import pytest

from contain.dockerfile import parse_dockerfile
from contain.dockerfile.checks import RULES, Finding, Group, Severity, check_dockerfile

_DIGEST = "sha256:" + "a" * 64
_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_OWN = [rule for rule in RULES if rule.group is Group.REPRODUCIBILITY]


def _find(rule: str, text: str) -> tuple[Finding, ...]:
    body = text if text.startswith("FROM") or "\nFROM" in text else f"FROM scratch\n{text}"
    return check_dockerfile(parse_dockerfile(body + "\n"), rules=[each for each in RULES if each.name == rule])


OBJECTED = (
    ("FloatingBase", "FROM debian"),
    ("FloatingBase", "FROM debian:bookworm"),
    ("FloatingBase", "ARG TAG=3.11\nFROM python:$TAG"),
    ("FloatingBase", "FROM host"),
    ("FloatingBase", "COPY --from=busybox /bin/sh /sh"),
    ("FloatingBase", "RUN --mount=type=bind,from=alpine:3,target=/a true"),
    ("UnverifiedAdd", "ADD https://example.org/a.tar.gz /"),
    ("UnverifiedAdd", "ADD https://github.com/a/b.git#main /"),
    ("FloatingAptPackage", "RUN apt-get install -y curl"),
    ("FloatingAptPackage", "RUN DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y git=1 curl"),
    ("FloatingAptPackage", "RUN sudo -E apt install -y -t bookworm-backports curl"),
    ("FloatingAptPackage", 'RUN ["apt-get", "install", "-y", "curl"]'),
    ("FloatingAptPackage", "RUN bash -exo pipefail -c 'apt-get update && apt-get install -y curl'"),
    ("FloatingAptPackage", "RUN <<EOF\nset -e\napt-get update\napt-get install -y curl\nEOF"),
    ("FloatingAptPackage", "RUN <<EOF\n#!/bin/bash -e\napt-get install -y curl\nEOF"),
    ("FloatingAptPackage", "RUN bash <<EOF\napt-get install -y curl\nEOF"),
    ("FloatingAptPackage", "RUN if true; then apt-get install -y curl; fi"),
    ("FloatingAptPackage", "ONBUILD RUN apt-get install -y curl"),
    ("FloatingApkPackage", "RUN apk add --no-cache curl"),
    ("FloatingApkPackage", "RUN apk add --no-cache 'curl>8'"),
    ("FloatingApkPackage", "RUN apk --no-cache add -t .build gcc musl-dev=1.2.4-r2"),
    ("FloatingDnfPackage", "RUN dnf install -y curl"),
    ("FloatingDnfPackage", "RUN yum -y install httpd"),
    ("FloatingDnfPackage", "RUN microdnf install nodejs"),
    ("FloatingPipPackage", "RUN pip install requests"),
    ("FloatingPipPackage", "RUN pip3 install --no-cache-dir 'requests>=2' flask==3.0.0"),
    ("FloatingPipPackage", "RUN python3.11 -m pip install --upgrade pip"),
    ("FloatingPipPackage", "RUN uv pip install requests"),
    ("FloatingPipPackage", "RUN pip install git+https://github.com/a/b.git@main"),
    ("FloatingPipPackage", "RUN pip install requests==2.*"),
    ("FloatingNpmPackage", "RUN npm install -g typescript"),
    ("FloatingNpmPackage", "RUN npm i typescript@latest"),
    ("FloatingNpmPackage", "RUN yarn global add @angular/cli"),
    ("FloatingNpmPackage", "RUN npm install -g @angular/cli@17"),
    ("FloatingGemPackage", "RUN gem install bundler"),
    ("FloatingGoPackage", "RUN go install golang.org/x/tools/gopls@latest"),
    ("FloatingCargoPackage", "RUN cargo install ripgrep"),
    ("UnlockedDependencies", "RUN npm install"),
    ("UnlockedDependencies", "RUN npm install --production"),
    ("UnlockedDependencies", "RUN yarn"),
    ("UnlockedDependencies", "RUN yarn install"),
    ("UnlockedDependencies", "RUN pnpm install"),
    ("UnlockedDependencies", "RUN bundle install"),
    ("UnlockedDependencies", "RUN cargo build --release"),
    ("UnlockedDependencies", "RUN uv sync"),
    ("UnlockedDependencies", "RUN composer update"),
    ("PipWithoutHashes", "RUN pip install -r requirements.txt"),
    ("PipWithoutHashes", "RUN python -m pip install --no-cache-dir --requirement=r.txt"),
    ("SystemUpgrade", "RUN apt-get update && apt-get upgrade -y"),
    ("SystemUpgrade", "RUN apt-get -y dist-upgrade"),
    ("SystemUpgrade", "RUN apk upgrade --no-cache"),
    ("SystemUpgrade", "RUN yum -y update"),
    ("SystemUpgrade", "RUN dnf upgrade -y"),
    ("StalePackageIndex", "RUN apt-get install -y curl"),
    ("StalePackageIndex", "RUN apt-get install -y curl && apt-get update"),
    ("StalePackageIndex", "RUN apt-get update"),
    ("StalePackageIndex", "RUN apt-get update && rm -rf /tmp/x"),
    ("AptListsKept", "RUN apt-get update && apt-get install -y curl"),
    ("AptListsKept", "RUN apt-get update && apt-get install -y curl && rm -rf /tmp/*"),
    ("AptListsKept", "RUN --mount=type=cache,target=/var/cache/apt apt-get update && apt-get install -y curl"),
    ("PackageCacheKept", "RUN apk add curl"),
    ("PackageCacheKept", "RUN pip install requests"),
    ("PackageCacheKept", "RUN dnf install -y curl"),
    ("PipeToShell", "RUN curl -sSL https://example.org/x | sh"),
    ("PipeToShell", "RUN curl -sSL https://example.org/x | sudo -E bash -"),
    ("PipeToShell", "RUN wget -qO- https://example.org/x | gunzip | bash -s -- --yes"),
    ("PipeToShell", 'RUN sh -c "$(curl -fsSL https://example.org/x)"'),
    ("PipeToShell", "RUN bash <(curl -s https://example.org/x)"),
    ("PipeToShell", "RUN curl -sSL https://example.org/x | python3 -"),
    ("PipeToShell", 'RUN eval "$(curl https://example.org/x)"'),
    ("UnverifiedDownload", "RUN curl -O https://example.org/a.tgz"),
    ("UnverifiedDownload", "RUN curl -fsSLo /a.tgz https://example.org/a.tgz && tar xf /a.tgz"),
    ("UnverifiedDownload", "RUN wget https://example.org/a.tgz"),
    ("UnverifiedDownload", "RUN curl https://example.org/a.tgz | tar xz -C /"),
    ("UnverifiedDownload", "RUN curl https://example.org/a.key > /etc/a.key"),
    ("FloatingGit", "RUN git clone https://example.org/a.git"),
    ("FloatingGit", "RUN git clone --depth 1 -b v1 https://example.org/a.git && cd a && make"),
    ("TimeAndChance", "RUN date > /built"),
    ("TimeAndChance", "RUN echo $(date +%s) > /built"),
    ("TimeAndChance", "RUN echo `date` > /built"),
    ("TimeAndChance", "RUN openssl rand -hex 32 > /key"),
    ("TimeAndChance", "RUN head -c 16 /dev/urandom > /seed"),
    ("TimeAndChance", "RUN echo $RANDOM > /seed"),
    ("TimeAndChance", "RUN uuidgen > /etc/machine-id"),
)

ACCEPTED = (
    ("FloatingBase", f"FROM debian@{_DIGEST}"),
    ("FloatingBase", f"FROM debian:bookworm@{_DIGEST} AS a\nFROM a\nCOPY --from=a /x /x\nCOPY --from=0 /x /x"),
    ("FloatingBase", "FROM scratch"),
    ("FloatingBase", "FROM $UNKNOWN"),
    ("UnverifiedAdd", f"ADD --checksum={_DIGEST} https://example.org/a.tar.gz /"),
    ("UnverifiedAdd", f"ADD https://github.com/a/b.git#{_COMMIT} /"),
    ("UnverifiedAdd", "ADD a.tar.gz /"),
    ("FloatingAptPackage", "RUN apt-get install -y curl=7.88.1-10+deb12u8 ./local.deb /tmp/other.deb $PACKAGES vim-"),
    ("FloatingAptPackage", "RUN apt-get update; apt-get clean; apt-get remove -y curl"),
    ("FloatingAptPackage", "RUN echo apt-get install curl"),
    ("FloatingAptPackage", "RUN apt-get install -y git=1 # curl"),
    ("FloatingAptPackage", 'SHELL ["powershell", "-command"]\nRUN apt-get install curl'),
    ("FloatingAptPackage", "RUN <<EOF\n#!/usr/bin/env python3\napt-get install -y curl\nEOF"),
    ("FloatingAptPackage", "RUN cat > /install.sh <<EOF\napt-get install -y curl\nEOF"),
    ("FloatingApkPackage", "RUN apk add --no-cache curl=8.5.0-r0 'git~=2'"),
    ("FloatingDnfPackage", "RUN dnf install -y curl-7.76.1-29.el9"),
    ("FloatingPipPackage", "RUN pip install -r requirements.txt"),
    ("FloatingPipPackage", "RUN pip install --no-deps . ./wheels/a.whl -e .[dev]"),
    ("FloatingPipPackage", "RUN pip install -c constraints.txt requests"),
    ("FloatingPipPackage", f"RUN pip install requests==2.32.3 git+https://github.com/a/b.git@{_COMMIT}"),
    ("FloatingPipPackage", 'RUN pip install "requests[socks]==2.32.3"'),
    ("FloatingNpmPackage", "RUN npm install -g typescript@5.6.3 @angular/cli@17.0.1"),
    ("FloatingNpmPackage", "RUN npm ci && npm run build"),
    ("FloatingGemPackage", "RUN gem install bundler -v 2.5.22"),
    ("FloatingGemPackage", "RUN gem install bundler:2.5.22"),
    ("FloatingGoPackage", "RUN go install ./cmd/... && go install golang.org/x/tools/gopls@v0.16.2"),
    ("FloatingCargoPackage", "RUN cargo install --locked --version 14.1.1 ripgrep"),
    ("UnlockedDependencies", "RUN npm ci"),
    ("UnlockedDependencies", "RUN npm install -g typescript"),
    ("UnlockedDependencies", "RUN yarn install --frozen-lockfile"),
    ("UnlockedDependencies", "RUN yarn --immutable"),
    ("UnlockedDependencies", "RUN cargo build --release --locked"),
    ("PipWithoutHashes", "RUN pip install --require-hashes -r requirements.txt"),
    ("PipWithoutHashes", "ENV PIP_REQUIRE_HASHES=1\nRUN pip install -r requirements.txt"),
    ("PipWithoutHashes", "RUN pip install requests"),
    ("SystemUpgrade", "RUN apt-get update && apt-get install -y upgrade-tool"),
    ("SystemUpgrade", "RUN pip install --upgrade pip"),
    ("SystemUpgrade", "RUN yum -y update curl"),
    ("StalePackageIndex", "RUN apt-get update && apt-get install -y curl"),
    ("StalePackageIndex", "RUN apt-get update && ./install-everything.sh"),
    ("StalePackageIndex", "RUN apt-get install -y ./a.deb"),
    ("AptListsKept", "RUN apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*"),
    ("AptListsKept", "RUN apt-get update && apt-get install -y curl; rm -rf /tmp/* /var/lib/apt/lists /var/cache/apt"),
    ("AptListsKept", "RUN apt-get update; apt-get install -y curl; apt-get dist-clean"),
    ("AptListsKept", "RUN --mount=type=cache,target=/var/lib/apt apt-get update && apt-get install -y curl"),
    ("PackageCacheKept", "RUN apk add --no-cache curl"),
    ("PackageCacheKept", "RUN --mount=type=cache,target=/root/.cache pip install requests"),
    ("PackageCacheKept", "ENV PIP_NO_CACHE_DIR=1\nRUN pip install requests"),
    ("PackageCacheKept", "RUN dnf install -y curl && dnf clean all"),
    ("PipeToShell", "RUN curl -sSL https://example.org/x | tar xz"),
    ("PipeToShell", "RUN curl -sSL https://example.org/x -o x && sha256sum -c x.sum && sh x"),
    ("PipeToShell", "RUN curl https://example.org/x | python3 -c 'import json'"),
    ("PipeToShell", "HEALTHCHECK CMD curl -f http://localhost/ | sh"),
    ("UnverifiedDownload", "RUN curl -O https://example.org/a.tgz && echo 'aa  a.tgz' | sha256sum -c -"),
    ("UnverifiedDownload", "RUN wget https://example.org/a https://example.org/a.asc && gpg --verify a.asc a"),
    ("UnverifiedDownload", "RUN curl -fsS https://example.org/health"),
    ("UnverifiedDownload", "RUN curl -o /dev/null https://example.org/health"),
    ("UnverifiedDownload", "RUN wget -qO- https://example.org/health"),
    ("FloatingGit", f"RUN git clone https://example.org/a.git && git -C a checkout {_COMMIT}"),
    ("FloatingGit", "RUN git clone https://example.org/a.git && cd a && git checkout $COMMIT"),
    ("TimeAndChance", 'RUN date -u -d "@$SOURCE_DATE_EPOCH" > /built'),
    ("TimeAndChance", "RUN echo update the date"),
)


@pytest.mark.parametrize(("rule", "text"), OBJECTED)
def test_a_rule_objects(rule: str, text: str) -> None:
    assert [finding.rule.name for finding in _find(rule, text)] == [rule]


@pytest.mark.parametrize(("rule", "text"), ACCEPTED)
def test_a_rule_leaves_alone_what_is_right(rule: str, text: str) -> None:
    assert _find(rule, text) == ()


def test_every_rule_has_a_case_that_it_objects_to_and_one_that_it_leaves_alone() -> None:
    names = {rule.name for rule in _OWN}
    assert {rule for rule, _ in OBJECTED} == {rule for rule, _ in ACCEPTED} == names


def test_rules_of_our_own_are_notes_so_that_a_file_that_docker_accepts_is_accepted() -> None:
    assert {rule.severity for rule in _OWN} == {Severity.NOTE}


def test_the_place_is_the_command_and_not_the_whole_run() -> None:
    text = "FROM scratch\nRUN apt-get update && \\\n# a comment\n    apt-get install -y curl \\\n    && rm -rf /var/lib/apt/lists/*\n"
    (finding,) = _find("FloatingAptPackage", text)
    span = finding.span
    assert (span.line, span.end_line, span.column, span.length) == (4, 4, 5, len("apt-get install -y curl"))
    (heredoc,) = _find("FloatingAptPackage", "FROM scratch\nRUN <<EOF\nset -e\n  apt-get install -y curl\nEOF\n")
    assert (heredoc.span.line, heredoc.span.column) == (4, 3)
    assert heredoc.span.text == "  apt-get install -y curl"


def test_the_packages_that_float_are_named() -> None:
    (finding,) = _find("FloatingAptPackage", "RUN apt-get install -y git=1 curl vim less tree jq")
    assert finding.message == "apt-get installs whatever version there is of curl, vim, less and 2 more"


def test_a_comment_above_the_run_waives_a_rule_of_our_own() -> None:
    assert _find("FloatingAptPackage", "FROM scratch\n# check=skip=FloatingAptPackage\nRUN apt-get install curl") == ()
    assert _find("FloatingAptPackage", "# check=skip=FloatingAptPackage\nFROM scratch\nRUN apt-get install curl") == ()
